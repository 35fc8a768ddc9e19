"""A store without memory, or without disk: submits are refused, and turns wait with the worker that they have."""

import resource
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from rooms import Rooms
from waiting import wait_for

from shared.ids import DEFAULT_TENANT, TurnRef
from shared.log.keys import Keys

Json = dict[str, Any]

pytestmark = pytest.mark.timeout(400)

DEADLINE_S = 120.0
LEASE_S = 5
TALK = " ".join(f"word{number}" for number in range(100))
RULES = [
    {"match": "^talk$", "text": TALK, "token_ms": 100},
    {"match": "^think$", "text": "Thought twice.", "token_ms": 25_000},
]
TEXTS = ["talk"] * 3 + ["think"] * 6
"""Of those that think nothing is written meanwhile: only the heartbeat renews their leases."""
CONFIG = {
    "providers": {
        "inference": [{"provider_id": "script", "provider_type": "inline::scripted", "config": {"rules": RULES}}]
    },
    "turns": {"lease_s": LEASE_S},
}


@contextmanager
def no_memory(rooms: Rooms) -> Iterator[None]:
    with rooms.store() as store:
        store.config_set("maxmemory", 1)
        yield
        store.config_set("maxmemory", 0)


@contextmanager
def no_disk(rooms: Rooms) -> Iterator[None]:
    """Its append-only file may not grow any more."""
    [file] = (rooms.folder / "data" / "appendonlydir").glob("*.incr.aof")
    pid = rooms.store_room.pid
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (file.stat().st_size, before[1]))
    yield
    resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("full", [no_memory, no_disk])
def test_a_full_store_refuses_turns_and_keeps_those_that_run_with_their_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: Callable[[Rooms], Any]
) -> None:
    # Else a write beyond the limit would kill the server: Python ignores that signal, and its children do not.
    monkeypatch.setattr(subprocess, "Popen", partial(subprocess.Popen, restore_signals=False))
    with Rooms(tmp_path, CONFIG) as rooms, rooms.store() as store:
        api, *_ = rooms.api(), rooms.worker(), rooms.worker()
        rooms.until_healthy(seconds=DEADLINE_S)
        with httpx.Client(base_url=api.url, timeout=DEADLINE_S) as http:
            *sessions, spare = [new_session(http) for _ in range(len(TEXTS) + 1)]
            turns = [
                f"{turns}/{submit(http, turns, words).json()['turn_id']}"
                for turns, words in zip(sessions, TEXTS, strict=True)
            ]
            wait_for(lambda: all(http.get(turn).json()["steps"] for turn in turns), "they run", seconds=DEADLINE_S)
            owners = [row(store, turn)["worker"] for turn in turns]

            with full(rooms):
                wait_for(lambda: refuses(store), "the store refuses writes", seconds=DEADLINE_S)
                refusal = submit(http, spare, "talk")
                lapsed = max(int(row(store, turn)["deadline"]) for turn in turns) + 1_000_000
                wait_for(lambda: time.time() * 1_000_000 > lapsed, "every lease has ended", seconds=DEADLINE_S)
                statuses = {row(store, turn)["status"] for turn in turns}
            taken = [http.get(turn) for turn in turns]
            wait_for(lambda: all(ended(http, turn) for turn in turns), "they end", seconds=DEADLINE_S)
            again = submit(http, spare, "talk")
            views = [http.get(turn).json() for turn in turns]
            owned = [row(store, turn)["worker"] for turn in turns]

    assert refusal.status_code == 503, refusal.text
    assert int(refusal.headers["retry-after"]) > 0
    assert statuses == {"in_progress"}
    assert {reply.status_code for reply in taken} == {200}
    assert [(view["status"], view["attempts"]) for view in views] == [("completed", 1)] * len(turns)
    assert {view["output_message"]["content"] for view in views} == {TALK, "Thought twice."}
    assert owned == owners, "nobody takes a turn from its healthy worker"
    assert again.status_code == 202


def new_session(http: httpx.Client) -> str:
    """The path of a new session's turns."""
    agent = http.post("/v1/agents", json={"agent_config": {"model": "scripted", "instructions": ""}}).json()
    sessions = f"/v1/agents/{agent['agent_id']}/session"
    return f"{sessions}/{http.post(sessions, json={'session_name': 'one'}).json()['session_id']}/turn"


def submit(http: httpx.Client, turns: str, words: str) -> httpx.Response:
    return http.post(turns, json={"messages": [{"role": "user", "content": words}]})


def ended(http: httpx.Client, turn: str) -> bool:
    return http.get(turn).json()["completed_at"] is not None


def row(store: "redis.Redis", turn: str) -> dict[str, str]:
    """A turn's hash, by its path."""
    session_id, _, turn_id = turn.split("/")[-3:]
    raw: Any = store.hgetall(Keys("ts").turn(TurnRef(DEFAULT_TENANT, session_id, turn_id)).turn)
    return {name.decode(): value.decode(errors="replace") for name, value in raw.items()}


def refuses(store: "redis.Redis") -> bool:
    """Whether the store takes no writes."""
    try:
        store.set("test:probe", "x" * 1000)
    except redis.ResponseError:
        return True
    return False
