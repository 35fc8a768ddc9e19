"""The upstream itself: what everything else is compared with."""

import json
import subprocess
import sys
from pathlib import Path

from bench.load.client import Client
from bench.load.plan import MODEL, Plan
from bench.load.reply import Reader, Reply
from bench.systems.base import System
from bench.systems.processes import Processes, Usage

ROOT = Path(__file__).resolve().parents[2]


class Direct(System):
    """Chat completions, streamed, without anything in between."""

    name = "direct"

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        environ = {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "bench.upstream"]
        started = processes.start("upstream", command, environ=environ, stdout=subprocess.PIPE)
        assert started.process.stdout is not None
        self.url = started.process.stdout.readline().decode().strip()
        self._client = Client(self.url)

    def until_ready(self) -> None:
        return

    async def prepare(self, count: int) -> None:
        return

    async def ask(self, plan: Plan, reply: Reply) -> None:
        body = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": plan.prompt()}]}
        reader = Reader(reply, token_sign=b'"delta":{"content"', end_sign=b"data: [DONE]")
        await self._client.stream("POST", "/chat/completions", json.dumps(body).encode(), on_body=reader.feed)

    def close(self) -> None:
        self._client.close()

    def usage(self, *, look_again: bool = True) -> Usage:
        return self._processes.usage(look_again=look_again)
