"""Turns that make way, are canceled or reach a limit while a real worker is in the middle of them."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_upstream import FakeUpstream, text
from rooms import DEADLINE_S, Room, Rooms
from stack import Frame, Json, sse_frames
from waiting import wait_for

ENDLESS = text(*(f"w{n} " for n in range(20)), between_s=0.05, end="hang")
LONG_S = 600.0
"""Longer than any test waits: what happens nevertheless did not wait for it."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """An API and a worker on a provider that never ends its first answer."""

    rooms: Rooms
    upstream: FakeUpstream
    http: httpx.Client
    session: str
    worker: Room

    def submit(self, words: str, **body: Any) -> str:
        """A turn's path."""
        reply = self.http.post(f"{self.session}/turn", json={"messages": [{"role": "user", "content": words}], **body})
        assert reply.status_code == 202, reply.text
        return str(reply.headers["Location"]).removeprefix("/v1")

    def get(self, turn: str) -> Json:
        found: Json = self.http.get(turn).json()
        return found

    def until(self, turn: str, status: str) -> Json:
        wait_for(lambda: self.get(turn)["status"] == status, f"the turn is {status}", seconds=DEADLINE_S)
        return self.get(turn)

    def until_it_speaks(self, turn: str) -> None:
        """Return once the provider is in the middle of its answer."""
        wait_for(lambda: bool(self.get(turn)["output_message"]["content"]), "the answer has begun", seconds=DEADLINE_S)
        assert self.upstream.hangups == 0


@contextmanager
def site(folder: Path, **turns: Any) -> Iterator[Site]:
    with FakeUpstream() as upstream:
        provider = {"provider_id": "up", "provider_type": "remote::openai", "config": {"url": upstream.url}}
        config = {"providers": {"inference": [provider]}, "turns": {"lease_s": LONG_S, **turns}}
        upstream.script(ENDLESS)
        upstream.default = text("Here ", "I ", "am.")
        with Rooms(folder, config) as rooms:
            api, worker = rooms.api(), rooms.worker()
            rooms.until_healthy()
            with httpx.Client(base_url=f"{api.url}/v1", timeout=DEADLINE_S) as http:
                agent = http.post("/agents", json={"agent_config": {"model": "m", "instructions": ""}}).json()
                path = f"/agents/{agent['agent_id']}/session"
                created = http.post(path, json={"session_name": "one"}).json()
                session = f"{path}/{created['session_id']}"
                yield Site(rooms=rooms, upstream=upstream, http=http, session=session, worker=worker)


@contextmanager
def tailed(site: Site, turn: str) -> Iterator[Future[list[Frame]]]:
    """All events of a turn as a client sees them that is there from the beginning to the end."""

    def read() -> list[Frame]:
        with (
            httpx.Client(timeout=DEADLINE_S) as http,
            http.stream("GET", f"{site.http.base_url}{turn[1:]}/events") as reply,
        ):
            return list(sse_frames(reply.iter_lines()))

    with ThreadPoolExecutor(1) as threads:
        yield threads.submit(read)


def test_a_turn_in_mid_answer_is_interrupted_and_the_new_one_runs_at_once(tmp_path: Path) -> None:
    with site(tmp_path) as here:
        first = here.submit("tell me everything")
        with tailed(here, first) as tail:
            here.until_it_speaks(first)

            second = here.submit("wait, not that", multitask_strategy="interrupt")

            events = tail.result(DEADLINE_S)
        here.upstream.wait_for(lambda: here.upstream.hangups == 1, deadline_s=DEADLINE_S)
        done = here.until(second, "completed")
        asked = [request.json for request in here.upstream.requests if request.path.endswith("/chat/completions")]

        assert events[-1].type == "turn_canceled"
        assert second.rpartition("/")[2] in events[-1].payload["reason"]
        assert done["output_message"]["content"] == "Here I am."
        assert [message["content"] for message in asked[1]["messages"]] == ["tell me everything", "wait, not that"]
        assert here.get(first)["status"] == "canceled"


def test_a_turn_that_was_rolled_back_is_nothing_that_the_model_hears_of(tmp_path: Path) -> None:
    with site(tmp_path) as here:
        first = here.submit("a slip of the tongue")
        here.until_it_speaks(first)

        second = here.submit("what I meant", multitask_strategy="rollback")

        here.until(second, "completed")
        asked = [request.json for request in here.upstream.requests if request.path.endswith("/chat/completions")]
        assert [message["content"] for message in asked[1]["messages"]] == ["what I meant"]
        assert [turn["turn_id"] for turn in here.get(here.session)["turns"]] == [second.rpartition("/")[2]]


def test_a_turn_whose_worker_was_killed_is_interrupted_without_waiting_for_its_lease(tmp_path: Path) -> None:
    with site(tmp_path) as here:
        first = here.submit("tell me everything")
        here.until_it_speaks(first)
        here.worker.kill()
        other = here.rooms.worker()
        here.rooms.until_healthy(other)
        with tailed(here, first) as tail:
            second = here.submit("wait, not that", multitask_strategy="interrupt")
            events = tail.result(DEADLINE_S)

        done = here.until(second, "completed")

        assert events[-1].type == "turn_canceled"
        assert second.rpartition("/")[2] in events[-1].payload["reason"]
        assert done["attempts"] == 1


def test_a_canceled_session_ends_what_runs_and_starts_none_of_what_waits(tmp_path: Path) -> None:
    with site(tmp_path) as here:
        running = here.submit("tell me everything")
        here.until_it_speaks(running)
        waiting = [here.submit(f"next {number}") for number in range(3)]

        reply = here.http.post(f"{here.session}/cancel")

        here.upstream.wait_for(lambda: here.upstream.hangups == 1, deadline_s=DEADLINE_S)
        ended = [here.until(turn, "canceled") for turn in (running, *waiting)]
        assert reply.status_code == 202
        assert [turn["attempts"] for turn in ended] == [1, 0, 0, 0]
        here.until(here.submit("go on"), "completed")


@pytest.mark.parametrize("limit", ["deadline_s", "queue_ttl_s"])
def test_a_turn_ends_at_its_limit_also_in_mid_answer_and_the_session_goes_on(tmp_path: Path, limit: str) -> None:
    with site(tmp_path, deadline_s=LONG_S) as here:
        running = here.submit("tell me everything", **({"deadline_s": 4} if limit == "deadline_s" else {}))
        here.until_it_speaks(running)
        waiting = here.submit("and this", **({"queue_ttl_s": 1} if limit == "queue_ttl_s" else {}))

        if limit == "deadline_s":
            failed = here.until(running, "failed")
            here.upstream.wait_for(lambda: here.upstream.hangups == 1, deadline_s=DEADLINE_S)
            assert failed["error"]["code"] == "deadline_exceeded"
            here.until(waiting, "completed")
        else:
            failed = here.until(waiting, "failed")
            assert failed["error"]["code"] == "queue_timeout"
            assert (failed["attempts"], here.get(running)["status"]) == (0, "in_progress")
            assert here.upstream.hangups == 0
