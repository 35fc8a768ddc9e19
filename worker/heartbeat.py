"""Keeps the leases of this process's turns alive, from a child process.

A child, because a blocked gevent hub would stop a greenlet; and gated on the hub's progress: the child renews only
while ticks arrive, so a process that is wedged loses its leases and one that stalls for a second does not.
"""

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import IO

import gevent
from gevent import subprocess as gsubprocess
from gevent.event import Event as Signal
from gevent.queue import SimpleQueue

from shared.ids import TurnRef
from worker.vital import spawn_vital

logger = logging.getLogger(__name__)

_TICKS_PER_LEASE = 10
_LONGEST_TICK_S = 0.5


class Heartbeat:
    """Owns the child. `on_notice(member, what)` hears `lost` or `cancel` for a turn that is held."""

    def __init__(
        self, *, redis_url: str, key_prefix: str, lease_s: float, on_notice: Callable[[str, str], None]
    ) -> None:
        self._hello = {"redis_url": redis_url, "key_prefix": key_prefix, "lease_s": lease_s}
        # Well below the child's patience, also where the lease is short.
        self._tick_s = min(_LONGEST_TICK_S, lease_s / _TICKS_PER_LEASE)
        self._on_notice = on_notice
        self._held: dict[str, str] = {}
        self._lines: SimpleQueue[str] = SimpleQueue()
        self._child: gsubprocess.Popen | None = None
        self._greenlet: gevent.Greenlet | None = None
        self._ready = Signal()

    @property
    def pid(self) -> int | None:
        """The child's process id, for logs and tests; None before it has started."""
        return self._child.pid if self._child else None

    def start(self) -> None:
        self._greenlet = spawn_vital("heartbeat", self._run)

    def stop(self) -> None:
        if self._greenlet is not None:
            self._greenlet.kill()
        if self._child is not None:
            self._child.kill()  # it holds nothing that could be torn
            self._child.wait()

    def wait_ready(self) -> None:
        """Wait for the first child to be at work: a turn that was claimed before might lose its lease."""
        self._ready.wait()

    def hold(self, ref: TurnRef, token: str) -> None:
        self._held[ref.member] = token
        self._lines.put(f"+ {ref.member} {token}")

    def drop(self, ref: TurnRef) -> None:
        if self._held.pop(ref.member, None) is not None:
            self._lines.put(f"- {ref.member}")

    def _run(self) -> None:
        """One child after the other; each is told everything anew."""
        while True:
            child = self._child = gsubprocess.Popen(
                [sys.executable, "-m", "worker.heartbeat_process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            lines = self._lines = SimpleQueue()
            lines.put(json.dumps(self._hello))
            for member, token in self._held.items():
                lines.put(f"+ {member} {token}")
            feeder = spawn_vital("heartbeat ticks", partial(self._feed, child.stdin, lines))
            with child.stdout:
                for line in child.stdout:
                    self._heard(*line.decode().split())
            feeder.kill()
            logger.warning("heartbeat process ended with %s, starting another", child.wait())
            gevent.sleep(self._tick_s)

    def _feed(self, pipe: IO[bytes], lines: "SimpleQueue[str]") -> None:
        """The only one that writes to a child: two greenlets in one pipe's buffer break it. Ends with the child.

        Lines wait for the next tick: most turns end before it, and a write for each line costs more than a claim.
        """
        with suppress(OSError), pipe:
            while True:
                waiting = [lines.get() for _ in range(lines.qsize())]
                pipe.write("".join(f"{line}\n" for line in [*waiting, "tick"]).encode())
                pipe.flush()
                gevent.sleep(self._tick_s)

    def _heard(self, what: str, member: str = "", token: str = "") -> None:
        if what == "ready":
            self._ready.set()
        elif self._held.get(member) == token:  # of an earlier claim it says nothing about this one
            self._on_notice(member, what)
