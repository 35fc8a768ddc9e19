"""The real command `turnstone dev` with its processes, as tests use it: over HTTP, with signals, and in its store."""

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import redis
from stack_process import StackProcess, free_port, running_stack
from waiting import wait_for

from shared.cli.store import socket_path
from shared.ids import TurnRef
from shared.log.keys import Keys

Json = dict[str, Any]

TURNSTONE = str(Path(sys.executable).with_name("turnstone"))
START_S = 60.0
"""A start takes about three seconds on an idle machine."""
DEADLINE_S = 60.0
"""For anything that a running stack is waited for."""
STREAM_END = ("turn_complete", "turn_failed", "turn_canceled")


class Frame(NamedTuple):
    """One server-sent event, or one item of a poll: its id, its type and its payload."""

    id: str
    type: str
    payload: Json


@dataclass(kw_only=True)
class Stack:
    """A running stack. `process` is the supervisor and everything below it."""

    process: StackProcess
    port: int
    data: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def http(self) -> httpx.Client:
        """A plain HTTP client below `/v1`; use it as a context manager."""
        return httpx.Client(base_url=f"{self.url}/v1", timeout=DEADLINE_S)

    def store(self) -> "redis.Redis":
        """A client for the stack's own store; use it as a context manager."""
        return redis.Redis(unix_socket_path=str(socket_path(self.data)), socket_timeout=5)

    def log(self, turn: Json) -> list[Frame]:
        """The turn's events as they lie in the store."""
        key = Keys("ts").turn(TurnRef("default", turn["session_id"], turn["turn_id"])).events
        with self.store() as client:
            return [
                Frame(entry_id.decode(), fields[b"t"].decode(), json.loads(fields[b"p"]))
                for entry_id, fields in client.xrange(key)
            ]

    def new_session(self, **config: Any) -> str:
        """A session of a new agent, as the path under which its turns lie."""
        with self.http() as http:
            agent = {"model": "scripted", "instructions": "Be brief.", **config}
            agent_id = answered(http.post("/agents", json={"agent_config": agent}))["agent_id"]
            path = f"/agents/{agent_id}/session"
            session_id = answered(http.post(path, json={"session_name": "a session"}))["session_id"]
        return f"{path}/{session_id}"

    def submit(self, session: str, text: str) -> Json:
        """Submit a turn into a session; it has been accepted, and no more, when this returns."""
        with self.http() as http:
            reply = http.post(f"{session}/turn", json=user_turn(text))
        assert reply.status_code == 202, reply.text
        turn: Json = reply.json()
        return turn

    def turn(self, session: str, turn: Json) -> Json:
        """The turn as it is now."""
        with self.http() as http:
            return answered(http.get(f"{session}/turn/{turn['turn_id']}"))

    def finished(self, session: str, turn: Json, *, seconds: float = DEADLINE_S) -> Json:
        """The turn once it has ended."""
        found: Json = {}
        with self.http() as http:

            def ended() -> bool:
                found.update(answered(http.get(f"{session}/turn/{turn['turn_id']}", params={"wait": 5})))
                return found["completed_at"] is not None

            wait_for(ended, "the turn ends", seconds=seconds)
        return found

    def wait_for_events(self, turn: Json, count: int) -> None:
        """Return once the turn's log holds at least `count` events."""
        wait_for(lambda: len(self.log(turn)) >= count, f"the turn has {count} events", seconds=DEADLINE_S)

    def events_url(self, session: str, turn: Json) -> str:
        return f"{self.url}/v1{session}/turn/{turn['turn_id']}/events"


@contextmanager
def running(folder: Path, config: Json, *, port: int | None = None) -> Iterator[Stack]:
    """A healthy stack with `folder` for its data and its config; it is ended with the block.

    The same folder twice: the second one finds the data of the first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file, port = folder / "turnstone.yaml", port or free_port()
    file.write_text(json.dumps(config))  # JSON is YAML
    data = folder / "data"
    command = [TURNSTONE, "dev", "--port", str(port), "--config", str(file), "--data", str(data)]
    with running_stack(command, folder=folder) as process:
        stack = Stack(process=process, port=port, data=data)
        wait_for(
            lambda: is_healthy(stack.url) or process.process.poll() is not None,
            f"the stack is healthy (it wrote:\n{process.output})",
            seconds=START_S,
        )
        if process.process.poll() is not None:
            pytest.fail(f"the stack ended:\n{process.output}")
        process.note_processes()
        yield stack


def scripted(*rules: Json, **more: Any) -> Json:
    """A run config whose only model answers by `rules`."""
    provider = {"provider_id": "script", "provider_type": "inline::scripted", "config": {"rules": list(rules)}}
    return {"providers": {"inference": [provider]}, **more}


def user_turn(text: str) -> Json:
    """The body of a turn that says `text`."""
    return {"messages": [{"role": "user", "content": text}]}


def answered(reply: httpx.Response) -> Json:
    """The body of a successful answer."""
    assert reply.is_success, f"{reply.request.method} {reply.request.url}: {reply.status_code} {reply.text}"
    body: Json = reply.json()
    return body


def sse_frames(lines: Iterable[str]) -> Iterator[Frame]:
    """The events of a stream's lines. Comments are skipped, and so is an event that was cut."""
    fields: dict[str, str] = {}
    for line in lines:
        text = line.rstrip("\r\n")
        if text.startswith(":"):
            continue
        if text:
            name, _, value = text.partition(": ")
            fields[name] = value
        elif fields:
            yield Frame(fields.get("id", ""), fields.get("event", ""), json.loads(fields["data"])["event"]["payload"])
            fields = {}


def without_turn(frames: Iterable[Frame]) -> list[Frame]:
    """The frames as they lie in the log: only on the way out the full turn is added to the last one."""
    return [
        Frame(frame.id, frame.type, {name: value for name, value in frame.payload.items() if name != "turn"})
        for frame in frames
    ]


def seqs(frames: Iterable[Frame]) -> list[int]:
    return [int(frame.id.partition("-")[0]) for frame in frames]


def is_healthy(url: str) -> bool:
    """Whether the stack at `url` answers, with its store and a worker there."""
    try:
        return httpx.get(f"{url}/v1/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False
