"""A process dies at a named place, by its own hand and at once; each promise is then looked at one by one.

The places are in tests/failpoints/points.py. Both workers have all of them planted, so that whichever gets there first
dies, and the other is there.
"""

import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from failpoints.points import FOLDER, arm, is_armed
from fake_tools import FakeTools, answer
from fake_upstream import FakeUpstream, Reply, Request, call_piece, calls, text
from following import Followed, Site, assert_told, assert_whole, site_of
from mcp_server import PNG
from rooms import DEADLINE_S, Room, Rooms
from stack import Json, user_turn
from waiting import wait_for

from shared.ids import TurnRef
from shared.log.keys import Keys

HERE = Path(__file__).resolve().parent.parent / "failpoints"
API = (sys.executable, "-m", "gunicorn", "-c", "python:api.gunicorn_conf", "failing_api:app")
WORKER = (sys.executable, str(HERE / "failing_worker.py"))
LEASE_S = 2
NEVER, SAFE, CLIENT, FILES = "charge", "look", "ask", "draw"
WORDS = [f"word{number} " for number in range(40)]
ASK = {"name": CLIENT, "description": "Ask the user.", "parameters": []}


def model(request: Request) -> Reply:
    """Calls the tool that the user's first word names, and answers when that has answered; or tells a story."""
    last = request.json["messages"][-1]
    verb = last["content"].split()[0] if last["role"] == "user" else ""
    if verb in (NEVER, SAFE, CLIENT, FILES):
        return calls(call_piece(0, id=f"call_{uuid4().hex[:8]}", name=verb, arguments="{}"))
    if verb == "later":
        return calls(call_piece(0, id=f"call_{uuid4().hex[:8]}", name=NEVER, arguments="{}"), first_s=2.0)
    if verb == "tell":
        return text(*WORDS, between_s=0.05)
    if verb == "recite":
        # Long enough that several turns of one worker stream at once.
        return text(*WORDS * 5, first_s=1.0, between_s=0.01)
    return text("All", " done.")


@dataclass(kw_only=True)
class Crew:
    """Two workers in which every point is planted, and what they talk to."""

    site: Site
    upstream: FakeUpstream
    tools: FakeTools
    armed: Path
    workers: list[Room] = field(default_factory=list)

    def ready(self) -> None:
        """Return once two workers serve; replace those that a test before has killed."""
        self.workers = [worker for worker in self.workers if worker.alive]
        while len(self.workers) < 2:
            self.add_worker()
        self.site.rooms.until_healthy()

    def add_worker(self) -> None:
        self.workers.append(self.site.rooms.worker(launcher=WORKER))

    def until_dead(self, *points: str) -> None:
        """Return once a worker has died at each of these points."""
        wait_for(lambda: not any(is_armed(self.armed, point) for point in points), f"{points}", seconds=DEADLINE_S)
        wait_for(lambda: len(self.dead()) == len(points), "the workers are dead", seconds=DEADLINE_S)
        assert [worker.process.returncode for worker in self.dead()] == [-signal.SIGKILL] * len(points)

    def dead(self) -> list[Room]:
        return [worker for worker in self.workers if not worker.alive]

    def owner_of(self, turn: Json) -> Room:
        """The worker that runs a turn."""
        key = Keys("ts").turn(TurnRef("default", turn["session_id"], turn["turn_id"])).turn
        with self.site.rooms.store() as client:
            name = (client.hget(key, "worker") or b"").decode()
        (owner,) = [worker for worker in self.workers if worker.worker_name == name]
        return owner

    def asked(self, word: str) -> int:
        """How often the model was asked in turns in which this word stands."""
        return sum(word in json.dumps(request.json) for request in self.upstream.requests if request.body)

    def keys_of(self, turn: Json) -> Counter[str]:
        """How often a tool was called in this turn, by idempotency key."""
        keys = [request.headers.get("idempotency-key", "") for request in self.tools.requests]
        return Counter(key for key in keys if key.startswith(turn["turn_id"]))


@pytest.fixture(scope="module")
def crew(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crew]:
    folder = tmp_path_factory.mktemp("failpoints")
    armed = folder / "armed"
    armed.mkdir()
    environ = {FOLDER: str(armed)}
    with (
        FakeUpstream(default=model) as upstream,
        FakeTools() as tools,
        Rooms(folder, config(upstream, tools), environ=environ) as rooms,
    ):
        tools.replies = {"/charge": answer({"charged": 1}), "/look": answer({"seen": 1})}
        tools.replies["/draw"] = answer(PNG, content_type="image/png")
        # This tree first, as for the workers, and the point's own module beside it.
        api = rooms.api(launcher=API, pythonpath=os.pathsep.join((str(HERE), str(HERE.parent.parent))))
        with site_of(rooms, api.port) as site:
            yield Crew(site=site, upstream=upstream, tools=tools, armed=armed)


@pytest.fixture
def ready(crew: Crew) -> Iterator[Crew]:
    crew.ready()
    yield crew
    left = list(crew.armed.iterdir())
    for file in left:
        file.unlink()
    assert not left, "nobody came to these points"


