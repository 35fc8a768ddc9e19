"""A child process that answers requests, one after the other, over its pipes."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import gevent
from gevent import subprocess as gsubprocess

Json = dict[str, Any]

# An interpreter on a machine that has much else to do; and a request that goes through a pipe there.
START_S = 60.0
FAREWELL_S = 3.0
# What runs there should not find the worker's keys.
_ENVIRONMENT = frozenset(
    {"DYLD_LIBRARY_PATH", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "PATH", "PYTHONHOME", "PYTHONPATH", "TMPDIR"}
)


class ChildGone(Exception):
    """The child has ended, or does not get to its work. `begun`: it had begun with the request."""

    def __init__(self, *, begun: bool) -> None:
        super().__init__()
        self.begun = begun


class ChildTooSlow(Exception):
    """The child did not answer in time."""


class PipedChild:
    """For one greenlet at a time. After any error of `ask` it can only be killed.

    `module` is run with its parent's process id (`parent`) and `started` as JSON. It says `ready`. A request is a line
    of JSON, whose `size` says how many bytes follow; it says `begun` once it has them, then answers in the same way,
    where no `size` is none. It ends with its input. Of the worker's environment it gets what is no secret, and
    `environment`.
    """

    def __init__(self, module: str, started: Json, *, environment: Mapping[str, str] | None = None) -> None:
        self._process = gsubprocess.Popen(
            [sys.executable, "-m", module, json.dumps({**started, "parent": os.getpid()})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={name: value for name, value in os.environ.items() if name in _ENVIRONMENT} | dict(environment or {}),
        )
        self.pid: int = self._process.pid
        self._is_ready = False

    @property
    def has_ended(self) -> bool:
        """Whether it is known to have ended."""
        return self._process.poll() is not None

    def ask(self, request: Json, body: bytes, *, timeout_s: float) -> tuple[Json, bytes]:
        """The answer and its bytes, at most `timeout_s` after it has begun. Raises ChildGone and ChildTooSlow."""
        with _at_most(START_S, ChildGone(begun=False)):
            if not self._is_ready:
                self._expect(b"ready\n")
                self._is_ready = True
            self._send({**request, "size": len(body)}, body)
            self._expect(b"begun\n")
        with _at_most(timeout_s, ChildTooSlow()):
            try:
                answer: Json = json.loads(self._process.stdout.readline())
                found: bytes = self._process.stdout.read(answer.get("size", 0))
            except ValueError:
                raise ChildGone(begun=True) from None
        if len(found) < answer.get("size", 0):
            raise ChildGone(begun=True)
        return answer, found

    def kill(self) -> None:
        """Now. What it is asked for is answered with ChildGone."""
        with suppress(ProcessLookupError):
            self._process.kill()

    def end(self, *, now: bool = False) -> int | None:
        """At once, or with its input, but soon. What it ended with; None if it does not."""
        if now:
            self.kill()
            self._process.wait(timeout=FAREWELL_S)
        with suppress(OSError):
            self._process.stdin.close()
        if self._process.wait(timeout=FAREWELL_S) is None:
            self.kill()
        self._process.stdout.close()
        code: int | None = self._process.wait(timeout=FAREWELL_S)
        return code

    def _send(self, request: Json, body: bytes) -> None:
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.write(body)
            self._process.stdin.flush()
        except OSError:
            raise ChildGone(begun=False) from None

    def _expect(self, line: bytes) -> None:
        if self._process.stdout.readline() != line:
            raise ChildGone(begun=False)


@contextmanager
def _at_most(seconds: float, otherwise: Exception) -> Iterator[None]:
    with gevent.Timeout(seconds) as timer:
        try:
            yield
        except gevent.Timeout as fired:
            if fired is not timer:
                raise
            raise otherwise from None
