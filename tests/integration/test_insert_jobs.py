"""Insert jobs in the real turn loop: workers that were stopped for too long, and requests that come again."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from apikit import Api
from turnkit import Bench, turn_bench

from shared.ids import TurnRef, new_token
from worker.interrupts import Interrupt, Interrupts
from worker.journal import Journal
from worker.memory.embedding import Embedder
from worker.memory.inserting import Inserter
from worker.memory.query import text_of
from worker.providers.memory import Bank, BankKind, Document, Search
from worker.providers.memory_sqlite import SqliteMemory, SqliteMemoryConfig
from worker.turn import TurnRun

Json = dict[str, Any]

BANK = Bank(identifier="b", resource_id="b", kind=BankKind.KEYWORD)


class Deaf(Interrupts):
    """Of a process that is stopped: it hears of nothing before it goes on."""

    def ask(self, reason: Interrupt) -> None:
        pass


class Stalling(SqliteMemory):
    """Does `meanwhile`, once, right before it begins or puts: as if its process were stopped there."""

    meanwhile: Any = None
    at = ""
    begun: Any = staticmethod(lambda: None)
    """Called behind each `begin`."""

    def begin(self, bank: Bank) -> int:
        self._stall("begin")
        number = super().begin(bank)
        self.begun()
        return number

    def put(self, bank: Bank, documents: Sequence[Document], *, writer: int) -> None:
        self._stall("put")
        super().put(bank, documents, writer=writer)

    def _stall(self, at: str) -> None:
        if self.at == at:
            self.at = ""
            self.meanwhile()

    def found(self) -> dict[str, str]:
        found = self.search(BANK, Search(text="price", limit=100))
        return {one.document_id: one.chunk.content for one in found}


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Stalling]:
    memory = Stalling(provider_id="it", config=SqliteMemoryConfig(path=str(tmp_path / "memory.sqlite3")))
    memory.register_memory_bank(BANK)
    yield memory
    memory.close()


@pytest.fixture
def bench(redis_url: str, key_prefix: str, memory: Stalling) -> Iterator[Bench]:
    with turn_bench(redis_url, key_prefix) as bench:
        inserter = Inserter(
            sessions=bench.tools.looking.banks,
            find=lambda tenant, name: (memory, BANK),
            embedder=Embedder(router=bench.tools.router),
            read=lambda content, mime_type, *, tenant: text_of(content),
        )
        yield replace(bench, tools=replace(bench.tools, inserter=inserter))


def job(bench: Bench, price: int) -> TurnRef:
    documents = [{"document_id": "d", "content": f"price {price}"}]
    return bench.kit.accept(config={"insert": {"bank_id": "b", "documents": documents}})


def test_a_job_stores_its_documents(bench: Bench, memory: Stalling) -> None:
    ref = job(bench, 10)
    bench.run(ref)
    assert memory.found() == {"d": "price 10"}
    assert bench.turn(ref)["status"] == "completed"


@pytest.mark.parametrize("at", ["begin", "put"])
def test_a_worker_that_was_stopped_for_too_long_cannot_undo_a_later_job(
    bench: Bench, memory: Stalling, at: str
) -> None:
    first = job(bench, 10)
    token = new_token()
    claim = bench.tools.log.claim(first, token=token, worker="stopped")
    journal = Journal(log=bench.tools.log)  # of its own: it is stopped too
    stopped = TurnRun(claim=claim, tools=replace(bench.tools, journal=journal), interrupts=Deaf())

    def meanwhile() -> None:
        bench.tools.log.release(first, token=token)  # as a lapsed lease would be taken away
        bench.run(first)
        bench.run(job(bench, 20))
        if at == "begin":
            memory.begun = journal.start

    memory.meanwhile, memory.at = meanwhile, at
    if at == "put":
        journal.start()  # what precedes it has to land
    stopped.run()
    journal.stop()

    assert memory.at == "", "it was stopped there"
    assert memory.found() == {"d": "price 20"}
    assert bench.turn(first)["status"] == "completed"


def test_what_a_stopped_worker_had_in_hand_does_not_come_into_a_bank_that_was_made_anew(
    bench: Bench, memory: Stalling
) -> None:
    first = job(bench, 10)

    def meanwhile() -> None:
        memory.unregister_memory_bank("b")
        memory.register_memory_bank(BANK)

    memory.meanwhile, memory.at = meanwhile, "put"
    bench.run(first)

    assert memory.found() == {}
    turn = bench.turn(first)
    assert (turn["status"], turn["error"]["code"]) == ("failed", "memory_bank_not_found")


@pytest.fixture
def api(redis_url: str, key_prefix: str) -> Api:
    return Api.on(redis_url, key_prefix)


def insert(api: Api, text: str, key: str | None = "k") -> str:
    body = {"bank_id": "b", "documents": [{"document_id": "d", "content": text}]}
    answer = api.post("/v1/memory/insert", body, **({} if key is None else {"Idempotency_Key": key}))
    assert answer.status_code == 202, answer.text
    return str(answer.json["job_id"])


class Died(BaseException):
    """The process ended there."""


def test_a_request_whose_server_died_behind_its_acceptance_finds_its_job(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(api.services.idempotency, "_keep", die)
        with pytest.raises(Died):
            insert(api, "words")
    listed = [one["job_id"] for one in api.client.get("/v1/jobs").json["data"]]
    api.services.idempotency._forget(key_of(api))  # the mark of a request at work expires

    again = insert(api, "words")

    assert listed == [again]
    assert [one["job_id"] for one in api.client.get("/v1/jobs").json["data"]] == [again]


def key_of(api: Api) -> str:
    """Where the idempotency key lies."""
    key = api.services.idempotency._keys.idempotency("default", "memory/insert", "k")
    assert "result" not in orjson.loads(api.services.idempotency._client.get(key) or b"{}")
    return key


def test_other_keys_bodies_and_requests_without_a_key_are_other_jobs(api: Api) -> None:
    jobs = [insert(api, "words"), insert(api, "words", "other"), insert(api, "words", None), insert(api, "words", None)]
    assert len(set(jobs)) == 4
    assert insert(api, "words") == jobs[0]
