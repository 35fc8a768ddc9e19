"""From the release before this one to this one, under load, one process after the other: nothing is lost.

The old processes run the old release's own tree; see previous_release.py for which one that is.
"""

import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from fake_tools import FakeTools, answer
from fake_upstream import FakeUpstream, Reply, Request, call_piece, calls, text
from following import Site, assert_whole, site_of
from previous_release import ROOT, assert_is_used, checkout
from rooms import DEADLINE_S, Room, Rooms
from stack import Frame, Json, scripted
from waiting import wait_for

from shared.events import SCHEMA_VERSION
from shared.ids import TurnRef
from shared.log.keys import Keys

NEWER_WORKER = (sys.executable, str(ROOT / "tests" / "failpoints" / "newer_worker.py"))
NEVER, SAFE, CLIENT = "charge", "look", "ask"
STORY = [f"word{number} " for number in range(60)]
ASK = {"name": CLIENT, "description": "Ask the user.", "parameters": []}
CLIENTS = 6
_LONGEST_WAIT_S = 600


def model(request: Request) -> Reply:
    """Calls the tool that the user's first word names, slowly, and answers when that has answered; or tells a story."""
    last = request.json["messages"][-1]
    verb = last["content"].split()[0] if last["role"] == "user" else ""
    if verb in (NEVER, SAFE, CLIENT):
        call = call_piece(0, id=f"call_{uuid4().hex[:8]}", name=verb, arguments="{}")
        return calls(call, first_s=0.3)
    if verb == "tell":
        return text(*STORY, between_s=0.05)
    return text("All", " done.", first_s=0.2)


def config(upstream: FakeUpstream, tools: FakeTools) -> Json:
    inference = {"provider_id": "up", "provider_type": "remote::openai", "config": {"url": upstream.url}}
    made = [
        {"name": NEVER, "url": f"{tools.root}/charge"},
        {"name": SAFE, "url": f"{tools.root}/look", "replay": "safe"},
    ]
    runtime = {"provider_id": "effects", "provider_type": "remote::http", "config": {"tools": made}}
    return {"providers": {"inference": [inference], "tool_runtime": [runtime]}, "turns": {"lease_s": 5}}


@dataclass(kw_only=True)
class Told:
    """One turn of the load: what its client saw of it."""

    verb: str
    turn: Json
    log: list[Frame]
    tail: list[Frame]


@dataclass(kw_only=True)
class Upgrade:
    """Two APIs and two workers of the old release, and the load on them."""

    site: Site
    tools: FakeTools
    old: Path
    apis: list[Room] = field(default_factory=list)
    workers: list[Room] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)
    load: "list[Future[list[Told]]]" = field(default_factory=list)

    @property
    def rooms(self) -> Rooms:
        return self.site.rooms

    def session(self) -> str:
        return self.site.new_session(model="m", toolgroups=["effects"], client_tools=[ASK])

    def begin_load(self) -> None:
        """Clients that submit one turn after the other, and follow each to its end."""
        self.load = [self.site.threads.submit(self._client, number) for number in range(CLIENTS)]

    def _client(self, number: int) -> list[Told]:
        told: list[Told] = []
        verbs = ("tell", NEVER, SAFE, CLIENT, "say")
        session = self.session()
        while not self.stop.is_set():
            told.append(self.one(session, verbs[(number + len(told)) % len(verbs)]))
        return told

    def one(self, session: str, verb: str) -> Told:
        """One turn, tailed from its beginning to its end."""
        return self.ended(session, verb, self.site.submit(session, f"{verb} {uuid4().hex}"))

    def ended(self, session: str, verb: str, turn: Json) -> Told:
        tail = self.site.threads.submit(self.site.tail, session, turn["turn_id"])
        if verb == CLIENT:
            self.answer(session, turn["turn_id"])
        turn = self.site.finished(session, turn["turn_id"])
        return Told(verb=verb, turn=turn, log=self.site.log(turn), tail=tail.result(2 * DEADLINE_S))

    def until_it_asks(self, session: str, turn_id: str) -> list[Json]:
        """The calls that a turn has its client make."""
        is_waiting = lambda: self.site.turn(session, turn_id)["status"] == "awaiting_input"  # noqa: E731
        wait_for(is_waiting, "the turn waits for its client", seconds=2 * DEADLINE_S)
        found: list[Json] = self.site.turn(session, turn_id)["output_message"]["tool_calls"]
        return found

    def answer(self, session: str, turn_id: str) -> None:
        """Make the call that a turn asks of its client."""
        (call,) = self.until_it_asks(session, turn_id)
        response = {"call_id": call["call_id"], "tool_name": call["tool_name"], "content": "yes"}
        self.site.post(f"{session}/turn/{turn_id}/resume", {"tool_responses": [response]})

    def replace_workers(self) -> None:
        """A new one comes before each old one goes."""
        for old in self.workers:
            self.rooms.until_healthy(self.rooms.worker(pythonpath=str(ROOT)))
            self._end(old)

    def replace_apis(self) -> None:
        """Each on the port of the one that went; the other one is there meanwhile."""
        for old in self.apis:
            self._end(old)
            self.rooms.until_healthy(self.rooms.api(port=old.port, pythonpath=str(ROOT)))

    def _end(self, room: Room) -> None:
        room.terminate()
        # As any process manager has it, and as it is where a drain takes longer than the grace: killed in the end.
        assert room.wait(2 * DEADLINE_S) in (0, -signal.SIGTERM), room.written()[-2000:]

    def outcome(self) -> list[Told]:
        """What the load's clients saw, once each has seen its last turn end."""
        self.stop.set()
        return [told for client in self.load for told in client.result(_LONGEST_WAIT_S)]

    def check(self, told: list[Told]) -> None:
        keys = Counter(request.headers.get("idempotency-key", "") for request in self.tools.requests)
        for one in told:
            assert_whole(one.turn, one.log, one.tail)
            made = [times for key, times in keys.items() if key.startswith(one.turn["turn_id"])]
            responses = [said for step in one.turn["steps"] for said in step.get("tool_responses", [])]
            assert len(responses) == (one.verb in (NEVER, SAFE, CLIENT))
            if one.verb == NEVER:
                unknown = responses[0]["content"].startswith("Unknown outcome")
                assert sum(made) == 1 or (unknown and not made)
            if one.verb == SAFE:
                assert len(made) == 1
        logs = {room.name: room.written() for room in self.rooms.rooms}
        assert not [name for name, log in logs.items() if "Traceback" in log or " CRITICAL " in log]


