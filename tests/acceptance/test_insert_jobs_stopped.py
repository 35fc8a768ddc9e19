"""Insert jobs whose worker is stopped with documents in hand, or whose API dies before it has answered."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
from chaos.memory_file import chunks_in
from failpoints.points import FOLDER, arm
from rooms import DEADLINE_S, Room, Rooms
from stack import Json
from waiting import wait_for

from shared.queues import MEMORY_QUEUE

HERE = Path(__file__).resolve().parent.parent / "failpoints"
API = (sys.executable, "-m", "gunicorn", "-c", "python:api.gunicorn_conf", "failing_api:app")
STOPPING = (sys.executable, str(HERE / "stopping_worker.py"))
BANK = {"memory_bank_id": "b", "type": "keyword"}


@dataclass(kw_only=True)
class Place:
    """An API that may be told to die, and workers for turns and calls; those for insert jobs come with the tests."""

    rooms: Rooms
    http: httpx.Client
    folder: Path

    def memory_worker(self, *, stops: bool = False) -> Room:
        return self.rooms.worker(queue=MEMORY_QUEUE, launcher=STOPPING if stops else None)

    def stopped_worker(self) -> tuple[Room, str]:
        """A worker that stands right before it puts a document, and its job."""
        (self.folder / "before_the_put").touch(exist_ok=False)
        worker = self.memory_worker(stops=True)
        job_id = self.insert("price 10")
        stopped = psutil.Process(worker.pid)
        wait_for(lambda: stopped.status() == psutil.STATUS_STOPPED, "it is stopped", seconds=DEADLINE_S)
        return worker, job_id

    def insert(self, text: str, **headers: str) -> str:
        body = {"bank_id": "b", "documents": [{"document_id": "d", "content": text}]}
        answer = self.http.post("/memory/insert", json=body, headers=headers)
        assert answer.status_code == 202, answer.text
        job_id: str = answer.json()["job_id"]
        return job_id

    def ended(self, job_id: str) -> Json:
        def job() -> Json:
            found: Json = self.http.get(f"/jobs/{job_id}", params={"wait": 10}, timeout=30).json()
            return found

        wait_for(lambda: job()["completed_at"] is not None, "the job has ended", seconds=2 * DEADLINE_S)
        return job()

    def stored(self) -> list[tuple[str, int, str]]:
        banks, strays = chunks_in(self.folder / "memory.sqlite3")
        assert strays == []
        return [(one["document_id"], one["position"], one["content"]) for one in banks["b"]]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    memory = {"path": str(tmp_path / "memory.sqlite3")}
    config = {
        "providers": {"memory": [{"provider_id": "m", "provider_type": "inline::sqlite", "config": memory}]},
        "turns": {"lease_s": 2},
    }
    environ = {FOLDER: str(tmp_path), "PYTHONPATH": f"{HERE.parent.parent}:{HERE}"}
    with Rooms(tmp_path, config, environ=environ) as rooms:
        api, worker = rooms.api(launcher=API), rooms.worker()
        rooms.calls_worker()
        rooms.until_healthy(api, worker)
        with httpx.Client(base_url=f"{api.url}/v1", timeout=DEADLINE_S) as http:
            registered = http.post("/memory-banks", json=BANK)
            assert registered.status_code == 200, registered.text
            yield Place(rooms=rooms, http=http, folder=tmp_path)


@pytest.mark.timeout(240)
def test_what_a_stopped_worker_has_in_hand_does_not_undo_a_later_job(place: Place) -> None:
    stopped, first = place.stopped_worker()
    place.memory_worker()

    assert place.ended(first)["status"] == "completed"
    assert place.ended(place.insert("price 20"))["status"] == "completed"
    stopped.go_on()
    wait_for((place.folder / "went_on").exists, "it has put what it had in hand", seconds=DEADLINE_S)
    stopped.terminate()
    stopped.wait()

    assert place.stored() == [("d", 0, "price 20")]
    job = place.ended(first)
    assert (job["done"], job["attempts"]) == (1, 2)


@pytest.mark.timeout(240)
def test_what_a_stopped_worker_has_in_hand_does_not_come_into_a_bank_made_anew(place: Place) -> None:
    stopped, first = place.stopped_worker()

    assert place.http.delete("/memory-banks/b").status_code == 204
    assert place.http.post("/memory-banks", json=BANK).status_code == 200
    stopped.go_on()
    job = place.ended(first)

    assert (job["status"], job["error"]["code"]) == ("failed", "memory_bank_not_found")
    assert place.stored() == []
    assert place.ended(place.insert("price 20"))["status"] == "completed"
    assert place.stored() == [("d", 0, "price 20")]


@pytest.mark.timeout(240)
def test_a_request_that_comes_again_after_its_api_died_finds_its_job(place: Place) -> None:
    arm(place.folder, "after_the_accept")
    with pytest.raises(httpx.TransportError):
        place.insert("price 10", **{"Idempotency-Key": "k"})
    place.memory_worker()

    def again() -> httpx.Response:
        body = {"bank_id": "b", "documents": [{"document_id": "d", "content": "price 10"}]}
        return place.http.post("/memory/insert", json=body, headers={"Idempotency-Key": "k"})

    def is_taken() -> bool:
        try:
            return again().status_code == 202
        except httpx.TransportError:
            return False  # gunicorn has not replaced the process yet

    # While the mark of the request that was at work stands, it says so.
    wait_for(is_taken, "the key is free again", seconds=2 * DEADLINE_S)
    job_id = again().json()["job_id"]

    assert place.ended(job_id)["status"] == "completed"
    assert [one["job_id"] for one in place.http.get("/jobs").json()["data"]] == [job_id]
    assert place.stored() == [("d", 0, "price 10")]
