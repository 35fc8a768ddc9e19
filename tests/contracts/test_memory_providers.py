"""What inserting and retrieving may rely on from every memory provider.

A provider of your own is tested too where TURNSTONE_TEST_MEMORY_TYPE names it, by its import path or type, with
TURNSTONE_TEST_MEMORY_CONFIG, a JSON object, as its `config`. In there `{folder}` stands for an empty folder and
`{name}` for a name, both new for each test: a test begins with an empty store.
"""

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from postgreskit import own_schema

from shared.errors import ConfigError, ProviderError
from shared.runconfig import ProviderInstance, Providers, RunConfig
from worker.providers.instances import build_memory
from worker.providers.memory import Bank, BankKind, Chunk, Document, Found, MemoryProvider, Search

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_provider"
YOURS = os.environ.get("TURNSTONE_TEST_MEMORY_TYPE", "")


def built(provider_type: str, config: dict[str, Any], *, provider_id: str = "it") -> MemoryProvider:
    instance = ProviderInstance(provider_id=provider_id, provider_type=provider_type, config=config)
    return build_memory(RunConfig(providers=Providers(memory=(instance,))))[provider_id]


def built_yours(folder: Path) -> MemoryProvider:
    config = os.environ.get("TURNSTONE_TEST_MEMORY_CONFIG", "{}")
    config = config.replace("{folder}", str(folder)).replace("{name}", f"t{secrets.token_hex(6)}")
    return built(YOURS, json.loads(config), provider_id="yours")


