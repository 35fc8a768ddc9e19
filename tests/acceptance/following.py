"""Clients of single rooms: they submit, follow and read what the store holds, whichever API is there just now."""

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
from llama_stack_client import LlamaStackClient
from rooms import DEADLINE_S, Rooms
from stack import STREAM_END, Frame, Json, answered, seqs, sse_frames, user_turn, without_turn
from waiting import wait_for

from shared.ids import TurnRef
from shared.log.keys import Keys

_RETRY_S = 0.1


@dataclass(frozen=True, kw_only=True)
class Followed:
    """A turn at its end: as the API shows it, as its log lies in the store, as a tail and the client saw it."""

    turn: Json
    log: list[Frame]
    tail: list[Frame]
    chunks: list[Any]

    @property
    def types(self) -> list[str]:
        """The log's types in order, without those of single tokens."""
        return [frame.type for frame in self.log if frame.type != "step_progress"]

    @property
    def steps(self) -> list[str]:
        return [step["step_type"] for step in self.turn["steps"]]

    @property
    def tool_responses(self) -> list[Json]:
        """What the tools of its finished steps gave."""
        return [response for step in self.turn["steps"] for response in step.get("tool_responses", [])]


@dataclass(kw_only=True)
class Site:
    """Rooms, seen from outside. `ports` are those of its APIs; a request goes to the first that answers."""

    rooms: Rooms
    ports: Sequence[int]
    threads: ThreadPoolExecutor

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """A request below `/v1`, made again as long as nobody answers or the answer is to come back later."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            for port in self.ports:
                try:
                    reply = httpx.request(method, f"http://127.0.0.1:{port}/v1{path}", timeout=DEADLINE_S, **options)
                except httpx.TransportError:
                    continue
                if reply.status_code != 503:
                    return reply
            assert time.monotonic() < deadline, f"nobody answers {method} {path}"
            time.sleep(_RETRY_S)

    def post(self, path: str, body: Json, *, key: str | None = None) -> Json:
        """The answer to a POST that may be repeated."""
        return answered(self.request("POST", path, json=body, headers={"Idempotency-Key": key or uuid4().hex}))

    def new_session(self, **config: Any) -> str:
        """A session of a new agent, as the path under which its turns lie."""
        agent_id = self.post("/agents", {"agent_config": {"instructions": "Be brief.", **config}})["agent_id"]
        path = f"/agents/{agent_id}/session"
        return f"{path}/{self.post(path, {'session_name': 'a session'})['session_id']}"

    def submit(self, session: str, text: str, *, key: str | None = None) -> Json:
        return self.post(f"{session}/turn", user_turn(text), key=key)

    def turn(self, session: str, turn_id: str) -> Json:
        return answered(self.request("GET", f"{session}/turn/{turn_id}"))

    def finished(self, session: str, turn_id: str) -> Json:
        """The turn once it has ended."""
        found: Json = {}

        def ended() -> bool:
            found.update(answered(self.request("GET", f"{session}/turn/{turn_id}", params={"wait": 5})))
            return found["completed_at"] is not None

        wait_for(ended, f"turn {turn_id} ends", seconds=2 * DEADLINE_S)
        return found

    def log(self, turn: Json) -> list[Frame]:
        """The turn's events as they lie in the store."""
        key = Keys("ts").turn(TurnRef("default", turn["session_id"], turn["turn_id"])).events
        with self.rooms.store() as client:
            return [
                Frame(entry_id.decode(), fields[b"t"].decode(), json.loads(fields[b"p"]))
                for entry_id, fields in client.xrange(key)
            ]

    def wait_for_events(self, turn: Json, count: int) -> None:
        """Return once the turn's log holds at least `count` events."""
        wait_for(lambda: len(self.log(turn)) >= count, f"the turn has {count} events", seconds=DEADLINE_S)

    def tail(self, session: str, turn_id: str) -> list[Frame]:
        """All events to the turn's end; a stream that breaks is taken up again where it broke."""
        frames: list[Frame] = []
        deadline = time.monotonic() + 2 * DEADLINE_S
        while not frames or frames[-1].type not in STREAM_END:
            assert time.monotonic() < deadline, f"turn {turn_id} did not end for its reader"
            for port in self.ports:
                self._take(f"http://127.0.0.1:{port}/v1{session}/turn/{turn_id}/events", frames)
        return frames

    def _take(self, url: str, frames: list[Frame]) -> None:
        after = {"Last-Event-ID": frames[-1].id} if frames else {}
        try:
            with httpx.stream("GET", url, headers=after, timeout=DEADLINE_S) as reply:
                if reply.status_code == 200:
                    frames.extend(sse_frames(reply.iter_lines()))
                    return
        except httpx.TransportError:
            pass
        time.sleep(_RETRY_S)

    def stream(self, session: str, text: str, key: str) -> list[Any]:
        """What the official client's stream of a submit yields; the key makes it one with an earlier submit."""
        _, agent_id, _, session_id = session.strip("/").split("/")
        with LlamaStackClient(base_url=f"http://127.0.0.1:{self.ports[0]}", max_retries=0) as client:
            return list(
                client.agents.turn.create(
                    agent_id=agent_id,
                    session_id=session_id,
                    messages=[{"role": "user", "content": text}],
                    stream=True,
                    extra_headers={"Idempotency-Key": key},
                    timeout=2 * DEADLINE_S,
                )
            )

    def follow(self, session: str, text: str) -> tuple[Json, "Future[Followed]"]:
        """Submit a turn; it is tailed, and streamed by the official client, from now on to its end."""
        key = uuid4().hex
        turn = self.submit(session, text, key=key)
        tail = self.threads.submit(self.tail, session, turn["turn_id"])
        chunks = self.threads.submit(self.stream, session, text, key)
        return turn, self.threads.submit(self._followed, session, turn, tail, chunks)

    def _followed(self, session: str, turn: Json, tail: "Future[Any]", chunks: "Future[Any]") -> Followed:
        ended = self.finished(session, turn["turn_id"])
        return Followed(
            turn=ended,
            log=self.log(turn),
            tail=tail.result(2 * DEADLINE_S),
            chunks=chunks.result(2 * DEADLINE_S),
        )


