"""Sessions: an ordered history of turns, and the queue of those that have not ended."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from shared.ids import SessionRef, TurnRef
from shared.log.keys import Keys
from shared.log.scripts import Scripts
from shared.log.turn_log import TurnLog
from shared.redis_client import Store, translated

SWEEP_DELAY_S = 60
"""How long the keys of a deleted session stay, so that tails see its turns end."""

_PAGE = 500
_SECOND_US = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A session. `idle_ttl_s` is None for one that persists, else how long it lives after its last turn.

    `multitask_strategy` is what becomes of its unfinished turns when a new one comes: enqueue (the new one waits for
    them), reject (it is refused), interrupt (they end, and what they finished stays) or rollback (they end, and later
    turns do not remember them).
    """

    session_id: str
    agent_id: str
    session_name: str
    started_at: str
    idle_ttl_s: float | None = None
    multitask_strategy: str = "enqueue"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tomb:
    """What was found of a deleted session. `deleted_us` is 0 for one that is not to be deleted."""

    deleted_us: int
    agent_id: str
    ended: list[TurnRef]


class SessionStore:
    """Creates, lists and removes sessions. One per process; raises StoreError like the log."""

    def __init__(self, *, client: Store, keys: Keys, log: TurnLog, now_us: int | None = None) -> None:
        self._client = client
        self._keys = keys
        self._log = log
        self._scripts = Scripts(client=client, now_us=now_us)

    def create(self, ref: SessionRef, session: Session) -> None:
        """Write the session, then its agent's index: the index is never the truth about a session."""
        keys, ttl = self._keys.session(ref), session.idle_ttl_s
        now = self._now_us()
        fields: dict[str | bytes, str | bytes | float | int] = {
            "tenant": ref.tenant,
            "session_id": session.session_id,
            "agent_id": session.agent_id,
            "session_name": session.session_name,
            "started_at": session.started_at,
            "idle_ttl_us": "" if ttl is None else int(ttl * _SECOND_US),
            "multitask_strategy": session.multitask_strategy,
        }
        with translated():
            pipe = self._client.pipeline(transaction=True)
            pipe.hset(keys.session, mapping=fields)  # type: ignore[arg-type]
            if ttl is not None:
                pipe.zadd(self._keys.shard(ref.shard).due, {ref.member: now + int(ttl * _SECOND_US)})
            pipe.execute()
            index = self._keys.agent_sessions(ref.tenant, session.agent_id)
            self._client.zadd(index, {session.session_id: now})

    def get(self, ref: SessionRef) -> Session | None:
        """The session, or None where there is none or it is deleted."""
        with translated():
            (row,) = self._client.together([("HMGET", self._keys.session(ref).session, *_FIELDS)])
        return _session(row)

    def is_there(self, ref: SessionRef) -> bool:
        """Whether there is such a session, and it is not deleted."""
        return self.get(ref) is not None

    def of_agent(self, tenant: str, agent_id: str, *, start: int, count: int) -> list[Session]:
        """An agent's sessions, oldest first. `start` and `count` as in a slice."""
        index = self._keys.agent_sessions(tenant, agent_id)
        ids = [raw.decode() for raw in self._range(index, start, start + count - 1)]
        found = self._get_many([SessionRef(tenant, session_id) for session_id in ids])
        return [session for session in found if session is not None]

    def count_of_agent(self, tenant: str, agent_id: str) -> int:
        """How many sessions an agent has, deleted ones included until they are swept."""
        with translated():
            return self._client.zcard(self._keys.agent_sessions(tenant, agent_id))

    def turns(self, ref: SessionRef, *, start: int = 0, count: int | None = None) -> list[TurnRef]:
        """The session's turns in the order of their acceptance, those that were rolled back included."""
        return [turn for turn, _ in self._turns(ref, start, count)]

    def history(self, ref: SessionRef, *, start: int = 0, count: int | None = None) -> list[TurnRef]:
        """As `turns`, without those that were rolled back."""
        return [turn for turn, rolled_back in self._turns(ref, start, count) if not rolled_back]

    def unfinished(self, ref: SessionRef) -> list[TurnRef]:
        """The session's turns that have not ended, in the order in which they run."""
        with translated():
            found = cast(list[bytes], self._client.lrange(self._keys.session(ref).queue, 0, -1))
        return [TurnRef(ref.tenant, ref.session_id, raw.decode()) for raw in found]

    def _turns(self, ref: SessionRef, start: int, count: int | None) -> list[tuple[TurnRef, bool]]:
        stop = -1 if count is None else start + count - 1
        with translated():
            found = self._client.zrange(self._keys.session(ref).turns, start, stop, withscores=True)
        # Half a number in its place is how accept.lua marks one that was rolled back.
        return [
            (TurnRef(ref.tenant, ref.session_id, raw.decode()), not score.is_integer())
            for raw, score in cast(list[tuple[bytes, float]], found)
        ]

    def delete(self, ref: SessionRef) -> list[TurnRef]:
        """Mark as deleted and end its unfinished turns, which it returns. A sweep removes the keys later."""
        tomb = self._bury(ref, only_idle=False)
        return [] if tomb is None else tomb.ended

    def sweep(self, ref: SessionRef) -> bool:
        """What is due for an idle or deleted session; may be repeated, and goes on where one broke off.

        A session past its idle time is deleted; a deleted one loses its keys a minute later. One that a turn was
        accepted into since it was found due stays. True: it is gone.
        """
        tomb = self._bury(ref, only_idle=True)
        if tomb is None:
            self._remove(ref, "")
            return True
        if not tomb.deleted_us:
            return False
        remove_at = tomb.deleted_us + SWEEP_DELAY_S * _SECOND_US
        if self._now_us() < remove_at:
            with translated():
                self._client.zadd(self._keys.shard(ref.shard).due, {ref.member: remove_at})
            return False
        self._remove(ref, tomb.agent_id)
        return True

    def _bury(self, ref: SessionRef, *, only_idle: bool) -> _Tomb | None:
        """Mark as deleted, then end what had not ended. None where there is no session."""
        keys, shard = self._keys.session(ref), self._keys.shard(ref.shard)
        reply = self._scripts.call(
            "tombstone", [keys.session, keys.queue, shard.due], [ref.member, 1 if only_idle else 0]
        )
        if reply[0] == b"GONE":
            return None
        if reply[0] == b"ALIVE":
            return _Tomb(deleted_us=0, agent_id="", ended=[])
        ended = [TurnRef(ref.tenant, ref.session_id, raw.decode()) for raw in reply[3:]]
        for turn in reversed(ended):  # from the tail, so that none of them becomes head and is dispatched
            self._log.cancel(turn, reason="Its session was deleted.", end_running=True)
        return _Tomb(deleted_us=int(reply[1]), agent_id=reply[2].decode(), ended=ended)

    def _remove(self, ref: SessionRef, agent_id: str) -> None:
        """Turns first and the session last, so that a sweep that broke off finds the rest."""
        keys, shard = self._keys.session(ref), self._keys.shard(ref.shard)
        while turns := self.turns(ref, count=_PAGE):
            self._remove_turns(ref, turns)
        with translated():
            self._client.zrem(self._keys.agent_sessions(ref.tenant, agent_id), ref.session_id)
            self._client.unlink(keys.session, keys.queue, keys.turns)
            self._client.zrem(shard.due, ref.member)

    def _remove_turns(self, ref: SessionRef, turns: Sequence[TurnRef]) -> None:
        keys, shard = self._keys.session(ref), self._keys.shard(ref.shard)
        with translated():
            pipe = self._client.pipeline(transaction=False)
            for turn in turns:
                pipe.hget(self._keys.turn(turn).turn, "idempotency")
            scopes = pipe.execute()
            pipe = self._client.pipeline(transaction=False)
            for turn, scope in zip(turns, scopes, strict=True):
                names = self._keys.turn(turn)
                own = [names.turn, names.events, names.private, names.blobs]
                pipe.unlink(*own, *([scope] if scope else []))
                index = self._keys.index_of(turn)
                for name in (shard.ended, shard.limits, index.all, index.active, index.failed):
                    pipe.zrem(name, turn.member)
                pipe.zrem(keys.turns, turn.turn_id)
            pipe.execute()

    def _get_many(self, refs: Sequence[SessionRef]) -> list[Session | None]:
        with translated():
            pipe = self._client.pipeline(transaction=False)
            for ref in refs:
                pipe.hmget(self._keys.session(ref).session, _FIELDS)
            rows = pipe.execute()
        return [_session(row) for row in rows]

    def _range(self, key: str, start: int, stop: int) -> list[bytes]:
        with translated():
            return cast(list[bytes], self._client.zrange(key, start, stop))

    def _now_us(self) -> int:
        if self._scripts.now_us is not None:
            return self._scripts.now_us
        with translated():
            seconds, micros = self._client.time()
        return int(seconds) * _SECOND_US + int(micros)


_FIELDS = ("session_id", "agent_id", "session_name", "started_at", "idle_ttl_us", "deleted", "multitask_strategy")


def _session(row: list[bytes | None]) -> Session | None:
    session_id, agent_id, name, started_at, ttl, deleted, strategy = (
        None if raw is None else raw.decode() for raw in row
    )
    if not session_id or agent_id is None or name is None or started_at is None or deleted:
        return None
    return Session(
        session_id=session_id,
        agent_id=agent_id,
        session_name=name,
        started_at=started_at,
        idle_ttl_s=int(ttl) / _SECOND_US if ttl else None,
        multitask_strategy=strategy or "enqueue",
    )