@pytest.fixture(params=["sqlite", "pgvector", "pgvector with hnsw", "example", *(["yours"] if YOURS else [])])
def provider(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[MemoryProvider]:
    with ExitStack() as stack:
        if request.param == "sqlite":
            provider = built("inline::sqlite", {"path": str(tmp_path / "sub" / "memory.sqlite3")})
        elif request.param == "example":
            monkeypatch.syspath_prepend(EXAMPLE)
            provider = built("my_company.notes:NotesMemory", {"path": str(tmp_path / "sub" / "notes")})
        elif request.param == "yours":
            provider = built_yours(tmp_path)
        else:
            url = request.getfixturevalue("postgres_url")
            more = {"index": "hnsw"} if request.param == "pgvector with hnsw" else {}
            provider = built("remote::pgvector", {"url": url, "schema": stack.enter_context(own_schema(url)), **more})
        stack.callback(provider.close)
        yield provider


def bank_of(provider: MemoryProvider, kind: BankKind, name: str = "bank", **more: Any) -> Bank:
    """A registered bank; a vector bank has two dimensions. A provider of your own may refuse a kind."""
    vectors = {"embedding_model": "e", "embedding_dimension": 2} if kind is BankKind.VECTOR else {}
    bank = Bank(identifier=name, resource_id=name, kind=kind, **{**vectors, **more})
    try:
        return provider.register_memory_bank(bank)
    except ProviderError as error:
        if provider.provider_id == "yours" and error.code == "memory_bank_refused" and not more:
            pytest.skip(f"no {kind} banks: {error.message}")
        raise


def document(name: str, *texts: str, vectors: Any = None, metadata: Any = None, **more: Any) -> Document:
    chunks = [
        Chunk(content=text, token_count=len(text.split()), metadata=metadata or {}, embedding=vector)
        for text, vector in zip(texts, vectors or [None] * len(texts), strict=True)
    ]
    return Document(document_id=name, chunks=chunks, **more)


def put(provider: MemoryProvider, bank: Bank, documents: list[Document]) -> None:
    """By a writer who begins now."""
    provider.put(bank, documents, writer=provider.begin(bank))


def ids(found: list[Found]) -> list[tuple[str, int]]:
    return [(one.document_id, one.position) for one in found]


def test_registering_again_keeps_what_is_there_and_another_bank_is_refused(provider: MemoryProvider) -> None:
    bank = bank_of(provider, BankKind.KEYWORD)
    put(provider, bank, [document("d", "words")])

    assert bank_of(provider, BankKind.KEYWORD) == bank
    assert ids(provider.search(bank, Search(text="words"))) == [("d", 0)]
    with pytest.raises(ProviderError) as caught:
        bank_of(provider, BankKind.VECTOR)
    assert caught.value.code == "memory_bank_taken"


@pytest.mark.parametrize("dimension", [None, 0, 10_000])
def test_a_vector_bank_needs_a_dimension_that_can_be_kept(provider: MemoryProvider, dimension: int | None) -> None:
    with pytest.raises(ProviderError) as caught:
        bank_of(provider, BankKind.VECTOR, embedding_dimension=dimension)
    assert caught.value.code == "memory_bank_refused"


def test_a_bank_that_is_deleted_is_gone_with_all_that_was_in_it(provider: MemoryProvider) -> None:
    bank, other = bank_of(provider, BankKind.KEYWORD), bank_of(provider, BankKind.KEYWORD, "other")
    for one in (bank, other):
        put(provider, one, [document("d", "words")])

    provider.unregister_memory_bank("bank")
    provider.unregister_memory_bank("bank")

    for use in (lambda: provider.search(bank, Search(text="words")), lambda: put(provider, bank, [])):
        with pytest.raises(ProviderError) as caught:
            use()
        assert caught.value.code == "memory_bank_not_found"
    assert ids(provider.search(other, Search(text="words"))) == [("d", 0)]
    assert ids(provider.search(bank_of(provider, BankKind.KEYWORD), Search(text="words"))) == []


@pytest.mark.parametrize("kind", list(BankKind))
def test_putting_twice_leaves_a_document_there_once_and_the_last_of_an_id_counts(
    provider: MemoryProvider, kind: BankKind
) -> None:
    bank = bank_of(provider, kind)
    old = document("d", "first words", "more words", vectors=[[1, 0], [0, 1]], entities=["x"])
    new = document("d", "second thoughts", vectors=[[1, 0]], entities=["x"])
    for _ in range(2):
        put(provider, bank, [old, new])

    search = Search(text="words thoughts", keys=["d"], entities=["x"], embedding=[1, 0], mode="keyword")
    found = provider.search(bank, search)

    assert ids(found) == [("d", 0)]
    assert found[0].chunk.content == "second thoughts"


def test_a_put_with_one_wrong_document_stores_none(provider: MemoryProvider) -> None:
    bank = bank_of(provider, BankKind.VECTOR)
    good, wrong = document("good", "words", vectors=[[1, 0]]), document("wrong", "words", vectors=[[1, 0, 0]])
    with pytest.raises(ProviderError) as caught:
        put(provider, bank, [good, wrong])
    assert caught.value.code == "embedding_dimension_mismatch"
    assert provider.search(bank, Search(text="words")) == []


def test_vectors_are_found_by_their_angle(provider: MemoryProvider) -> None:
    bank = bank_of(provider, BankKind.VECTOR)
    vectors = {"east": [1, 0], "north-east": [5, 5], "north": [0, 0.1], "west": [-1, 0]}
    put(provider, bank, [document(name, name, vectors=[vector]) for name, vector in vectors.items()])

    found = provider.search(bank, Search(embedding=[2, 0], mode="vector", limit=3))

    assert ids(found) == [("east", 0), ("north-east", 0), ("north", 0)]
    assert [one.score for one in found] == pytest.approx([1, 0.7071, 0], abs=1e-3)


def test_an_embedding_of_another_length_is_refused(provider: MemoryProvider) -> None:
    bank = bank_of(provider, BankKind.VECTOR)
    with pytest.raises(ProviderError) as caught:
        provider.search(bank, Search(embedding=[1, 0, 0], mode="vector"))
    assert caught.value.code == "embedding_dimension_mismatch"


def test_hybrid_prefers_what_is_found_both_ways(provider: MemoryProvider) -> None:
    bank = bank_of(provider, BankKind.VECTOR)
    put(
        provider,
        bank,
        [
            document("near", "nothing of it", vectors=[[1, 0]]),
            document("both", "rare word", vectors=[[0.9, 0.1]]),
            document("said", "rare rare word", vectors=[[-1, 0]]),
            *(document(f"other{number}", "else", vectors=[[0, 1]]) for number in range(3)),
        ],
    )
    found = provider.search(bank, Search(text="rare word", embedding=[1, 0], mode="hybrid", limit=3))
    assert found[0].document_id == "both"
    assert {one.document_id for one in found} >= {"both", "said"}


@pytest.mark.parametrize(
    "text", ['"', "AND", "a* OR b", "NEAR(a b)", "col:x", "-", "", "   ", "'; DROP TABLE banks; --"]
)
def test_no_words_of_a_query_are_taken_for_a_command(provider: MemoryProvider, text: str) -> None:
    bank = bank_of(provider, BankKind.KEYWORD)
    put(provider, bank, [document("d", "some words")])
    assert provider.search(bank, Search(text=text)) == []


def test_words_are_found_whatever_their_case_and_accents(provider: MemoryProvider) -> None:
    bank = bank_of(provider, BankKind.KEYWORD)
    put(provider, bank, [document("d", "Crème brûlée"), document("e", "日本 語")])
    assert ids(provider.search(bank, Search(text="CREME"))) == [("d", 0)]
    assert ids(provider.search(bank, Search(text="日本"))) == [("e", 0)]


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({}, ["a", "b", "c"]),
        ({"n": 1}, ["a"]),
        ({"n": 1.0}, ["a"]),
        ({"n": True}, ["b"]),
        ({"n": [1, "x"]}, ["a", "c"]),
        ({"n": []}, []),
        ({"n": 1, "topic": "t"}, ["a"]),
        ({"n": 1, "topic": "u"}, []),
        ({"none": 1}, []),
    ],
)
@pytest.mark.parametrize("mode", ["vector", "keyword", "hybrid"])
def test_filters_hold_before_the_best_are_taken(
    provider: MemoryProvider, filters: Any, found: list[str], mode: Any
) -> None:
    bank = bank_of(provider, BankKind.VECTOR)
    values = {"a": 1, "b": True, "c": "x"}
    crowd = [document(f"crowd{n}", "words", vectors=[[1, 0]], metadata={"n": "crowd"}) for n in range(20)]
    own = [
        document(name, "words", vectors=[[0.5, 0.5]], metadata={"n": value, "topic": "t"})
        for name, value in values.items()
    ]
    put(provider, bank, [*(crowd if filters else ()), *own])

    hits = provider.search(bank, Search(text="words", embedding=[1, 0], mode=mode, limit=5, filters=filters))

    assert sorted(one.document_id for one in hits) == found


