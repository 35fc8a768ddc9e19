"""Turnstone: store, API processes and workers, each a process of its own, as a deployment starts them."""

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from bench.bank import EMBEDDING_MODEL
from bench.load.client import Client
from bench.load.plan import MODEL, Plan
from bench.load.reply import Reader, Reply
from bench.systems.base import System
from bench.systems.processes import Processes, Started, Usage, answers, free_port, get
from bench.systems.store import DURABLE, FSYNC, start_store
from shared.cli.stack import API_COMMAND, JOBS_AT_ONCE, WORKER_COMMAND
from shared.queues import MEMORY_QUEUE

KEY_PREFIX = "ts"
AT_ONCE = 16
BANK = "bench"
EVENTS = "text/event-stream"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How many processes serve, and how safe an accepted turn is. With `memory` there is a bank, and a worker of
    insert jobs."""

    workers: int = 1
    api_processes: int = 1
    durability: str = "none"
    memory: bool = False


PLAIN = Shape()


class Stack:
    """A healthy stack that serves the upstream's model."""

    def __init__(self, processes: Processes, upstream_url: str, shape: Shape = PLAIN) -> None:
        self.processes = processes
        self.store_url = start_store(processes, *(FSYNC if shape.durability == "fsync" else DURABLE))
        self._config = processes.folder / "turnstone.yaml"
        self._config.write_text(json.dumps(self._run_config(upstream_url, shape)))
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.metrics_urls: list[str] = []
        self.workers = [self._worker() for _ in range(shape.workers)]
        self.memory = self._memory_worker() if shape.memory else None
        api = {"TURNSTONE_PORT": str(port), "TURNSTONE_API_PROCESSES": str(shape.api_processes)}
        self.api = processes.start("api", API_COMMAND, environ={**self._environ(), **api})
        self._shape = shape

    def until_ready(self) -> None:
        self.processes.until(self._is_ready, "all workers serve the model")

    def store(self) -> "redis.Redis":
        """A client of the store; use it as a context manager."""
        return redis.Redis.from_url(self.store_url)

    def _worker(self) -> Started:
        port = free_port()
        self.metrics_urls.append(f"http://127.0.0.1:{port}/metrics")
        environ = {**self._environ(), "TURNSTONE_QUEUE": "turns", "TURNSTONE_METRICS_PORT": str(port)}
        return self.processes.start("worker", WORKER_COMMAND, environ=environ)

    def _memory_worker(self) -> Started:
        """As `turnstone dev` starts it."""
        self._memory_port = free_port()
        own = {"TURNSTONE_QUEUE": MEMORY_QUEUE, "TURNSTONE_CONCURRENCY": str(JOBS_AT_ONCE)}
        port = {"TURNSTONE_METRICS_PORT": str(self._memory_port)}
        return self.processes.start("memory", WORKER_COMMAND, environ={**self._environ(), **own, **port})

    @property
    def memory_file(self) -> Path:
        """Where the bank lies."""
        return self.processes.folder / "memory.sqlite3"

    def _environ(self) -> dict[str, str]:
        return {
            "TURNSTONE_REDIS_URL": self.store_url,
            "TURNSTONE_BROKER_URL": self.store_url,
            "TURNSTONE_CONFIG": str(self._config),
            "TURNSTONE_KEY_PREFIX": KEY_PREFIX,
            "TMPDIR": str(self.processes.folder),
        }

    def _is_ready(self) -> bool:
        if MODEL not in get(f"{self.url}/v1/models"):
            return False
        if self._shape.memory and not self._remembers():
            return False
        return int(json.loads(get(f"{self.url}/v1/health") or "{}").get("workers", 0)) >= self._shape.workers

    def _remembers(self) -> bool:
        return f'"{BANK}"' in get(f"{self.url}/v1/memory-banks") and answers(self._memory_port)

    def _run_config(self, upstream_url: str, shape: Shape) -> dict[str, Any]:
        provider = {"provider_id": "bench", "provider_type": "remote::openai", "config": {"url": upstream_url}}
        config: dict[str, Any] = {"providers": {"inference": [provider]}}
        if shape.durability != "none":
            config["durability"] = shape.durability
        if shape.memory:
            file = {"path": str(self.memory_file)}
            memory = {"provider_id": "bank", "provider_type": "inline::sqlite", "config": file}
            config["providers"]["memory"] = [memory]
            config["memory_banks"] = [{"memory_bank_id": BANK, "type": "vector", "embedding_model": EMBEDDING_MODEL}]
        return config


