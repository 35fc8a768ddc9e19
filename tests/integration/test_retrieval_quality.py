"""Whether retrieval is right: against brute force, against a reference BM25, and whether both ways together find more.

What is asked about, and how, says tests/heldout.py. Nothing here was chosen by the half that is reported.
"""

import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from importlib.util import find_spec
from pathlib import Path

import pytest
from heldout import NAMES, Collection, Half, collection, mean_reciprocal_rank, recall
from postgreskit import own_schema
from pydantic import SecretStr

from worker.providers.inference import EmbeddingRequest
from worker.providers.memory import Bank, BankKind, Chunk, Document, Found, MemoryProvider, Mode, Search
from worker.providers.memory_base import fused
from worker.providers.memory_pgvector import PgvectorMemory
from worker.providers.memory_pgvector_config import PgvectorConfig
from worker.providers.memory_sqlite import SqliteMemory, SqliteMemoryConfig
from worker.providers.scripted_embedding import scripted_embedding
from worker.providers.wordllama import MODEL, WordllamaConfig, WordllamaInference

SEEDS = (1, 2, 3, 4, 5)
DIMENSIONS = 256
MODES: tuple[Mode, ...] = ("vector", "keyword", "hybrid")
Embed = Callable[[Sequence[str]], list[list[float]]]
Vectors = dict[str, list[float]]


def scripted(texts: Sequence[str]) -> list[list[float]]:
    return [scripted_embedding(text) for text in texts]


@pytest.fixture(scope="module")
def model() -> Iterator[Embed]:
    """The inline model, in its child."""
    if find_spec("wordllama") is None:
        pytest.skip("wordllama is not installed: pip install 'turnstone[embeddings]'")
    provider = WordllamaInference(provider_id="it", config=WordllamaConfig())
    yield lambda texts: provider.embed(EmbeddingRequest(model=MODEL, texts=texts))
    provider.close()


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqliteMemory]:
    path: Path = tmp_path_factory.mktemp("quality") / "memory.sqlite3"
    provider = SqliteMemory(provider_id="it", config=SqliteMemoryConfig(path=str(path)))
    yield provider
    provider.close()


class Indexed:
    """A collection in a bank of its own."""

    def __init__(self, memory: MemoryProvider, name: str, texts: Collection, embed: Embed) -> None:
        self._memory = memory
        self.texts = texts
        self.bank = Bank(
            identifier=name,
            resource_id=name,
            kind=BankKind.VECTOR,
            embedding_model="e",
            embedding_dimension=DIMENSIONS,
        )
        self.vectors: Vectors = dict(zip(texts.passages, embed(list(texts.passages.values())), strict=True))
        self.asked = embed([query for _, query in texts.queries])
        memory.register_memory_bank(self.bank)
        chunks = {
            title: Chunk(content=text, token_count=100, embedding=self.vectors[title])
            for title, text in texts.passages.items()
        }
        documents = [Document(document_id=title, chunks=[chunk]) for title, chunk in chunks.items()]
        memory.put(self.bank, documents, writer=memory.begin(self.bank))

    def search(self, number: int, mode: Mode, limit: int) -> list[Found]:
        text = self.texts.queries[number][1]
        search = Search(text=text, embedding=self.asked[number], mode=mode, limit=limit)
        return self._memory.search(self.bank, search)

    def ranks(self, mode: Mode) -> list[int | None]:
        """Where each query's passage stands, among the first fifty."""
        ranks: list[int | None] = []
        for number, (title, _) in enumerate(self.texts.queries):
            found = [one.document_id for one in self.search(number, mode, 50)]
            ranks.append(found.index(title) + 1 if title in found else None)
        return ranks


def measured(memory: SqliteMemory, called: str, embed: Embed) -> dict[Mode, tuple[float, float]]:
    """Recall@5 and the mean reciprocal rank of the held-out half, by mode."""
    ranks: dict[Mode, list[int | None]] = {mode: [] for mode in MODES}
    for name in NAMES:
        for seed in SEEDS:
            one = Indexed(memory, f"{called}-{name}-{seed}", collection(name, Half.HELD_OUT, seed), embed)
            for mode in MODES:
                ranks[mode] += one.ranks(mode)
            memory.unregister_memory_bank(one.bank.resource_id)
    found = {mode: (recall(ranks[mode]), mean_reciprocal_rank(ranks[mode])) for mode in MODES}
    for mode, (within_five, reciprocal) in found.items():
        sys.stdout.write(
            f"{called} {mode}: recall@5 {within_five:.3f}, MRR {reciprocal:.3f}, {len(ranks[mode])} queries\n"
        )
    return found