@pytest.mark.parametrize("kind", list(BankKind))
def test_what_has_expired_is_not_found(provider: MemoryProvider, kind: BankKind) -> None:
    bank = bank_of(provider, kind)
    gone = document("gone", "words", vectors=[[1, 0]], entities=["x"], expires_at=1.0)
    there = document("there", "words", vectors=[[0, 1]], entities=["x"], expires_at=4e9)
    put(provider, bank, [gone, there])
    for mode in ("keyword", "vector"):
        search = Search(text="words", keys=["gone", "there"], entities=["x"], embedding=[1, 0], mode=mode, limit=1)  # type: ignore[arg-type]
        assert ids(provider.search(bank, search)) == [("there", 0)]


def test_keys_are_exact_and_found_in_the_order_of_asking(provider: MemoryProvider) -> None:
    bank = bank_of(provider, BankKind.KEYVALUE)
    put(provider, bank, [document(name, f"value of {name}") for name in ("a", "b", "A")])
    found = provider.search(bank, Search(keys=["b", "none", "a"]))
    assert ids(found) == [("b", 0), ("a", 0)]
    assert {one.score for one in found} == {1.0}


def test_a_graph_is_walked_as_far_as_asked_in_both_directions(provider: MemoryProvider) -> None:
    bank = bank_of(provider, BankKind.GRAPH)
    relations = {"r0": ("Ann", "knows", "Ben"), "r1": ("Ben", "knows", "Cid"), "r2": ("Cid", "knows", "Ann ")}
    put(provider, bank, [document(name, name, relations=[one]) for name, one in relations.items()])
    put(provider, bank, [document("e", "about Eve", entities=["Eve"])])

    near = provider.search(bank, Search(entities=["ANN"], depth=1))

    assert {one.document_id: one.score for one in near} == {"r0": 1.0, "r2": 1.0, "r1": 0.5}
    assert ids(provider.search(bank, Search(entities=["eve"], depth=10))) == [("e", 0)]
    assert provider.search(bank, Search(entities=["nobody"])) == []


def test_documents_that_are_deleted_are_gone(provider: MemoryProvider) -> None:
    bank = bank_of(provider, BankKind.KEYWORD)
    put(provider, bank, [document("a", "words"), document("b", "words")])
    provider.delete(bank, ["a", "never there"])
    assert ids(provider.search(bank, Search(text="words"))) == [("b", 0)]


def test_an_unknown_type_names_those_there_are() -> None:
    instance = ProviderInstance(provider_id="it", provider_type="inline::sqlit", config={})
    with pytest.raises(ConfigError, match="did you mean inline::sqlite"):
        build_memory(RunConfig(providers=Providers(memory=(instance,))))


def test_what_a_later_writer_has_put_stays(provider: MemoryProvider) -> None:
    bank = bank_of(provider, BankKind.KEYWORD)
    early, late = provider.begin(bank), provider.begin(bank)
    assert early < late

    provider.put(bank, [document("both", "newer words")], writer=late)
    provider.put(bank, [document("both", "older words"), document("own", "older words")], writer=early)

    found = provider.search(bank, Search(text="words"))
    assert {one.document_id: one.chunk.content for one in found} == {"both": "newer words", "own": "older words"}


def test_who_began_before_a_bank_was_deleted_finds_it_gone(provider: MemoryProvider) -> None:
    bank = bank_of(provider, BankKind.KEYWORD)
    old = provider.begin(bank)
    provider.unregister_memory_bank("bank")
    bank_of(provider, BankKind.KEYWORD)

    with pytest.raises(ProviderError) as caught:
        provider.put(bank, [document("d", "words")], writer=old)

    assert caught.value.code == "memory_bank_not_found"
    assert provider.begin(bank) > old
    assert provider.search(bank, Search(text="words")) == []