class Turnstone(System):
    """Turns in sessions of their own, so that no history is read: submitted (202), then followed on their events."""

    name = "turnstone"

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.client = Client(f"{stack.url}/v1")
        self._agent = ""
        self._more: dict[str, Any] = {}
        """What its agents have beside a model."""
        self._sessions: list[str] = []

    def until_ready(self) -> None:
        self.stack.until_ready()

    async def prepare(self, count: int) -> None:
        await self._have_agent()
        while (missing := count - len(self._sessions)) > 0:
            self._sessions += await asyncio.gather(*(self.new_session() for _ in range(min(AT_ONCE, missing))))

    async def ask(self, plan: Plan, reply: Reply) -> None:
        turn = await self.submit(self._sessions.pop(), plan)
        await self.follow(turn, reply)

    async def new_session(self) -> str:
        """The path of a new session."""
        await self._have_agent()
        path = f"/agents/{self._agent}/session"
        session = await self._created(path, {"session_name": "bench"})
        return f"{path}/{session['session_id']}"

    async def submit(self, session: str, plan: Plan) -> str:
        """The path of a new turn, once it is accepted."""
        status, answer = await self.client.fetch("POST", f"{session}/turn", self.body(plan))
        if status != 202:
            raise RuntimeError(f"POST {session}/turn: {status} {answer.decode()}")
        return f"{session}/turn/{json.loads(answer)['turn_id']}"

    async def follow(self, turn: str, reply: Reply) -> None:
        """Read a turn's events to their end."""
        await self.client.stream("GET", f"{turn}/events", on_body=self.reader(reply).feed, accept=EVENTS)

    async def turn(self, path: str, *, wait_s: int = 0) -> dict[str, Any]:
        """A turn as it is now, or as soon as it rests."""
        status, answer = await self.client.fetch("GET", f"{path}?wait={wait_s}" if wait_s else path)
        if status != 200:
            raise RuntimeError(f"GET {path}: {status} {answer.decode()}")
        found: dict[str, Any] = json.loads(answer)
        return found

    def body(self, plan: Plan) -> bytes:
        """What a turn is submitted with."""
        return turn_body(plan)

    def reader(self, reply: Reply) -> Reader:
        return Reader(reply, token_sign=b'"event_type":"step_progress"', end_sign=b'"event_type":"turn_complete"')

    def close(self) -> None:
        self.client.close()

    def usage(self, *, look_again: bool = True) -> Usage:
        return self.stack.processes.usage(look_again=look_again)

    async def _have_agent(self) -> None:
        if not self._agent:
            config = {"model": MODEL, "instructions": "", "enable_session_persistence": True, **self._more}
            self._agent = (await self._created("/agents", {"agent_config": config}))["agent_id"]

    async def _created(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        status, answer = await self.client.fetch("POST", path, json.dumps(body).encode())
        if status not in (200, 201):
            raise RuntimeError(f"POST {path}: {status} {answer.decode()}")
        created: dict[str, Any] = json.loads(answer)
        return created


class TurnstonePost(Turnstone):
    """A turn that is posted with `stream: true` and read from the answer."""

    name = "turnstone, stream: true"

    async def ask(self, plan: Plan, reply: Reply) -> None:
        path = f"{self._sessions.pop()}/turn"
        await self.client.stream("POST", path, turn_body(plan, stream=True), on_body=self.reader(reply).feed)


def turn_body(plan: Plan, **more: Any) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": plan.prompt()}], **more}).encode()
