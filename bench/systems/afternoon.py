"""The Celery task per turn of `bench/peers/afternoon.py`."""

import json

from bench.load.client import Client
from bench.load.plan import Plan
from bench.load.reply import Reader, Reply
from bench.systems.base import Able, System
from bench.systems.environments import REQUIREMENTS, python_of
from bench.systems.processes import Processes, Usage, answers, free_port
from bench.systems.store import NOT_DURABLE, start_store

PROCESSES = 64
"""A prefork process runs one turn at a time; so many take 4 to 5 GB."""


class Afternoon(System):
    """Submitted (202), then followed on its events. Its store keeps nothing on disk."""

    name = "afternoon"
    able = Able(streams=PROCESSES)

    def __init__(self, processes: Processes, upstream_url: str) -> None:
        python = python_of("afternoon")
        self._processes = processes
        self._port = port = free_port()
        environ = {
            "REDIS_URL": start_store(processes, *NOT_DURABLE),
            "OPENAI_BASE_URL": upstream_url,
            "PYTHONPATH": str(REQUIREMENTS),
        }
        command = [python, "-m", "celery", "-A", "afternoon", "worker", "-c", str(PROCESSES), "-l", "warning"]
        self._worker = processes.start("worker", [*command, "--without-gossip", "--without-mingle"], environ=environ)
        api = [
            "-k",
            "gevent",
            "--worker-connections",
            "10000",
            "-b",
            f"127.0.0.1:{port}",
            "--no-control-socket",
            "afternoon:web",
        ]
        processes.start("api", [python, "-m", "gunicorn", *api], environ=environ)
        self._client = Client(f"http://127.0.0.1:{port}")

    def until_ready(self) -> None:
        self._processes.until(lambda: answers(self._port), "the afternoon's API answers")
        forked = "the afternoon's worker has forked"
        self._processes.until(lambda: len(self._worker.family()) > PROCESSES, forked, seconds=120)

    async def prepare(self, count: int) -> None:
        return

    async def ask(self, plan: Plan, reply: Reply) -> None:
        body = json.dumps({"messages": [{"role": "user", "content": plan.prompt()}]}).encode()
        status, answer = await self._client.fetch("POST", "/turns", body)
        if status != 202:
            raise RuntimeError(f"POST /turns: {status}")
        reader = Reader(reply, token_sign=b'"token":', end_sign=b"event: end")
        path = f"/turns/{json.loads(answer)['turn_id']}/events"
        await self._client.stream("GET", path, on_body=reader.feed)

    def close(self) -> None:
        self._client.close()

    def usage(self, *, look_again: bool = True) -> Usage:
        return self._processes.usage(look_again=look_again)
