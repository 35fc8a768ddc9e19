"""What an operator sees of insert jobs and of the workers that run them, with the command line, as they come and go."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from rooms import DEADLINE_S, Json, Room, Rooms
from stack_process import free_port
from waiting import wait_for

from shared.queues import MEMORY_QUEUE

TURNSTONE = str(Path(sys.executable).with_name("turnstone"))
NOTHING = "data:application/pdf;base64,JVBERi0="


class Site:
    """Rooms, an HTTP client of their API, and the command line."""

    def __init__(self, rooms: Rooms, api: Room, http: httpx.Client) -> None:
        self.rooms, self.api, self.http = rooms, api, http

    def insert(self, *documents: Json) -> str:
        reply = self.http.post("/memory/insert", json={"bank_id": "words", "documents": documents})
        assert reply.status_code == 202, reply.text
        return str(reply.json()["job_id"])

    def run(self, *arguments: str, code: int = 0) -> "subprocess.CompletedProcess[str]":
        command = [TURNSTONE, *arguments, "--url", self.api.url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, stdin=subprocess.DEVNULL)
        assert done.returncode == code, done.stderr
        return done


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """An API and a worker for turns, which keeps its metrics."""
    memory = {"provider_id": "kept", "provider_type": "inline::sqlite", "config": {"path": str(tmp_path / "m.sqlite3")}}
    config: Json = {
        "providers": {
            "inference": [{"provider_id": "script", "provider_type": "inline::scripted", "config": {}}],
            "memory": [memory],
        },
        "memory_banks": [{"memory_bank_id": "words", "type": "keyword"}],
        "turns": {"lease_s": 10},
    }
    with Rooms(tmp_path, config) as rooms:
        api = rooms.api()
        rooms.worker()
        rooms.until_healthy()
        with httpx.Client(base_url=f"{api.url}/v1", timeout=DEADLINE_S) as http:
            yield Site(rooms, api, http)


def metrics(url: str) -> dict[str, float]:
    return {
        f"{sample.name}{{{','.join(f'{name}={value}' for name, value in sorted(sample.labels.items()))}}}": sample.value
        for family in text_string_to_metric_families(httpx.get(f"{url}/metrics", timeout=DEADLINE_S).text)
        for sample in family.samples
    }


def test_jobs_without_a_worker_are_explained_ended_run_again_and_followed_once_there_is_one(site: Site) -> None:
    given = {"document_id": "a", "content": "green apples"}, {"document_id": "pdf", "content": {"uri": NOTHING}}
    waits, stopped = site.insert(*given), site.insert(*given)

    why = site.run("why", waits)
    listed = site.run("jobs", "--status", "queued")
    ended = site.run("fail", stopped, "--reason", "Not now.")
    again = site.run("requeue", f"/v1/jobs/{stopped}")
    counted = metrics(site.api.url)

    assert f"{waits}: queued" in why.stdout and "bank        words" in why.stdout
    assert "0 alive" in why.stdout
    assert "waits_for_worker: It waits for a worker, and none is alive" in why.stderr
    assert "turnstone worker --queue memory" in why.stderr
    assert waits in listed.stdout and stopped in listed.stdout
    assert ended.stdout == f"{stopped}: failed (failed_by_operator)\n"
    repeated = again.stdout.strip()
    assert f"turnstone tail {repeated}" in again.stderr
    assert site.http.get("/health").json()["memory_workers"] == 0
    assert (counted["turnstone_memory_workers_alive{}"], counted["turnstone_jobs_waiting{}"]) == (0, 2)
    assert (counted["turnstone_workers_alive{}"], counted["turnstone_turns_waiting{}"]) == (1, 0)

    port = free_port()
    worker = site.rooms.worker(queue=MEMORY_QUEUE, environ={"TURNSTONE_METRICS_PORT": str(port)})
    site.rooms.until_healthy(worker)
    followed = site.run("tail", repeated)
    wait_for(lambda: site.http.get(f"/jobs/{waits}").json()["status"] == "completed", "both end", seconds=DEADLINE_S)
    ended_there = metrics(f"http://127.0.0.1:{port}")

    assert followed.stdout == "2 of 2 documents, 1 chunks, 1 could not be read\n"
    assert "2 documents for the bank words" in followed.stderr
    assert "! pdf (malformed_document)" in followed.stderr
    assert "ended: It completed." in site.run("why", repeated).stderr
    assert f"repeats     {stopped}" in site.run("why", repeated).stdout
    assert site.run("tail", stopped, code=1).stdout == "no document was looked at\n"
    assert site.http.get("/health").json()["memory_workers"] == 1
    assert ended_there["turnstone_jobs_ended_total{code=,status=completed}"] == 2
    assert ended_there["turnstone_job_documents_total{outcome=inserted}"] == 2
    assert ended_there["turnstone_job_documents_total{outcome=malformed_document}"] == 2
    assert [name for name in ended_there if name.startswith("turnstone_turns_ended_total{")] == []

    worker.terminate()
    worker.wait()
    wait_for(lambda: site.http.get("/health").json()["memory_workers"] == 0, "it says farewell", seconds=5)
