"""Speaks with MCP servers by a child process.

The official SDK is asyncio. In a process that gevent has patched, asyncio would run on patched sockets, locks and
threads; a child has plain ones, a crash there is no crash here, and its CPU time is taken from no turn.
"""

import logging
import subprocess
import sys
from contextlib import suppress
from itertools import count
from typing import IO

import gevent
import orjson
from gevent import subprocess as gsubprocess
from gevent.event import AsyncResult
from gevent.queue import SimpleQueue

from worker.providers.tools_mcp_faults import Fault, Json, RequestFailed

logger = logging.getLogger(__name__)

# The child keeps the times itself; one that says nothing so long after is wedged.
GRACE_S = 15.0
FAREWELL_S = 3.0


class McpBridge:
    """One per worker process; many providers and greenlets use it. The child is started when it is first needed."""

    def __init__(self, *, grace_s: float = GRACE_S) -> None:
        self._grace_s = grace_s
        self._numbers = count(1)
        self._child: _Child | None = None
        self._users = 0

    @property
    def pid(self) -> int | None:
        """The child's process id, for logs and tests; None while there is none."""
        return self._child.pid if self._child and not self._child.ended else None

    def open(self) -> None:
        """One more provider uses it."""
        self._users += 1

    def close(self) -> None:
        """One provider less; the last one ends the child."""
        self._users -= 1
        if self._users <= 0 and self._child is not None:
            child, self._child = self._child, None
            child.end()

    def ask(self, request: Json, *, timeout_s: float) -> Json:
        """The answer's `result`. Raises RequestFailed; a greenlet that is killed meanwhile cancels the request."""
        child = self._running()
        number = next(self._numbers)
        answer = child.ask(number, request)
        try:
            answer.wait(timeout=timeout_s + self._grace_s)
            if not answer.ready():
                logger.warning("the MCP process %s does not answer, another one is started", child.pid)
                child.kill()
                raise RequestFailed(Fault(kind="timeout"))
        finally:
            child.forget(number)
        found: Json = answer.get()
        if "fault" in found:
            raise RequestFailed(Fault(**found["fault"]))
        return found

    def tell(self, request: Json) -> None:
        """Send what needs no answer; where there is no child there is nobody to tell."""
        if self._child is not None and not self._child.ended:
            self._child.tell(request)

    def _running(self) -> "_Child":
        if self._child is None or self._child.ended:
            self._child = _Child()
        return self._child


class _Child:
    """One process, the requests that wait for it, and the two greenlets that own its pipes."""

    def __init__(self) -> None:
        self._process = gsubprocess.Popen(
            [sys.executable, "-m", "worker.providers.tools_mcp_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.pid: int = self._process.pid
        self.ended = False
        self._lines: SimpleQueue[bytes] = SimpleQueue()
        self._waiting: dict[int, AsyncResult] = {}
        self._feeder = gevent.spawn(self._feed, self._process.stdin)
        self._reader = gevent.spawn(self._read, self._process.stdout)

    def ask(self, number: int, request: Json) -> AsyncResult:
        answer = self._waiting[number] = AsyncResult()
        self.tell({**request, "id": number})
        return answer

    def tell(self, request: Json) -> None:
        self._lines.put(orjson.dumps(request) + b"\n")

    def forget(self, number: int) -> None:
        """Nobody waits for it any more; cancelled, if it is still under way."""
        answer = self._waiting.pop(number)
        if not answer.ready() and not self.ended:
            self.tell({"op": "cancel", "id": number})

    def kill(self) -> None:
        self.ended = True
        with suppress(ProcessLookupError):
            self._process.kill()

    def end(self) -> None:
        """Its input ends, and it leaves its sessions; not for long."""
        self._feeder.kill()
        with suppress(OSError):
            self._process.stdin.close()
        if self._process.wait(timeout=FAREWELL_S) is None:
            self.kill()
        self._reader.join(timeout=FAREWELL_S)

    def _feed(self, pipe: IO[bytes]) -> None:
        """The only one that writes: two greenlets in one pipe's buffer break it. Ends with the child."""
        with suppress(OSError):
            while True:
                pipe.write(self._lines.get())
                pipe.flush()

    def _read(self, pipe: IO[bytes]) -> None:
        try:
            with pipe:
                for line in pipe:
                    found = orjson.loads(line)
                    answer = self._waiting.get(found["id"])
                    if answer is not None:
                        answer.set(found)
        finally:
            self._gone()

    def _gone(self) -> None:
        if not self.ended:
            logger.info("the MCP process %s has ended", self.pid)
        self.ended = True
        self._feeder.kill(block=False)
        with suppress(OSError):
            self._process.stdin.close()
        fault = {"fault": Fault(kind="interrupted", said="the MCP process ended").as_json()}
        for answer in self._waiting.values():
            if not answer.ready():
                answer.set(fault)