@contextmanager
def old_release(folder: Path) -> Iterator[Upgrade]:
    """The old release's processes on an empty store, serving."""
    old = checkout(folder / "old")
    assert_is_used(old)
    of_old: dict[str, Any] = {"pythonpath": str(old), "cwd": old}
    with FakeUpstream(default=model) as upstream, FakeTools() as tools:
        tools.replies = {"/charge": answer({"charged": 1}), "/look": answer({"seen": 1})}
        with Rooms(folder / "rooms", config(upstream, tools)) as rooms:
            apis = [rooms.api(**of_old), rooms.api(**of_old)]
            workers = [rooms.worker(**of_old), rooms.worker(**of_old)]
            rooms.until_healthy()
            with site_of(rooms, *(api.port for api in apis)) as site:
                upgrade = Upgrade(site=site, tools=tools, old=old, apis=apis, workers=workers)
                try:
                    yield upgrade
                finally:
                    upgrade.stop.set()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("first", ["workers", "apis"])
def test_a_rolling_upgrade_under_load_loses_nothing(tmp_path: Path, first: str) -> None:
    with old_release(tmp_path) as upgrade:
        waits = upgrade.session()
        waiting = upgrade.site.submit(waits, f"{CLIENT} {uuid4().hex}")
        upgrade.until_it_asks(waits, waiting["turn_id"])
        upgrade.begin_load()
        replacements = [upgrade.replace_workers, upgrade.replace_apis]
        now, then = replacements if first == "workers" else reversed(replacements)

        now()
        # Here the APIs are of one release and all workers of the other.
        session = upgrade.session()
        between = [upgrade.one(session, verb) for verb in ("tell", NEVER, SAFE, CLIENT)]
        then()
        after = [upgrade.one(session, verb) for verb in ("tell", NEVER)]
        resumed = upgrade.ended(waits, CLIENT, waiting)
        told = upgrade.outcome()

        upgrade.check([*between, *after, resumed, *told])
        assert len(told) >= 3 * CLIENTS


def test_a_turn_of_a_newer_release_is_left_to_its_workers_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    rules = [
        {"match": "^tell$", "text": "".join(STORY), "token_ms": 100},
        {"match": "^be quick$", "text": "Done."},
    ]
    with Rooms(tmp_path, scripted(*rules, turns={"lease_s": 2})) as rooms:
        api, newer = rooms.api(pythonpath=str(ROOT)), rooms.worker(launcher=NEWER_WORKER, pythonpath=str(ROOT))
        rooms.until_healthy()
        with site_of(rooms, api.port) as site:
            session, other = site.new_session(model="scripted"), site.new_session(model="scripted")
            turn = site.submit(session, "tell")
            tail = site.threads.submit(site.tail, session, turn["turn_id"])
            site.wait_for_events(turn, 5)
            newer.kill()
            own = rooms.worker(pythonpath=str(ROOT))
            rooms.until_healthy(own)
            wait_for(lambda: hash_of(rooms, turn).get("hints", 0) >= 3, "it was hinted at", seconds=DEADLINE_S)
            left, due = hash_of(rooms, turn), due_of(rooms, turn)
            quick = site.finished(other, site.submit(other, "be quick")["turn_id"])

            assert quick["status"] == "completed"
            assert left["schema"] == SCHEMA_VERSION + 1
            assert left["attempts"] == 1
            assert "turn_recovered" not in [frame.type for frame in site.log(turn)]
            # Each hint waits twice as long as the one before: nobody spins on a turn that nobody can run.
            assert due - left["written"] >= (2 ** left["hints"] - 1) * 1_000_000

            rooms.until_healthy(rooms.worker(launcher=NEWER_WORKER, pythonpath=str(ROOT)))
            wait_for(lambda: hash_of(rooms, turn)["status"] == "completed", "it ends", seconds=2 * DEADLINE_S)
            assert [frame.type for frame in tail.result(2 * DEADLINE_S)].count("turn_recovered") == 1
            assert "Traceback" not in own.written()


def hash_of(rooms: Rooms, turn: Json) -> dict[str, Any]:
    """The turn's hash, numbers as numbers."""
    key = Keys("ts").turn(TurnRef("default", turn["session_id"], turn["turn_id"])).turn
    with rooms.store() as client:
        found = {name.decode(): value.decode(errors="replace") for name, value in client.hgetall(key).items()}
    return {name: int(value) if value.isdigit() else value for name, value in found.items()}


def due_of(rooms: Rooms, turn: Json) -> int:
    """When the reaper looks at the turn again, in µs."""
    ref = TurnRef("default", turn["session_id"], turn["turn_id"])
    with rooms.store() as client:
        return int(client.zscore(Keys("ts").shard(ref.shard).due, ref.member) or 0)