def config(upstream: FakeUpstream, tools: FakeTools) -> Json:
    inference = {"provider_id": "up", "provider_type": "remote::openai", "config": {"url": upstream.url}}
    made = [
        {"name": NEVER, "url": f"{tools.root}/charge"},
        {"name": SAFE, "url": f"{tools.root}/look", "replay": "safe"},
        {"name": FILES, "url": f"{tools.root}/draw", "replay": "safe"},
    ]
    runtime = {"provider_id": "effects", "provider_type": "remote::http", "config": {"tools": made}}
    return {"providers": {"inference": [inference], "tool_runtime": [runtime]}, "turns": {"lease_s": LEASE_S}}


def a_session(crew: Crew) -> str:
    return crew.site.new_session(model="m", toolgroups=["effects"], client_tools=[ASK])


def assert_exactly_once(followed: Followed) -> None:
    assert_whole(followed.turn, followed.log, followed.tail)
    assert_told(followed.turn, followed.chunks)


@pytest.mark.parametrize(
    ("point", "tool", "made", "unknown", "attempts"),
    [
        ("after_the_pop", NEVER, 1, False, 1),
        ("after_the_claim", NEVER, 1, False, 2),
        ("between_intent_and_effect", NEVER, 0, True, 2),
        ("between_intent_and_effect", SAFE, 1, False, 2),
        ("after_the_effect", NEVER, 1, True, 2),
        ("after_the_effect", SAFE, 2, False, 2),
        ("before_the_finish", NEVER, 1, False, 2),
        ("after_the_finish", NEVER, 1, False, 1),
    ],
)
def test_a_worker_that_dies_at_a_point_costs_no_step_and_no_effect_that_was_finished(
    ready: Crew, point: str, tool: str, made: int, unknown: bool, attempts: int
) -> None:
    session, word, next_word = a_session(ready), uuid4().hex, uuid4().hex
    arm(ready.armed, point)

    turn, following = ready.site.follow(session, f"{tool} {word}")
    behind, following_behind = ready.site.follow(session, f"say {next_word}")
    ready.until_dead(point)
    followed, next_one = following.result(), following_behind.result()

    assert_exactly_once(followed)
    assert followed.turn["attempts"] == attempts
    assert followed.steps == ["inference", "tool_execution", "inference"]
    assert followed.types.count("step_abandoned") == 0
    assert followed.types.count("turn_recovered") == attempts - 1
    keys = ready.keys_of(turn)
    assert (sum(keys.values()), len(keys)) == (made, min(made, 1))
    (response,) = followed.tool_responses
    assert response["content"].startswith("Unknown outcome") is unknown
    assert bool((response.get("metadata") or {}).get("error")) is unknown
    assert_exactly_once(next_one)
    assert next_one.turn["turn_id"] == behind["turn_id"]
    # Its two replies, and the next turn's own, which remembers it.
    assert ready.asked(word) == 3
    assert ready.asked(next_word) == 1


def test_a_worker_that_dies_behind_a_file_that_it_kept_leaves_one_file_and_a_turn_that_names_it(ready: Crew) -> None:
    session, word = a_session(ready), uuid4().hex
    arm(ready.armed, "after_a_file_is_kept")

    turn, following = ready.site.follow(session, f"{FILES} {word}")
    ready.until_dead("after_a_file_is_kept")
    followed = following.result()

    assert_exactly_once(followed)
    assert followed.turn["attempts"] == 2
    assert list(ready.keys_of(turn).values()) == [2]
    (attachment,) = followed.turn["output_attachments"]
    with httpx.Client(base_url=f"http://127.0.0.1:{ready.site.ports[0]}") as http:
        assert http.get(attachment["content"]["uri"]).content == PNG
        (file,) = http.get("/v1/files", params={"purpose": "assistants_output"}).json()["data"]
    assert file["id"] in attachment["content"]["uri"]


def test_a_worker_that_dies_with_the_reply_to_a_group_commit_loses_the_step_and_nothing_else(ready: Crew) -> None:
    session, word = a_session(ready), uuid4().hex
    arm(ready.armed, "after_a_group_commit")

    _, following = ready.site.follow(session, f"tell {word}")
    ready.until_dead("after_a_group_commit")
    followed = following.result()

    assert_exactly_once(followed)
    assert followed.types == [
        *("turn_created", "turn_start", "step_start"),
        *("turn_recovered", "step_abandoned", "step_start", "step_complete", "turn_complete"),
    ]
    assert followed.turn["output_message"]["content"] == "".join(WORDS)
    assert ready.asked(word) == 2


