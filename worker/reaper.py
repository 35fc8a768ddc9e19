"""Repeats hints for turns that nobody runs, and ends or clears what is overdue.

Every worker has one; a lock lets one of them at a time look at all shards.
"""

import logging
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import gevent
from gevent.pool import Pool
from redis.exceptions import RedisError, ResponseError

from shared.errors import StoreError
from shared.hints import Hints
from shared.ids import SHARDS, SessionRef, TurnRef, new_token
from shared.log.keys import Keys
from shared.log.reader import LogReader
from shared.log.scripts import Call, Scripts
from shared.log.sessions import SessionStore
from shared.log.snapshots import pack
from shared.log.turn_log import TurnLog
from shared.redis_client import Store
from worker.observer import Observer
from worker.outage import Outage

logger = logging.getLogger(__name__)

INTERVAL_S = 1.0
_LOCK_MS = 900
"""Shorter than the interval: a lock that a dead worker held is free for the next round of any other."""
_AT_ONCE = 200
"""Of each kind and shard."""
_CHUNK = 200
"""After so many the reaper shows that it makes progress, and lets its hints leave."""
_ABREAST = 10
"""How many it deals with side by side: each waits for the store most of its time."""
_PATIENCE_S = 0.5
"""How long a chunk waits for its hints to leave: a broker that stands still must not hold up the rest."""


@dataclass(frozen=True, slots=True)
class _Task:
    """What to do with one member of an index."""

    act: Callable[[str], None]
    member: str


@dataclass(frozen=True, slots=True)
class _Found:
    """What a round has to do; `more`: a shard had as much as it names at once."""

    tasks: list[_Task]
    more: bool


class Reaper:
    """Looks at all shards once per interval, and again at once while there is more than one look names.

    While the store was away or refused writes nobody could renew a lease, so for one lease after that lapsed ones are
    left alone. A reaper that saw that looks half as often, so that others come first.
    """

    def __init__(
        self,
        *,
        client: Store,
        keys: Keys,
        log: TurnLog,
        reader: LogReader,
        sessions: SessionStore,
        hints: Hints,
        lease_s: float,
        observer: Observer | None = None,
        now_us: int | None = None,
    ) -> None:
        self._scripts = Scripts(client=client, now_us=now_us)
        self._keys = keys
        self._log = log
        self._reader = reader
        self._sessions = sessions
        self._hints = hints
        self._lease_s = lease_s
        self._observer = observer or Observer()
        self._token = new_token()
        self._lenient_until = 0.0
        self._outage = Outage("the reaper waits")

    def run(self) -> None:
        """For the life of the worker."""
        while True:
            gevent.sleep(2 * INTERVAL_S if self._is_lenient() else INTERVAL_S)
            try:
                while self.look():
                    pass
                self._outage.passed()
            except StoreError as error:
                self._outage.failed(error)
                self._lenient_until = math.inf

    def look(self) -> bool:
        """One round over all shards, unless another reaper is at it; whether another one is worth while now."""
        held = self._hold()
        if self._lenient_until == math.inf:  # the store answers again: from now on owners can renew
            self._lenient_until = time.monotonic() + self._lease_s
        if not held:
            return False
        found = self._find()
        done = 0
        for start in range(0, len(found.tasks), _CHUNK):
            if start and not self._hold():
                return False
            done += self._deal_with(found.tasks[start : start + _CHUNK])
        return found.more and done > 0

    def _is_lenient(self) -> bool:
        return time.monotonic() < self._lenient_until

    def _hold(self) -> bool:
        return bool(self._scripts.call("hold", [self._keys.reaper], [self._token, _LOCK_MS]))

    def _find(self) -> _Found:
        """One round trip for all shards."""
        shards = [self._keys.shard(number) for number in range(SHARDS)]
        calls = [Call("look", [names.due, names.leases, names.limits, names.ended], [_AT_ONCE]) for names in shards]
        tasks: list[_Task] = []
        more = False
        for reply in self._scripts.call_many(calls):
            if isinstance(reply, RedisError):
                raise StoreError(f"The store refused: {reply}") from reply
            if reply is not None:
                due, lapsed, over, ended = reply
                if self._is_lenient():
                    lapsed = []
                tasks += self._tasks({*due, *lapsed}, over, ended)
                more = more or max(map(len, (due, lapsed, over, ended))) == _AT_ONCE
        # Whoever shares this work, because it takes longer than the lock lasts, begins elsewhere.
        random.shuffle(tasks)
        return _Found(tasks, more)

    def _tasks(self, overdue: set[bytes], over: Sequence[bytes], ended: Sequence[bytes]) -> Iterator[_Task]:
        for members, act in ((overdue, self._overdue), (over, self._expire), (ended, self._keep_snapshot)):
            for member in members:
                yield _Task(act, member.decode())

    def _deal_with(self, tasks: Sequence[_Task]) -> int:
        """Side by side; how many went well. Raises StoreError where the store failed any of them."""
        done = 0
        pool = Pool(_ABREAST)
        for outcome in pool.imap_unordered(self._guarded, tasks, maxsize=_ABREAST):
            if isinstance(outcome, StoreError):
                pool.kill()
                raise outcome
            done += outcome
        self._hints.flush(_PATIENCE_S)
        return done

    def _guarded(self, task: _Task) -> bool | StoreError:
        """One member that cannot be dealt with (a newer release wrote it, say) must not keep the others waiting."""
        try:
            task.act(task.member)
        except StoreError as error:
            if not _is_of_the_keys(error):
                return error
            logger.error("reaper passes over %s: %s", task.member, error)
            return False
        except Exception:
            logger.exception("reaper passes over %s", task.member)
            return False
        return True

    def _overdue(self, member: str) -> None:
        if member.endswith("/"):
            tenant, session_id, _ = member.split("/")
            self._sessions.sweep(SessionRef(tenant, session_id))
            return
        ref = TurnRef.parse(member)
        outcome, next_turn = self._log.reap(ref)
        if outcome == "hint":
            self._hints.send(ref)
        else:
            self._hint_next(ref, next_turn)

    def _expire(self, member: str) -> None:
        ref = TurnRef.parse(member)
        _, next_turn = self._log.expire(ref)
        self._hint_next(ref, next_turn)

    def _hint_next(self, ref: TurnRef, turn_id: str | None) -> None:
        if turn_id is not None:
            self._hints.send(TurnRef(ref.tenant, ref.session_id, turn_id))

    def _keep_snapshot(self, member: str) -> None:
        """Fold a turn that ended inside a script."""
        ref = TurnRef.parse(member)
        state = self._reader.state(ref)
        self._log.keep_snapshot(ref, pack(state.as_turn()))
        self._observer.ended(state)


def _is_of_the_keys(error: StoreError) -> bool:
    """Whether a script was refused for what lies under its keys, and not for the state that the store is in."""
    return type(error.__cause__) is ResponseError and str(error.__cause__).startswith(("WRONGTYPE", "user_script"))
