"""Repeats hints for turns that nobody runs, and ends or clears what is overdue.

Every worker has one; a lock per shard lets one of them look at a shard at a time.
"""

import logging
import time
from collections.abc import Callable

import gevent
import orjson
from redis import Redis

from shared.errors import StoreError
from shared.hints import Hints
from shared.ids import SHARDS, SessionRef, TurnRef
from shared.log.keys import Keys
from shared.log.reader import LogReader
from shared.log.sessions import SessionStore
from shared.log.turn_log import TurnLog
from shared.redis_client import translated
from worker.observer import Observer
from worker.outage import Outage

logger = logging.getLogger(__name__)

INTERVAL_S = 1.0
_LOCK_MS = 900
"""Shorter than the interval: a lock is taken anew each round, and one that a dead worker held is soon free."""
_AT_ONCE = 200


class Reaper:
    """Looks at all shards once per interval.

    While the store was away nobody could renew a lease, so for one lease after that lapsed ones are left alone.
    """

    def __init__(
        self,
        *,
        client: Redis,
        keys: Keys,
        log: TurnLog,
        reader: LogReader,
        sessions: SessionStore,
        hints: Hints,
        lease_s: float,
        observer: Observer | None = None,
    ) -> None:
        self._client = client
        self._keys = keys
        self._log = log
        self._reader = reader
        self._sessions = sessions
        self._hints = hints
        self._lease_s = lease_s
        self._observer = observer or Observer()
        self._lenient_until = 0.0
        self._outage = Outage("the reaper waits")

    def run(self) -> None:
        """For the life of the worker."""
        while True:
            gevent.sleep(INTERVAL_S)
            try:
                self.look()
                self._outage.passed()
            except StoreError as error:
                self._outage.failed(error)
                self._lenient_until = time.monotonic() + self._lease_s

    def look(self) -> None:
        """One round over the shards that no other reaper holds."""
        for shard in self._locked_shards():
            names = self._keys.shard(shard)
            with translated():
                now = self._now_us()
                pipe = self._client.pipeline(transaction=False)
                for index in (names.due, names.leases, names.ended):
                    pipe.zrangebyscore(index, "-inf", now, start=0, num=_AT_ONCE)
                due, lapsed, ended = pipe.execute()
            if time.monotonic() < self._lenient_until:
                lapsed = []
            for member in {*due, *lapsed}:
                self._guarded(self._overdue, member.decode())
            for member in ended:
                self._guarded(self._keep_snapshot, member.decode())

    def _guarded(self, act: Callable[[str], None], member: str) -> None:
        """One member that cannot be dealt with (a newer release wrote it, say) must not keep the others waiting."""
        try:
            act(member)
        except StoreError:
            raise
        except Exception:
            logger.exception("reaper passes over %s", member)

    def _locked_shards(self) -> list[int]:
        """The shards with something to look at that are ours for this round; two round trips for all of them."""
        with translated():
            pipe = self._client.pipeline(transaction=False)
            now = self._now_us()
            for shard in range(SHARDS):
                names = self._keys.shard(shard)
                for index in (names.due, names.leases, names.ended):
                    pipe.zcount(index, "-inf", now)
            counts = pipe.execute()
            busy = [shard for shard in range(SHARDS) if any(counts[3 * shard : 3 * shard + 3])]
            pipe = self._client.pipeline(transaction=False)
            for shard in busy:
                pipe.set(self._keys.shard(shard).reaper, "1", nx=True, px=_LOCK_MS)
            return [shard for shard, locked in zip(busy, pipe.execute(), strict=True) if locked]

    def _overdue(self, member: str) -> None:
        if member.endswith("/"):
            tenant, session_id, _ = member.split("/")
            self._sessions.sweep(SessionRef(tenant, session_id))
            return
        ref = TurnRef.parse(member)
        outcome, next_turn = self._log.reap(ref)
        if outcome == "hint":
            self._hints.send(ref)
        elif outcome == "ended" and next_turn is not None:
            self._hints.send(TurnRef(ref.tenant, ref.session_id, next_turn))

    def _keep_snapshot(self, member: str) -> None:
        """Fold a turn that ended inside a script."""
        ref = TurnRef.parse(member)
        state = self._reader.state(ref)
        self._log.keep_snapshot(ref, orjson.dumps(state.as_turn()))
        self._observer.ended(state)

    def _now_us(self) -> int:
        seconds, micros = self._client.time()
        return int(seconds) * 1_000_000 + int(micros)