def test_of_a_group_commit_that_half_arrives_every_turn_goes_on_from_what_it_has(ready: Crew) -> None:
    word = uuid4().hex
    sessions = [a_session(ready) for _ in range(6)]
    arm(ready.armed, "within_a_group_commit")

    followings = [ready.site.follow(session, f"recite {word}")[1] for session in sessions]
    ready.until_dead("within_a_group_commit")
    followed = [following.result() for following in followings]

    for one in followed:
        assert_exactly_once(one)
        assert one.turn["output_message"]["content"] == "".join(WORDS * 5)
    assert ready.asked(word) == len(sessions) + sum(one.types.count("step_abandoned") for one in followed)
    assert sum(one.turn["attempts"] for one in followed) > len(sessions)


def test_a_worker_that_dies_after_the_reap_leaves_a_turn_that_the_next_reaper_finds(ready: Crew) -> None:
    session, word = a_session(ready), uuid4().hex
    arm(ready.armed, "after_the_pop")
    arm(ready.armed, "after_the_reap")

    _, following = ready.site.follow(session, f"say {word}")
    ready.until_dead("after_the_pop", "after_the_reap")
    ready.add_worker()
    followed = following.result()

    assert_exactly_once(followed)
    assert (followed.turn["attempts"], ready.asked(word)) == (1, 1)


@pytest.mark.parametrize("point", ["before_the_pause", "after_the_pause"])
def test_a_worker_that_dies_around_a_pause_asks_the_client_once(ready: Crew, point: str) -> None:
    session, word = a_session(ready), uuid4().hex
    arm(ready.armed, point)

    turn = ready.site.submit(session, f"{CLIENT} {word}")
    tailed = ready.site.threads.submit(ready.site.tail, session, turn["turn_id"])
    ready.until_dead(point)
    path = f"{session}/turn/{turn['turn_id']}"
    wait_for(lambda: ready.site.turn(session, turn["turn_id"])["status"] == "awaiting_input", point, seconds=DEADLINE_S)
    (call,) = ready.site.turn(session, turn["turn_id"])["output_message"]["tool_calls"]
    response = {"call_id": call["call_id"], "tool_name": call["tool_name"], "content": "yes"}
    ready.site.post(f"{path}/resume", {"tool_responses": [response]})
    ended = ready.site.finished(session, turn["turn_id"])
    log = ready.site.log(turn)

    assert_whole(ended, log, tailed.result())
    assert [frame.type for frame in log].count("turn_awaiting_input") == 1
    assert [response["content"] for step in ended["steps"] for response in step.get("tool_responses", [])] == ["yes"]
    assert ended["attempts"] == (2 if point == "before_the_pause" else 1)
    assert ready.asked(word) == 2


def test_a_worker_that_dies_after_it_gave_a_turn_back_has_given_it_back(ready: Crew) -> None:
    session, word = a_session(ready), uuid4().hex
    arm(ready.armed, "after_the_release")

    turn, following = ready.site.follow(session, f"later {word}")
    wait_for(lambda: ready.asked(word) == 1, "the model is asked", seconds=DEADLINE_S)
    ready.owner_of(turn).terminate()
    ready.until_dead("after_the_release")
    followed = following.result()

    assert_exactly_once(followed)
    assert followed.turn["attempts"] == 2
    assert sum(ready.keys_of(turn).values()) == 1
    assert followed.types.count("step_abandoned") == 0
    assert ready.asked(word) == 2


def test_an_api_that_dies_after_the_accept_has_accepted_the_turn_and_a_repetition_finds_it(ready: Crew) -> None:
    session, word, key = a_session(ready), uuid4().hex, uuid4().hex
    arm(ready.armed, "after_the_accept")

    with pytest.raises(httpx.TransportError):
        submit_once(ready, session, word, key)
    assert not is_armed(ready.armed, "after_the_accept")
    repeated = ready.site.submit(session, f"say {word}", key=key)
    ended = ready.site.finished(session, repeated["turn_id"])

    assert_whole(ended, ready.site.log(ended), ready.site.tail(session, ended["turn_id"]))
    assert (ended["attempts"], ready.asked(word)) == (1, 1)
    assert [turn["turn_id"] for turn in turns_of(ready, session)] == [ended["turn_id"]]


def test_a_turn_whose_api_died_after_the_accept_runs_though_nobody_asks_again(ready: Crew) -> None:
    session, word = a_session(ready), uuid4().hex
    arm(ready.armed, "after_the_accept")

    with pytest.raises(httpx.TransportError):
        submit_once(ready, session, word, uuid4().hex)
    (turn,) = turns_of(ready, session)
    ended = ready.site.finished(session, turn["turn_id"])

    assert_whole(ended, ready.site.log(ended), ready.site.tail(session, ended["turn_id"]))
    assert (ended["attempts"], ready.asked(word)) == (1, 1)


def submit_once(crew: Crew, session: str, word: str, key: str) -> None:
    """A submit that is not made again; it reaches a process of the API that is alive."""
    url = f"http://127.0.0.1:{crew.site.ports[0]}/v1{session}/turn"
    httpx.post(url, json=user_turn(f"say {word}"), headers={"Idempotency-Key": key}, timeout=DEADLINE_S)


def turns_of(crew: Crew, session: str) -> list[Json]:
    found: list[Json] = crew.site.request("GET", session).json()["turns"]
    return found
