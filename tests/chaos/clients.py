"""The backends and users of a campaign: they submit, follow, answer, cancel, try again, and write down what they see.

A submit whose outcome is unknown is repeated with its Idempotency-Key until it is answered; a reader that is cut off
goes on after the last id that it has.
"""

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from chaos.evidence import Accepted, Evidence, Read, Work
from chaos.http_client import Broken, Reply, request, requested
from chaos.memory_plans import MEANINGS, QUERY, WORDS
from chaos.plans import ASK, CHARGE, LOOK, Plan

Json = dict[str, Any]

TERMINAL = ("turn_complete", "turn_failed", "turn_canceled")
AWAITING = "turn_awaiting_input"
STREAM, LONG_POLL, PAGES = "stream", "long poll", "pages"

PLAIN, REMEMBERING, SEARCHING = "plain", "remembering", "searching"
"""Agents: without memory; with a look into it before each turn; and with another one as a tool."""
_MEMORY = {
    REMEMBERING: {
        "memory_bank_configs": [{"bank_id": MEANINGS, "mode": "hybrid"}, {"bank_id": WORDS}],
        "query_generator_config": {"type": "custom", "query": QUERY},
        "max_chunks": 6,
    },
    SEARCHING: {"memory_bank_configs": [{"bank_id": MEANINGS}], "max_chunks": 4},
}
_SEARCH_TOOL = {"name": "builtin::rag/knowledge_search", "args": {"vector_db_ids": [MEANINGS, WORDS]}}

_SILENCE_S = 20.0
"""A stream carries a ping every 15 s."""


@dataclass(frozen=True, kw_only=True)
class Visit:
    """One session: its turns, whether they are submitted all at once or each after the one before, and its agent."""

    plans: list[Plan]
    at_once: bool
    agent: str = PLAIN


