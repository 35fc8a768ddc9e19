"""What an operator sees of real workers, and does to their turns: over HTTP, while they run, are killed and start."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from rooms import DEADLINE_S, Json, Room, Rooms
from waiting import wait_for

RULES: list[Json] = [
    {"match": "^tell$", "text": " ".join(f"word{n}" for n in range(40)), "token_ms": 100},
    {"match": "^think$", "text": "Thought.", "first_token_ms": 600_000},
    {"match": "^refuse$", "error": {"status": 400, "message": "no"}},
]
CONFIG: Json = {
    "providers": {
        "inference": [{"provider_id": "script", "provider_type": "inline::scripted", "config": {"rules": RULES}}]
    },
    "turns": {"lease_s": 10},
}


class Site:
    """Rooms and an HTTP client of their API."""

    def __init__(self, rooms: Rooms, http: httpx.Client) -> None:
        self.rooms, self.http = rooms, http

    def session(self) -> str:
        agent = self.http.post("/agents", json={"agent_config": {"model": "scripted"}}).json()["agent_id"]
        path = f"/agents/{agent}/session"
        return f"{path}/{self.http.post(path, json={'session_name': 'one'}).json()['session_id']}"

    def submit(self, session: str, text: str) -> str:
        """The id of a new turn."""
        reply = self.http.post(f"{session}/turn", json={"messages": [{"role": "user", "content": text}]})
        assert reply.status_code == 202, reply.text
        return str(reply.json()["turn_id"])

    def turn(self, turn_id: str) -> Json:
        found: Json = self.http.get(f"/turns/{turn_id}").json()
        return found

    def why(self, turn_id: str) -> Json:
        reply = self.http.get(f"/turns/{turn_id}/why")
        assert reply.status_code == 200, reply.text
        found: Json = reply.json()
        return found

    def until(self, turn_id: str, code: str) -> Json:
        """What is told of the turn, once it is this."""
        found: list[Json] = []
        wait_for(
            lambda: bool(found.append(self.why(turn_id)) or found[-1]["next"]["code"] == code), code, seconds=DEADLINE_S
        )
        return found[-1]

    def ended(self, turn_id: str) -> Json:
        wait_for(lambda: self.turn(turn_id)["completed_at"] is not None, "the turn ends", seconds=DEADLINE_S)
        return self.turn(turn_id)

    def worker(self) -> Room:
        worker = self.rooms.worker()
        self.rooms.until_healthy(worker)
        return worker


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """An API without a worker, whose models one has listed."""
    with Rooms(tmp_path, CONFIG) as rooms:
        api, lister = rooms.api(), rooms.worker()
        rooms.until_healthy()
        lister.terminate()
        lister.wait()
        with httpx.Client(base_url=f"{api.url}/v1", timeout=DEADLINE_S) as http:
            yield Site(rooms, http)


def test_a_turn_whose_worker_is_killed_is_explained_until_another_has_taken_it_over(site: Site) -> None:
    turn = site.submit(site.session(), "tell")
    alone = site.until(turn, "waits_for_worker")
    first = site.worker()
    running = site.until(turn, "running")

    first.kill()
    silent = site.until(turn, "owner_silent")
    lost = site.until(turn, "owner_lost")
    wait_for(lambda: site.why(turn)["workers_alive"] == 0, "the worker is missed", seconds=DEADLINE_S)
    missed = site.why(turn)
    second = site.worker()
    ended = site.ended(turn)

    assert alone["next"]["message"].endswith("none is alive: start one (turnstone worker).")
    assert (running["lease"]["worker"], running["lease"]["worker_alive"]) == (first.worker_name, True)
    assert silent["lease"]["worker"] == lost["lease"]["worker"] == first.worker_name
    assert silent["lease"]["renewed_s_ago"] > 5 > silent["lease"]["left_s"] > 0 >= lost["lease"]["left_s"]
    assert "start one" in missed["next"]["message"] and not missed["lease"]["worker_alive"]
    assert (ended["status"], ended["attempts"]) == ("completed", 2)
    assert site.why(turn)["next"] == {"code": "ended", "message": "It completed."}
    assert second.alive


def test_a_running_turn_is_ended_and_run_again_while_the_next_of_its_session_goes_on(site: Site) -> None:
    session = site.session()
    site.worker()
    stuck, behind = site.submit(session, "think"), site.submit(session, "refuse")
    site.until(stuck, "running")
    waiting = site.until(behind, "behind")
    listed = site.http.get("/turns", params={"status": "in_progress"}).json()["data"]

    ended = site.http.post(f"/turns/{stuck}/fail", json={"reason": "It thinks for too long."}).json()
    refused = site.ended(behind)
    again = site.http.post(f"/turns/{behind}/requeue").json()
    refused_again = site.ended(again["turn_id"])
    failed = site.http.get("/turns", params={"status": "failed"}).json()["data"]

    assert stuck in waiting["next"]["message"]
    assert [(turn["turn_id"], turn["worker"]) for turn in listed] == [(stuck, site.rooms.rooms[-1].worker_name)]
    assert ended["error"]["code"] == "failed_by_operator"
    assert (refused["status"], refused_again["status"]) == ("failed", "failed")
    assert refused_again["retry_of"] == behind
    assert [turn["turn_id"] for turn in failed] == [again["turn_id"], behind, stuck]
    assert {turn["error"]["code"] for turn in failed[:2]} == {"provider_bad_request"}