@contextmanager
def site_of(rooms: Rooms, *ports: int) -> Iterator[Site]:
    """The site of these APIs; its threads end with the block."""
    with ThreadPoolExecutor(64) as threads:
        yield Site(rooms=rooms, ports=ports, threads=threads)


def assert_whole(turn: Json, log: list[Frame], tail: list[Frame]) -> None:
    """The log is contiguous, ends once, closes each step, finishes none twice; and its reader read just that."""
    assert without_turn(tail) == log
    assert seqs(log) == list(range(1, len(log) + 1))
    epochs = [int(frame.id.partition("-")[2]) for frame in log]
    assert epochs == sorted(epochs)
    assert [frame.type for frame in log if frame.type in STREAM_END] == ["turn_complete"]
    assert (log[0].type, log[-1].type) == ("turn_created", "turn_complete")
    assert turn["status"] == "completed"
    assert tail[-1].payload["turn"] == turn
    started = [frame.payload["step_id"] for frame in log if frame.type == "step_start"]
    closed = [frame.payload["step_id"] for frame in log if frame.type in ("step_complete", "step_abandoned")]
    assert started == closed == list(dict.fromkeys(started))
    assert [frame.payload["step_id"] for frame in log if frame.type == "step_complete"] == [
        step["step_id"] for step in turn["steps"]
    ]


def assert_told(turn: Json, chunks: list[Any]) -> None:
    """What the official client saw is one story: a start, steps one by one, each closed, and the whole turn."""
    events = [chunk.event.payload for chunk in chunks]
    types = [event.event_type for event in events]
    assert types[0] == "turn_start"
    assert types.count("turn_start") == 1
    assert types.index("turn_complete") == len(types) - 1
    step: str | None = None
    for event in events[1:-1]:
        if event.event_type == "step_start":
            assert step is None, "a step begins within another"
            step = event.step_id
        else:
            assert event.step_id == step, f"{event.event_type} of a step that is not open"
            step = None if event.event_type == "step_complete" else step
    assert step is None, "a step is left open"
    assert events[-1].turn.turn_id == turn["turn_id"]
    assert events[-1].turn.output_message.content == turn["output_message"]["content"]
