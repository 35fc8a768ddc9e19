"""Documents of turns in the turn loop: where nothing keeps them, where what kept them is lost, and take-overs."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import gevent
import pytest
from turnkit import Bench, NoHints, turn_bench

from shared.errors import StoreError
from shared.ids import TurnRef, new_token
from worker.interrupts import CancelAsked, Interrupts
from worker.memory.contents import Contents
from worker.memory.embedding import Embedder
from worker.memory.inserting import Inserter
from worker.memory.turn_documents import bank_name
from worker.providers.memory_sqlite import SqliteMemory, SqliteMemoryConfig
from worker.turn import TurnRun

Json = dict[str, Any]

LONG = "word " * 150 + "The capital of Peru is Lima. " + "word " * 5_000


class Running(NoHints):
    """Runs insert jobs at once, as a worker of their queue would."""

    def __init__(self) -> None:
        super().__init__()
        self.bench: Bench | None = None

    def send(self, ref: TurnRef) -> None:
        super().send(ref)
        if ref.is_job and self.bench is not None:
            gevent.spawn(self.bench.run, ref)


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[SqliteMemory]:
    memory = SqliteMemory(provider_id="it", config=SqliteMemoryConfig(path=str(tmp_path / "memory.sqlite3")))
    yield memory
    memory.close()


@pytest.fixture
def bench(redis_url: str, key_prefix: str, memory: SqliteMemory) -> Iterator[Bench]:
    with turn_bench(redis_url, key_prefix, memory={"it": memory}) as bench:
        hints = Running()
        looking = replace(bench.tools.looking, hints=hints)
        assert isinstance(looking.read, Contents)
        inserter = Inserter(
            find=bench.catalog.memory_bank,
            sessions=looking.banks,
            embedder=Embedder(router=bench.tools.router),
            read=looking.read,
        )
        hints.bench = replace(bench, tools=replace(bench.tools, inserter=inserter))
        yield replace(bench, tools=replace(bench.tools, looking=looking), hints=hints)


def accepted(bench: Bench, *documents: Json, **more: Any) -> TurnRef:
    return bench.kit.accept(text="capital of Peru", config=bench.config(), documents=list(documents), **more)


def look(bench: Bench, ref: TurnRef) -> Json:
    turn = bench.turn(ref)
    assert turn["status"] == "completed", turn
    return dict(next(step for step in turn["steps"] if step["step_type"] == "memory_retrieval"))


def test_without_a_memory_provider_long_documents_are_shown_whole(redis_url: str, key_prefix: str) -> None:
    with turn_bench(redis_url, key_prefix) as bench:
        ref = accepted(bench, {"content": LONG, "document_id": "long"})
        bench.run(ref)
        assert LONG.strip() in look(bench, ref)["inserted_context"]


def test_without_its_libraries_nothing_is_read_and_that_is_said(bench: Bench) -> None:
    bench = replace(bench, tools=replace(bench.tools, looking=replace(bench.tools.looking, read=None)))
    ref = accepted(bench, {"content": {"uri": "data:text/html,x"}, "document_id": "page"})
    bench.run(ref)
    (failure,) = look(bench, ref)["failures"]
    assert (failure["document_id"], failure["code"]) == ("page", "reader_unavailable")
    assert "turnstone[memory]" in failure["message"]


def test_a_session_whose_bank_is_lost_goes_on_and_says_so(bench: Bench, memory: SqliteMemory) -> None:
    first = accepted(bench, {"content": LONG, "document_id": "long"})
    bench.run(first)
    assert look(bench, first)["citations"][0]["document_id"] == "long"
    _, bank = bench.tools.looking.banks.find(first.session)
    memory.unregister_memory_bank(bank.resource_id)

    later = accepted(bench, session=first.session)
    bench.run(later)

    (failure,) = look(bench, later)["failures"]
    assert (failure["document_id"], failure["code"]) == ("long", "memory_bank_not_found")


def test_a_taker_over_reads_again_and_what_the_lost_worker_put_is_not_found(bench: Bench, tmp_path: Path) -> None:
    ref = accepted(bench, {"content": LONG, "document_id": "long"})
    interrupts = Interrupts()
    token = new_token()
    claim = bench.tools.log.claim(ref, token=token, worker="lost")
    lost = TurnRun(claim=claim, tools=bench.tools, interrupts=interrupts)
    running = gevent.spawn(lost.run)
    hints = bench.hints
    while not hints.sent:
        gevent.sleep(0.01)
    abandoned = bench.kit.reader.state(ref).open_step
    assert abandoned is not None
    running.kill()  # as a process dies: nothing is written any more
    bench.tools.log.release(ref, token=token)

    bench.run(ref)

    step = look(bench, ref)
    assert step["step_id"] != abandoned.step_id
    _, bank = bench.tools.looking.banks.find(ref.session)
    assert {one["document_id"] for one in step["citations"]} == {"long"}
    assert len({one["position"] for one in step["citations"]}) == len(step["citations"])
    assert bank_name(step["step_id"], "long") in stored(tmp_path, bank.resource_id)


def test_a_cancel_ends_the_wait_and_the_job(bench: Bench) -> None:
    assert isinstance(bench.hints, Running)
    bench.hints.bench = None  # nobody takes jobs up
    ref = accepted(bench, {"content": LONG})
    interrupts = Interrupts()
    claim = bench.tools.log.claim(ref, token=new_token(), worker="w")
    running = gevent.spawn(TurnRun(claim=claim, tools=bench.tools, interrupts=interrupts).run)
    while not bench.hints.sent:
        gevent.sleep(0.01)
    interrupts.ask(CancelAsked())
    running.join(5)
    assert bench.turn(ref)["status"] == "canceled"
    assert bench.turn(bench.hints.sent[0])["status"] == "canceled"


def test_a_cancel_while_the_store_is_away_is_a_cancel_all_the_same(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*given: Any, **named: Any) -> Any:
        raise StoreError("The store is away.")

    assert isinstance(bench.hints, Running)
    bench.hints.bench = None
    ref = accepted(bench, {"content": LONG})
    interrupts = Interrupts()
    claim = bench.tools.log.claim(ref, token=new_token(), worker="w")
    running = gevent.spawn(TurnRun(claim=claim, tools=bench.tools, interrupts=interrupts).run)
    while not bench.hints.sent:
        gevent.sleep(0.01)
    monkeypatch.setattr(bench.tools.looking.log, "cancel", away)
    interrupts.ask(CancelAsked())
    running.join(5)
    assert bench.turn(ref)["status"] == "canceled"


def test_banks_of_sessions_that_are_gone_are_swept(bench: Bench, tmp_path: Path) -> None:
    gone, stays = (accepted(bench, {"content": LONG}) for _ in range(2))
    for ref in (gone, stays):
        bench.run(ref)
    banks = bench.tools.looking.banks
    assert banks.sweep(lambda session: session == stays.session) == 1
    assert banks.known(gone.session) is None and banks.known(stays.session) is not None
    assert stored(tmp_path, f"session:/{gone.tenant}/{gone.session_id}") == []
    assert banks.sweep(lambda session: session == stays.session) == 0


def stored(folder: Path, resource_id: str) -> list[str]:
    """The documents in a bank of the provider."""
    wanted = "SELECT d.document_id FROM documents d JOIN banks b ON b.id = d.bank WHERE b.resource_id = ?"
    with closing(sqlite3.connect(folder / "memory.sqlite3")) as connection:
        return [name for (name,) in connection.execute(wanted, (resource_id,))]