class Clients:
    """All clients of a run. `ports` are those of the APIs; each request goes to one of them by chance."""

    def __init__(self, *, ports: Sequence[int], evidence: Evidence, seed: int) -> None:
        self._ports = list(ports)
        self._evidence = evidence
        self._chance = random.Random(f"clients {seed}")
        self._agents: dict[str, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.active: dict[str, Work] = {}
        """Turns and jobs that no client has seen end yet."""
        self.ended = 0

    async def open(self, *, model: str, toolgroup: str) -> None:
        """Create the agents that all use; the banks of their memory are there."""
        ask = {"name": ASK, "description": "Ask the user.", "parameters": []}
        for name in (PLAIN, REMEMBERING, SEARCHING):
            config = {
                "model": model,
                "instructions": "Follow the plan.",
                "toolgroups": [toolgroup, *([_SEARCH_TOOL] if name == SEARCHING else [])],
                "client_tools": [ask],
                **({"memory": _MEMORY[name]} if name in _MEMORY else {}),
            }
            reply = await self.answered("POST", "/v1/agents", body={"agent_config": config}, key=uuid4().hex)
            self._agents[name] = reply.json()["agent_id"]

    async def visit(self, visit: Visit) -> None:
        """A session with its turns, until all of them have ended in the eyes of their readers."""
        path = f"/v1/agents/{self._agents[visit.agent]}/session"
        reply = await self.answered("POST", path, body={"session_name": "a visit"}, key=uuid4().hex)
        session_id = reply.json()["session_id"]
        following: list[Awaitable[Any]] = []
        for plan in visit.plans:
            turn = await self._submit(session_id, plan, visit.agent)
            follow = asyncio.gather(*self._life(turn))
            if visit.at_once:
                following.append(follow)
            else:
                await follow
        await asyncio.gather(*following)

    async def _submit(self, session_id: str, plan: Plan, agent: str) -> Accepted:
        body = {"messages": [{"role": "user", "content": plan.message()}]}
        path = f"/v1/agents/{self._agents[agent]}/session/{session_id}/turn"
        tries: list[int] = []
        reply = await self.answered("POST", path, body=body, key=uuid4().hex, tries=tries)
        turn = Accepted(
            key=plan.key,
            turn_id=reply.json()["turn_id"],
            agent_id=self._agents[agent],
            session_id=session_id,
            at=time.time(),
            tries=len(tries),
            answer=plan.answer(),
            calls=[[call["id"] for call in plan.calls(number)] for number in range(len(plan.rounds))],
            remembers=agent in _MEMORY,
        )
        self._evidence.accepted.append(turn)
        self.active[turn.turn_id] = turn
        return turn

    def _life(self, turn: Accepted) -> list[Awaitable[None]]:
        """Everything that clients do with a turn: one or two readers, and now and then a cancel."""
        doings = self.readers(turn)
        if self._chance.random() < 0.05:
            doings.append(self.cancel(turn))
        return doings

    def readers(self, work: Work) -> list[Awaitable[None]]:
        """One or two, each in a way of its own."""
        number = 2 if self._chance.random() < 0.15 else 1
        ways = [self._chance.choices((STREAM, LONG_POLL, PAGES), (6, 2, 2))[0] for _ in range(number)]
        return [self._read(work, how, first=place == 0) for place, how in enumerate(ways)]

    async def cancel(self, work: Work) -> None:
        await asyncio.sleep(self._chance.uniform(0.0, 3.0))
        work.cancel_asked = True
        reply = await self.answered("POST", f"{work.path}/cancel", body={}, fine=(200, 202, 409))
        work.cancel_status = reply.status

    async def _read(self, work: Work, how: str, *, first: bool) -> None:
        """Read a turn to its end. The first of its readers also answers what it asks of its client."""
        read = Read(turn_id=work.turn_id, how=how)
        self._evidence.reads.append(read)
        ways: dict[str, Callable[[Work, Read, bool], Awaitable[None]]] = {STREAM: self._stream}
        while not read.ended:
            read.connections += 1
            try:
                await ways.get(how, self._pages)(work, read, first)
            except Broken:
                await asyncio.sleep(self._chance.uniform(0.05, 0.5))
        if first:
            self.active.pop(work.turn_id, None)
            self.ended += isinstance(work, Accepted)

    async def _stream(self, turn: Work, read: Read, first: bool) -> None:
        """One connection of a reader of server-sent events; now and then it leaves by itself."""
        headers = {"last-event-id": read.frames[-1][0]} if read.frames else {}
        leave_after = self._chance.randint(3, 40) if self._chance.random() < 0.15 else None
        had = len(read.frames)
        async with requested(
            self._port(), "GET", f"{turn.path}/events", headers=headers, patience_s=_SILENCE_S
        ) as answer:
            if answer.status == 204:
                self._mark_end(read)
                return
            if answer.status != 200:
                await self.refused("GET events", Reply(answer.status, answer.headers, b""))
                return
            rest = b""
            async for piece in answer.pieces(_SILENCE_S):
                *frames, rest = (rest + piece).split(b"\n\n")
                for frame in frames:
                    self._take_frame(turn, read, frame, first)
                if read.ended or (leave_after is not None and len(read.frames) - had >= leave_after):
                    return

    def _take_frame(self, turn: Work, read: Read, frame: bytes, first: bool) -> None:
        fields = dict(line.split(": ", 1) for line in frame.decode().split("\n") if line and not line.startswith(":"))
        if "data" not in fields:
            return
        # {"event": {"payload": …}}: the payload as it came, byte for byte.
        payload = fields["data"].removeprefix('{"event": {"payload": ').removesuffix("}}")
        self._take(turn, read, fields.get("id", ""), fields["event"], payload, first)

    async def _pages(self, turn: Work, read: Read, first: bool) -> None:
        """One page of events, waited for or asked for every now and then."""
        after = f"&after={read.frames[-1][0]}" if read.frames else ""
        wait = 10 if read.how == LONG_POLL else 0
        path = f"{turn.path}/events?wait={wait}&limit={self._chance.choice((5, 50, 500))}{after}"
        reply = await request(self._port(), "GET", path)
        if reply.status != 200:
            await self.refused("GET events", reply)
            return
        page = reply.json()
        for item in page["data"]:
            payload = item["event"]["payload"]
            self._take(turn, read, item["id"], payload["event_type"], json.dumps(payload), first)
        if read.how == PAGES and not page["has_more"]:
            await asyncio.sleep(self._chance.uniform(0.2, 1.0))

    def _take(self, turn: Work, read: Read, event_id: str, kind: str, payload: str, first: bool) -> None:
        if kind == "reset":
            read.resets += 1
            return
        read.frames.append([event_id, kind, payload])
        if kind in TERMINAL:
            self._mark_end(read)
        if kind == AWAITING and first and isinstance(turn, Accepted):
            task = asyncio.create_task(self._resume(turn, read, json.loads(payload)["tool_calls"]))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _mark_end(self, read: Read) -> None:
        read.ended = True

    async def _resume(self, turn: Accepted, read: Read, calls: list[Json]) -> None:
        """Answer the calls of client tools; with the same body until it is known to have arrived.

        The log knows the last resume only: where the turn has gone on and waited again meanwhile, a repetition is
        refused, and the client looks into what it has read.
        """
        await asyncio.sleep(self._chance.choice((0.0, 0.05, 0.5)))
        contents = {call["call_id"]: f"said {call['call_id']} {uuid4().hex}" for call in calls}
        responses = [
            {"call_id": call["call_id"], "tool_name": call["tool_name"], "content": contents[call["call_id"]]}
            for call in calls
        ]
        body = {"tool_responses": responses}
        # A turn that was canceled meanwhile refuses, rightly.
        fine = (202, 409) if turn.cancel_asked else (202,)
        tries: list[int] = []
        path = f"{turn.path}/resume"
        reply = await self.answered("POST", path, body=body, fine=(*fine, 409, 422), tries=tries)
        arrived = reply.status == 202
        if reply.status != 202 and len(tries) > 1:
            arrived = any(
                kind == "turn_resumed" and json.loads(text)["tool_responses"][0]["content"] in contents.values()
                for _, kind, text in read.frames
            )
        if arrived:
            turn.resumes.append({"responses": contents})
        elif reply.status not in fine:
            await self.refused(f"POST {path}", reply)

    async def answered(
        self,
        method: str,
        path: str,
        *,
        body: Json | None = None,
        key: str | None = None,
        fine: tuple[int, ...] = (200, 201, 202),
        tries: list[int] | None = None,
        later: bytes | None = None,
    ) -> Reply:
        """Repeat a request until it is answered. A refusal with the code `later` says to come back, as a 503 does."""
        headers = {} if key is None else {"idempotency-key": key}
        while True:
            if tries is not None:
                tries.append(1)
            try:
                reply = await request(self._port(), method, path, body=body, headers=headers)
            except Broken:
                await asyncio.sleep(self._chance.uniform(0.05, 0.5))
                continue
            if reply.status in fine:
                return reply
            await self.refused(f"{method} {path}", reply, later)

    async def refused(self, what: str, reply: Reply, later: bytes | None = None) -> None:
        """503 says to come back; anything else that is not expected is evidence."""
        codes = (b"idempotency_key_in", *([later] if later else []))
        if reply.status != 503 and not any(code in reply.body for code in codes):
            self._evidence.refused.append(f"{what}: {reply.status} {reply.body[:300].decode(errors='replace')}")
        await asyncio.sleep(self._chance.uniform(0.2, 0.6))

    def _port(self) -> int:
        return self._chance.choice(self._ports)


def tool_config(port: int) -> Json:
    """The run config's provider of the campaign's tools."""
    number = {"type": "integer"}
    schema = {
        "type": "object",
        "properties": {"turn": {"type": "string"}, "round": number, "place": number, "ms": number},
        "required": ["turn", "round", "place", "ms"],
    }
    tools = [
        {"name": name, "url": f"http://127.0.0.1:{port}/{name}", "parameters": schema, "replay": replay}
        for name, replay in ((CHARGE, "never"), (LOOK, "safe"))
    ]
    return {"provider_id": "effects", "provider_type": "remote::http", "config": {"tools": tools}}
