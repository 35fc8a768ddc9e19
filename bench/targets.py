"""The systems that are measured, each behind the same port."""

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

from client import Client
from upstream import MODEL, Plan, ages_us, now_us


@dataclass(slots=True)
class Reply:
    """One reply as its reader saw it. Times in µs, from the moment before the request was sent."""

    first_token: int = -1
    end: int = -1
    tokens: int = 0
    events: int = 0
    ages: list[int] = field(default_factory=list)
    """How long each token was under way."""
    complete: bool = False


class Reader:
    """Takes a stream of server-sent events apart and fills a `Reply`."""

    def __init__(self, *, token_sign: bytes, end_sign: bytes) -> None:
        self.reply = Reply()
        self.started = now_us()
        self._token_sign = token_sign
        self._end_sign = end_sign
        self._rest = b""

    def feed(self, data: bytes, at: int) -> None:
        *frames, self._rest = (self._rest + data).split(b"\n\n") if self._rest else data.split(b"\n\n")
        for frame in frames:
            if self._token_sign in frame:
                self._tokens(frame, at)
            elif self._end_sign in frame:
                self.reply.complete = True
                self.reply.end = at - self.started

    def _tokens(self, frame: bytes, at: int) -> None:
        ages = ages_us(frame, at)
        if not ages:
            return
        reply = self.reply
        if not reply.tokens:
            reply.first_token = at - self.started
        reply.tokens += len(ages)
        reply.events += 1
        reply.ages += ages


class Target(ABC):
    """A system that answers a plan. `prepare` is called before the clock starts, `ask` by many tasks at once."""

    name: str

    @abstractmethod
    async def prepare(self, count: int) -> None:
        """Have ready what `count` replies need and what is not part of a reply's cost."""

    @abstractmethod
    async def ask(self, plan: Plan) -> Reply:
        """One reply. Raises ConnectionError and RuntimeError for what is none."""

    @abstractmethod
    def close(self) -> None:
        """Drop idle connections: the server will, and a request could be lost in that."""


class Direct(Target):
    """The upstream itself: what everything else is compared with."""

    name = "direct"

    def __init__(self, url: str) -> None:
        self._client = Client(url)

    async def prepare(self, count: int) -> None:
        return

    async def ask(self, plan: Plan) -> Reply:
        body = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": plan.prompt()}]}
        reader = Reader(token_sign=b'"delta":{"content"', end_sign=b"data: [DONE]")
        await self._client.send("POST", "/chat/completions", json.dumps(body).encode(), on_body=reader.feed)
        return reader.reply

    def close(self) -> None:
        self._client.close()


class Turnstone(Target):
    """Turns in sessions of their own, so that no history is read."""

    def __init__(self, url: str) -> None:
        self.client = Client(f"{url}/v1")
        self._agent = ""
        self._sessions: list[str] = []

    async def prepare(self, count: int) -> None:
        if not self._agent:
            config = {"model": MODEL, "instructions": "", "enable_session_persistence": True}
            self._agent = (await self._created("/agents", {"agent_config": config}))["agent_id"]
        path = f"/agents/{self._agent}/session"
        while len(self._sessions) < count:
            session = await self._created(path, {"session_name": "bench"})
            self._sessions.append(f"{path}/{session['session_id']}/turn")

    def close(self) -> None:
        self.client.close()

    def turns_path(self) -> str:
        """Where to post the next turn: a session that has none yet."""
        return self._sessions.pop()

    def reader(self) -> Reader:
        return Reader(token_sign=b'"event_type":"step_progress"', end_sign=b'"event_type":"turn_complete"')

    async def _created(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        status, answer = await self.client.fetch("POST", path, json.dumps(body).encode())
        if status not in (200, 201):
            raise RuntimeError(f"POST {path}: {status} {answer.decode()}")
        created: dict[str, Any] = json.loads(answer)
        return created


class TurnstonePost(Turnstone):
    """A turn that is posted with `stream: true` and read from the answer."""

    name = "post"

    async def ask(self, plan: Plan) -> Reply:
        reader = self.reader()
        body = turn_body(plan, stream=True)
        await self.client.send("POST", self.turns_path(), body, on_body=reader.feed)
        return reader.reply


class TurnstoneTail(Turnstone):
    """A turn that is submitted, and then tailed."""

    name = "tail"

    async def ask(self, plan: Plan) -> Reply:
        reader = self.reader()
        path = self.turns_path()
        status, answer = await self.client.fetch("POST", path, turn_body(plan))
        if status != 202:
            raise RuntimeError(f"POST {path}: {status} {answer.decode()}")
        events = f"{path}/{json.loads(answer)['turn_id']}/events"
        await self.client.send("GET", events, on_body=reader.feed, accept="text/event-stream")
        return reader.reply


def turn_body(plan: Plan, **more: Any) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": plan.prompt()}], **more}).encode()
