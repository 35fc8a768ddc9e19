"""The look into memory that precedes a reply, in the real turn loop: each kind of bank, and what may go wrong in it."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.event import Event as Signal
from turnkit import Bench, turn_bench

from shared.errors import ProviderError
from shared.ids import TurnRef, new_token
from worker.interrupts import CancelAsked, Interrupts
from worker.memory.embedding import Embedder
from worker.memory.retrieving import Retriever
from worker.memory.service import Memory
from worker.providers.memory import Bank, BankKind, Chunk, Document, Found, Search
from worker.providers.memory_sqlite import SqliteMemory, SqliteMemoryConfig
from worker.turn import TurnRun

Json = dict[str, Any]


class Kept(SqliteMemory):
    """The embedded provider, which does `before` first when it is searched, and notes the questions."""

    before: Callable[[], None] = staticmethod(lambda: None)
    asked: list[Search]

    def search(self, bank: Bank, search: Search) -> list[Found]:
        self.asked.append(search)
        self.before()
        return super().search(bank, search)


class OneEmbedding(Embedder):
    """Everything means the same: what is tested here is not how well texts are told apart."""

    def __init__(self) -> None:
        """It asks no router."""

    def one(self, model: str, text: str, *, tenant: str) -> list[float]:
        return [1.0, 0.0]


def bank_of(kind: BankKind) -> Bank:
    vectors: Json = {"embedding_model": "e", "embedding_dimension": 2} if kind is BankKind.VECTOR else {}
    return Bank(identifier=kind, resource_id=kind, kind=kind, **vectors)


def document(kind: BankKind) -> Document:
    chunk = Chunk(content=f"{kind} of Lima", token_count=3, embedding=[1.0, 0.0] if kind is BankKind.VECTOR else None)
    return Document(document_id=f"d-{kind}", chunks=[chunk], entities=["lima"] if kind is BankKind.GRAPH else ())


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    kept = Kept(provider_id="it", config=SqliteMemoryConfig(path=str(tmp_path / "memory.sqlite3")))
    kept.asked = []
    for kind in BankKind:
        bank = bank_of(kind)
        kept.register_memory_bank(bank)
        kept.put(bank, [document(kind)], writer=kept.begin(bank))
    yield kept
    kept.close()


@pytest.fixture
def bench(redis_url: str, key_prefix: str, kept: Kept) -> Iterator[Bench]:
    with turn_bench(redis_url, key_prefix) as bench:
        memory = Memory(find=lambda tenant, name: (kept, bank_of(BankKind(name))), embedder=OneEmbedding())
        retriever = Retriever(memory=memory, router=bench.tools.router)
        looking = replace(bench.tools.looking, retriever=retriever)
        yield replace(bench, tools=replace(bench.tools, looking=looking))


def submit(bench: Bench, *banks: Json, text: str = "Lima", **more: Any) -> TurnRef:
    return bench.submit(text, memory={"memory_bank_configs": list(banks), **more})


def events(bench: Bench, ref: TurnRef) -> list[str]:
    return [entry.event_type for entry in bench.kit.reader.all_entries(ref)]


def looked(bench: Bench, ref: TurnRef) -> Json:
    """The one step of the turn that looked into memory."""
    steps = bench.turn(ref)["steps"]
    assert [step["step_type"] for step in steps] == ["memory_retrieval", "inference"]
    step: Json = steps[0]
    return step


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"bank_id": "vector"}, "anything"),
        ({"bank_id": "vector", "type": "vector", "mode": "keyword"}, "Lima"),
        ({"bank_id": "vector", "mode": "hybrid"}, "Lima"),
        ({"bank_id": "keyword"}, "of lima"),
        ({"bank_id": "keyvalue"}, "d-keyvalue"),
        ({"bank_id": "keyvalue", "keys": ["d-keyvalue"]}, "anything"),
        ({"bank_id": "graph"}, "Lima"),
        ({"bank_id": "graph", "entities": ["LIMA"]}, "anything"),
    ],
)
def test_a_bank_of_each_kind_is_looked_into(bench: Bench, config: Json, text: str) -> None:
    ref = submit(bench, config, text=text)
    bench.run(ref)

    step = looked(bench, ref)
    assert [one["document_id"] for one in step["citations"]] == [f"d-{config['bank_id']}"]
    assert f"{config['bank_id']} of Lima" in step["inserted_context"]


def test_banks_of_all_kinds_are_looked_into_at_once(bench: Bench) -> None:
    banks = [{"bank_id": kind.value} for kind in (BankKind.VECTOR, BankKind.KEYWORD, BankKind.GRAPH)]
    ref = submit(bench, *banks, {"bank_id": "keyvalue", "keys": ["d-keyvalue"]})
    bench.run(ref)

    step = looked(bench, ref)
    assert sorted(one["bank_id"] for one in step["citations"]) == sorted(BankKind)
    assert step["vector_db_ids"] == "vector,keyword,graph,keyvalue"


@pytest.mark.parametrize(
    ("config", "query"),
    [
        ({}, "Lima"),
        ({"type": "default"}, "Lima"),
        ({"type": "custom", "query": "of Lima"}, "of Lima"),
        ({"type": "llm", "model": "scripted"}, "echo"),
        ({"type": "llm", "model": "scripted", "template": "Search for this:"}, "echo"),
        ({"type": "llm", "model": "scripted", "template": "<{messages}>"}, "echo"),
    ],
)
def test_the_query_is_made_as_the_agent_says(bench: Bench, kept: Kept, config: Json, query: str) -> None:
    ref = submit(bench, {"bank_id": "keyword"}, query_generator_config=config)
    bench.run(ref)

    step = looked(bench, ref)
    assert [one.text for one in kept.asked] == [step["query"]]
    if query != "echo":
        assert step["query"] == query
    else:  # the scripted model says what it was asked
        template = config.get("template") or "Reply with one short query"
        assert "user: Lima" in step["query"] and template.partition("{")[0] in step["query"]
        assert "{messages}" not in step["query"]


def test_a_message_without_a_text_asks_nothing_of_banks_that_are_searched_by_it(bench: Bench, kept: Kept) -> None:
    ref = submit(bench, {"bank_id": "vector"}, {"bank_id": "keyword"}, text=" ")
    bench.run(ref)

    assert looked(bench, ref)["citations"] == [] and kept.asked == []
    assert bench.turn(ref)["status"] == "completed"


def test_no_more_chunks_are_shown_than_the_agent_says(bench: Bench) -> None:
    ref = submit(bench, {"bank_id": "vector"}, {"bank_id": "keyword"}, max_chunks=1)
    bench.run(ref)

    assert len(looked(bench, ref)["citations"]) == 1


def test_a_bank_that_is_gone_ends_the_turn_with_what_to_do(bench: Bench, kept: Kept) -> None:
    ref = submit(bench, {"bank_id": "keyword"})
    kept.unregister_memory_bank("keyword")
    bench.run(ref)

    turn = bench.turn(ref)
    assert (turn["status"], turn["error"]["code"]) == ("failed", "memory_bank_not_found")
    assert "'keyword'" in turn["error"]["message"] and "Register it again" in turn["error"]["message"]
    assert events(bench, ref)[-2:] == ["step_start", "turn_failed"]


def test_a_provider_that_is_down_ends_the_turn_with_its_name_and_reason(bench: Bench, kept: Kept) -> None:
    def down() -> None:
        raise ProviderError("Provider 'it' cannot be reached. Start it.", provider_id="it", code="memory_unavailable")

    kept.before = down
    ref = submit(bench, {"bank_id": "keyword"}, {"bank_id": "vector"})
    bench.run(ref)

    error = bench.turn(ref)["error"]
    assert error == {
        "code": "memory_unavailable",
        "message": "Provider 'it' cannot be reached. Start it.",
        "provider_id": "it",
    }


@pytest.mark.parametrize("banks", [["keyword"], ["keyword", "vector", "graph"]])
def test_a_turn_is_canceled_in_the_middle_of_a_slow_look(bench: Bench, kept: Kept, banks: list[str]) -> None:
    begun, never = Signal(), Signal()
    kept.before = lambda: (begun.set(), never.wait())[0]
    ref = submit(bench, *({"bank_id": name} for name in banks))
    claim = bench.tools.log.claim(ref, token=new_token(), worker="w")
    interrupts = Interrupts()
    running = gevent.spawn(TurnRun(claim=claim, tools=bench.tools, interrupts=interrupts).run)
    assert begun.wait(10)

    interrupts.ask(CancelAsked())

    running.get(timeout=10)
    turn = bench.turn(ref)
    assert turn["status"] == "canceled"
    assert [step["step_type"] for step in turn["steps"]] == ["memory_retrieval"]


def test_a_look_that_its_worker_did_not_finish_is_made_anew_and_counts_once(bench: Bench, kept: Kept) -> None:
    begun, go_on = Signal(), Signal()
    kept.before = lambda: (begun.set(), go_on.wait())[0]
    ref = submit(bench, {"bank_id": "keyword"})
    token = new_token()
    claim = bench.tools.log.claim(ref, token=token, worker="stopped")
    stopped = gevent.spawn(TurnRun(claim=claim, tools=bench.tools, interrupts=Interrupts()).run)
    assert begun.wait(10)
    wait_until(lambda: events(bench, ref)[-1] == "step_start")

    bench.tools.log.release(ref, token=token)  # as a lapsed lease would be taken away
    kept.before = lambda: None
    bench.run(ref)
    go_on.set()
    stopped.get(timeout=10)

    looked(bench, ref)
    told = events(bench, ref)
    assert (told.count("step_abandoned"), told.count("turn_complete")) == (1, 1)
    assert told.count("step_complete") == 2  # one look, one reply
    assert bench.turn(ref)["status"] == "completed"


def wait_until(condition: Callable[[], bool]) -> None:
    with gevent.Timeout(10):
        while not condition():
            gevent.sleep(0.01)