@pytest.fixture(scope="module", params=["sqlite", "pgvector"])
def genesis(request: pytest.FixtureRequest) -> Iterator[Indexed]:
    """One collection, embedded by letters: to compare ways of searching it takes no model."""
    with ExitStack() as stack:
        provider: MemoryProvider
        if request.param == "sqlite":
            provider = request.getfixturevalue("memory")
        else:
            url = request.getfixturevalue("postgres_url")
            config = PgvectorConfig(url=SecretStr(url), schema=stack.enter_context(own_schema(url)))
            provider = stack.enter_context(closing(PgvectorMemory(provider_id="it", config=config)))
        yield Indexed(provider, "genesis", collection("genesis", Half.HELD_OUT, 1), scripted)


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def reference_bm25(passages: dict[str, str], query: str) -> dict[str, float]:
    """By Robertson and Zaragoza (2009), k1 = 1.2, b = 0.75, with the inverse document frequency that FTS5 documents."""
    texts = {title: re.findall(r"\w+", text.lower()) for title, text in passages.items()}
    average = sum(map(len, texts.values())) / len(texts)
    scores: dict[str, float] = {}
    for word in dict.fromkeys(re.findall(r"\w+", query.lower())):
        having = sum(word in words for words in texts.values())
        weight = max(math.log((len(texts) - having + 0.5) / (having + 0.5)), 1e-6)
        for title, words in texts.items():
            count = Counter(words)[word]
            if count:
                length = 1.2 * (1 - 0.75 + 0.75 * len(words) / average)
                scores[title] = scores.get(title, 0.0) + weight * count * 2.2 / (count + length)
    return scores


def test_vector_search_finds_what_brute_force_finds(genesis: Indexed) -> None:
    hits = 0
    for number, wanted in enumerate(genesis.asked):
        best = sorted(-cosine(vector, wanted) for vector in genesis.vectors.values())[:5]
        scores = [one.score for one in genesis.search(number, "vector", 5)]
        hits += sum(abs(score + true) < 1e-4 for score, true in zip(scores, best, strict=True))
    within_five = hits / (5 * len(genesis.asked))
    sys.stdout.write(f"recall@5 of vector search against brute force: {within_five:.4f}\n")
    assert within_five == 1.0


def test_words_are_ranked_as_by_a_reference_bm25(genesis: Indexed) -> None:
    for number in range(0, len(genesis.asked), 4):
        reference = reference_bm25(genesis.texts.passages, genesis.texts.queries[number][1])
        found = genesis.search(number, "keyword", 20)
        # Words that are in most chunks have a millionth of weight, and SQLite is not asked for them.
        assert [one.score for one in found] == pytest.approx(sorted(reference.values(), reverse=True)[:20], rel=1e-5)
        assert all(one.score == pytest.approx(reference[one.document_id], rel=1e-5) for one in found)


def test_meaning_and_words_together_find_more_than_either_and_earlier(memory: SqliteMemory, model: Embed) -> None:
    found = measured(memory, MODEL, model)
    for metric in (0, 1):
        assert found["hybrid"][metric] > max(found["vector"][metric], found["keyword"][metric])


def test_an_embedding_that_knows_little_costs_little(memory: SqliteMemory) -> None:
    found = measured(memory, "scripted", scripted)
    assert found["hybrid"] > found["vector"]
    # By reciprocal rank fusion it lost three times as much.
    assert found["hybrid"][0] > found["keyword"][0] - 0.05


def listed(**scores: float) -> list[Found]:
    chunk = Chunk(content="c", token_count=1)
    return [Found(document_id=name, position=0, chunk=chunk, score=score) for name, score in scores.items()]


def order(*lists: list[Found]) -> str:
    return "".join(one.document_id for one in fused(lists))


def test_what_alone_has_the_words_comes_first() -> None:
    alike = {chr(ord("a") + number): 0.5 - number / 1000 for number in range(20)}
    assert order(listed(**alike), listed(z=4.0))[0] == "z"


def test_a_list_in_which_all_are_alike_changes_nothing() -> None:
    assert order(listed(a=0.3, b=0.3, c=0.3), listed(c=3.0, b=2.0, a=1.0)) == "cba"
    assert order(listed(a=0.3, b=0.2, c=0.1), listed(c=2.0, b=2.0, a=2.0)) == "abc"


def test_one_list_or_none_is_enough() -> None:
    assert order(listed(a=0.3, b=0.2), []) == "ab"
    assert order([], listed(a=3.0, b=2.0)) == "ab"
    assert order([], []) == ""
    assert order(listed(a=0.5), []) == "a"


def test_how_scores_are_scaled_does_not_matter() -> None:
    meaning, words = listed(a=0.9, b=0.5, c=0.4), listed(b=8.0, d=3.0, c=1.0)
    scaled = listed(b=800.0, d=300.0, c=100.0)
    plain = [one.score for one in fused([meaning, words])]
    assert [one.score for one in fused([meaning, scaled])] == pytest.approx(plain)
    assert order(meaning, words)[0] == "b"
