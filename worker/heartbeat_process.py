"""The child behind `worker.heartbeat`: reads turns and ticks from its input, renews leases, prints notices.

Input: a first line of JSON (`redis_url`, `key_prefix`, `lease_s`), then `+ member token`, `- member`, `tick`.
Output: `ready` once it renews, then `lost member token` and `cancel member token`. It ends with its input.
"""

import json
import signal
import sys
import threading
import time

from shared import logs
from shared.errors import StoreError
from shared.ids import TurnRef
from shared.log.keys import Keys
from shared.log.turn_log import TurnLog
from shared.redis_client import connect
from shared.settings import LogSettings

_RENEWALS_PER_LEASE = 3
_PATIENCE_S = 2.0
"""How long the parent may be silent before its leases are left to lapse: longer than any honest stall."""


class Leases:
    """The turns to renew and when the parent was last heard of. Shared by two threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[str, str] = {}
        self._heard = time.monotonic()
        self._ended = threading.Event()

    def listen(self) -> None:
        """Read the parent's lines until they end."""
        for line in sys.stdin:
            kind, *rest = line.split()
            with self._lock:
                self._heard = time.monotonic()
                if kind == "+":
                    self._held[rest[0]] = rest[1]
                elif kind == "-":
                    self._held.pop(rest[0], None)
        self._ended.set()

    def wait(self, seconds: float) -> bool:
        """Sleep; True once the parent is gone."""
        return self._ended.wait(seconds)

    def to_renew(self, patience_s: float) -> list[tuple[TurnRef, str]]:
        """What to renew: nothing while the parent makes no progress."""
        with self._lock:
            if time.monotonic() - self._heard > patience_s:
                return []
            return [(TurnRef.parse(member), token) for member, token in self._held.items()]

    def forget(self, member: str, token: str) -> None:
        """Stop renewing, unless the parent has claimed the turn again meanwhile."""
        with self._lock:
            if self._held.get(member) == token:
                del self._held[member]


def main() -> None:
    # The parent's signals reach its whole process group; this process ends with its input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    logs.configure(LogSettings.from_env())
    first = sys.stdin.readline()
    if not first:
        return  # the parent was killed before it said anything
    hello = json.loads(first)
    lease_s = float(hello["lease_s"])
    log = TurnLog(client=connect(hello["redis_url"]), keys=Keys(hello["key_prefix"]), lease_s=lease_s)
    leases = Leases()
    threading.Thread(target=leases.listen, daemon=True).start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    interval = lease_s / _RENEWALS_PER_LEASE
    while not leases.wait(interval):
        _renew(log, leases, min(_PATIENCE_S, interval))


def _renew(log: TurnLog, leases: Leases, patience_s: float) -> None:
    held = leases.to_renew(patience_s)
    try:
        outcomes = log.renew(held)
    except StoreError:
        return  # the next round tries again; the parent's own writes report the store
    for (ref, token), outcome in zip(held, outcomes, strict=True):
        if outcome == "LOST":
            leases.forget(ref.member, token)
        if outcome != "OK":
            sys.stdout.write(f"{outcome.lower()} {ref.member} {token}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
