"""Keeps the leases of this process's turns alive, from a child process.

A child, because a blocked gevent hub would stop a greenlet; and gated on the hub's progress: the child renews only
while ticks arrive, so a process that is wedged loses its leases and one that stalls for a second does not.
"""

import json
import logging
import subprocess
import sys
from collections.abc import Callable

import gevent
from gevent import subprocess as gsubprocess

from shared.ids import TurnRef
from worker.vital import spawn_vital

logger = logging.getLogger(__name__)

TICK_S = 0.5


class Heartbeat:
    """Owns the child. `on_notice(member, what)` hears `lost` or `cancel` for a turn that is held."""

    def __init__(
        self, *, redis_url: str, key_prefix: str, lease_s: float, on_notice: Callable[[str, str], None]
    ) -> None:
        self._hello = {"redis_url": redis_url, "key_prefix": key_prefix, "lease_s": lease_s}
        self._on_notice = on_notice
        self._held: dict[str, str] = {}
        self._child: gsubprocess.Popen | None = None
        self._greenlets: list[gevent.Greenlet] = []

    def start(self) -> None:
        self._spawn()
        self._greenlets = [spawn_vital("heartbeat ticks", self._tick), spawn_vital("heartbeat", self._listen)]

    def stop(self) -> None:
        for greenlet in self._greenlets:
            greenlet.kill()
        if self._child is not None:
            self._child.stdin.close()  # the child ends at the end of its input
            self._child.wait(timeout=5)

    def hold(self, ref: TurnRef, token: str) -> None:
        self._held[ref.member] = token
        self._send(f"+ {ref.member} {token}")

    def drop(self, ref: TurnRef) -> None:
        if self._held.pop(ref.member, None) is not None:
            self._send(f"- {ref.member}")

    def _spawn(self) -> None:
        self._child = gsubprocess.Popen(
            [sys.executable, "-m", "worker.heartbeat_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._send(json.dumps(self._hello))
        for member, token in self._held.items():
            self._send(f"+ {member} {token}")

    def _send(self, line: str) -> None:
        if self._child is None:
            return
        try:
            self._child.stdin.write(line.encode() + b"\n")
            self._child.stdin.flush()
        except OSError as error:
            # It has ended; `_listen` sees the same and starts another, which is told everything anew.
            logger.debug("heartbeat process does not listen: %s", error)

    def _tick(self) -> None:
        while True:
            self._send("tick")
            gevent.sleep(TICK_S)

    def _listen(self) -> None:
        while True:
            child = self._child
            assert child is not None  # noqa: S101 - set by start()
            for line in child.stdout:
                what, member = line.decode().split()
                self._on_notice(member, what)
            logger.warning("heartbeat process ended with %s, starting another", child.wait())
            gevent.sleep(TICK_S)
            self._spawn()
