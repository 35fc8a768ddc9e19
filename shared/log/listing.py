"""A tenant's turns over all shards, newest first: for operators, who look for turns and not in sessions.

Indexes say where to look, rows say what is so. One page takes at most `_ROUNDS` times two round trips, whatever the
tenant has: each time up to `MOST` rows are read, and of each shard's index a sixth of that. A page that found less than
was asked for says where to go on.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from heapq import merge
from typing import NamedTuple

import orjson
from redis import Redis

from shared.errors import InvalidRequest
from shared.events import Json, TurnFailed, decode
from shared.ids import SHARDS, TurnRef
from shared.log.blobs import BlobGone
from shared.log.keys import Keys
from shared.log.reader import LogReader
from shared.redis_client import translated
from shared.status import ACTIVE, TERMINAL, TurnStatus

MOST = 200
"""Turns in one page."""
_ROUNDS = 8
_FEWEST, _SPREAD = 8, 6
"""How much of each shard's index is read: a sixth of what is wanted of all of them is mostly enough, and where one
shard has it all, eight rounds are."""
_CURSOR = re.compile(r"(\d{1,16})-(sess_\d{2}_[0-9a-z]+)-((?:turn|job)_\d{2}_[0-9a-z]+)", re.ASCII)
_FIELDS = ("status", "agent_id", "attempts", "last", "created_us", "worker", "retry_of")


class Place(NamedTuple):
    """Where a turn stands in the list: by its index's time in µs, and where two have the same by their ids."""

    time_us: int
    session_id: str
    turn_id: str

    @classmethod
    def parse(cls, cursor: str) -> "Place":
        """The inverse of `cursor`. Raises InvalidRequest."""
        match = _CURSOR.fullmatch(cursor)
        if match is None:
            message = "This is no place in the list. Send what `after` of the page before says, as it is."
            raise InvalidRequest(message, param="after", code="invalid_fields")
        return cls(int(match[1]), match[2], match[3])

    @property
    def cursor(self) -> str:
        """The place as text."""
        return f"{self.time_us}-{self.session_id}-{self.turn_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One turn of a list. `worker` is there while one holds it, `error` where it failed."""

    ref: TurnRef
    agent_id: str
    status: TurnStatus
    attempts: int
    last: int
    created_us: int
    worker: str | None
    retry_of: str | None
    error: Json | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some turns, newest first. `after` is where to go on, None at the end of the list."""

    turns: list[Listed]
    after: Place | None


class TurnListing:
    """Lists turns, or insert jobs. One per process; safe to share. Raises StoreError."""

    def __init__(self, *, client: Redis, keys: Keys, reader: LogReader, jobs: bool = False) -> None:
        self._jobs = jobs
        self._client = client
        self._keys = keys
        self._reader = reader

    def page(
        self,
        tenant: str,
        *,
        statuses: Collection[TurnStatus],
        agent_id: str | None = None,
        limit: int = MOST,
        after: Place | None = None,
    ) -> Page:
        """The next turns behind `after`, at most `limit`, of these statuses and of this agent.

        Failed ones alone are in the order of their failing, all others in that of their acceptance. Turns of deleted
        sessions are left out. A page goes on exactly behind the one before, whatever came or went in between.
        """
        index, found, reach = _index_for(statuses), list[Listed](), limit
        for _ in range(_ROUNDS):
            places, is_rest = self._places(tenant, index, after, reach)
            looked_at = 0
            for place, row in zip(places, self._rows(tenant, index, places), strict=True):
                looked_at, after = looked_at + 1, place
                if row is not None and row.status in statuses and agent_id in (None, row.agent_id):
                    found.append(row)
                if len(found) == limit:
                    break
            if is_rest and looked_at == len(places):
                return Page(turns=self._with_errors(found), after=None)
            if len(found) == limit:
                break
            reach = min(2 * reach, MOST)
        return Page(turns=self._with_errors(found), after=after)

    def _places(self, tenant: str, index: str, after: Place | None, reach: int) -> tuple[list[Place], bool]:
        """The next places of an index, in order, at most `reach`, and whether these are all that are left.

        One round trip. Of each shard its next few are read; what lies behind the end of a shard's few is not certain to
        be the next.
        """
        few = max(_FEWEST, reach // _SPREAD)
        keys = [getattr(self._keys.index(shard, tenant, jobs=self._jobs), index) for shard in range(SHARDS)]
        with translated():
            pipe = self._client.pipeline(transaction=False)
            for key in keys:
                before = "+inf" if after is None else f"({after.time_us}"
                pipe.zrevrangebyscore(key, before, "-inf", start=0, num=few, withscores=True)
            for key in keys if after is not None else ():
                pipe.zrevrangebyscore(key, after.time_us, after.time_us, withscores=True)  # type: ignore[union-attr]
            replies = pipe.execute()
        older = [_placed(reply) for reply in replies[:SHARDS]]
        same = [place for reply in replies[SHARDS:] for place in _placed(reply) if after is None or place < after]
        horizon = max((places[-1] for places in older if len(places) == few), default=None)
        ordered = [*sorted(same, reverse=True), *merge(*older, reverse=True)]
        certain = [place for place in ordered if horizon is None or place >= horizon]
        return certain[:reach], horizon is None and len(certain) <= reach

    def _rows(self, tenant: str, index: str, places: Iterable[Place]) -> list[Listed | None]:
        """What the turns' hashes say; None for one that is gone, or whose session is deleted. One round trip.

        What has ended leaves the index of active turns: a release before this one may have ended it.
        """
        refs = [TurnRef(tenant, place.session_id, place.turn_id) for place in places]
        with translated():
            pipe = self._client.pipeline(transaction=False)
            for ref in refs:
                pipe.hmget(self._keys.turn(ref).turn, _FIELDS)
                pipe.hmget(self._keys.session(ref.session).session, ("session_id", "deleted"))
            replies = pipe.execute()
        rows = [_listed(ref, values) for ref, values in zip(refs, replies[0::2], strict=True)]
        self._forget(index, [ref for ref, row in zip(refs, rows, strict=True) if _is_stale(row, index)])
        alive = [session_id is not None and deleted is None for session_id, deleted in replies[1::2]]
        return [row if lives else None for row, lives in zip(rows, alive, strict=True)]

    def _forget(self, index: str, stale: Sequence[TurnRef]) -> None:
        """No turn begins again and no id is given twice: so this takes nothing away that is new."""
        if not stale:
            return
        with translated():
            pipe = self._client.pipeline(transaction=False)
            for ref in stale:
                pipe.zrem(getattr(self._keys.index_of(ref), index), ref.member)
            pipe.execute()

    def _with_errors(self, turns: list[Listed]) -> list[Listed]:
        """The errors of those that failed: from their last events, or from their snapshots once the events are gone."""
        failed = [turn for turn in turns if turn.status is TurnStatus.FAILED]
        if not failed:
            return turns
        errors: dict[TurnRef, Json] = {}
        ends = self._reader.entries_many([(turn.ref, turn.last - 1) for turn in failed], count=1)
        for turn, end in zip(failed, ends, strict=True):
            event = decode(end[0]) if end else None
            if isinstance(event, TurnFailed):
                errors[turn.ref] = event.error
        errors |= self._kept_errors([turn.ref for turn in failed if turn.ref not in errors])
        return [replace(turn, error=errors.get(turn.ref)) for turn in turns]

    def _kept_errors(self, refs: Sequence[TurnRef]) -> dict[TurnRef, Json]:
        try:
            rows = self._reader.rows(refs)
        except BlobGone:
            return {}  # a sweep has just removed one of them
        found = zip(refs, rows, strict=True)
        return {ref: orjson.loads(row.snapshot)["error"] for ref, row in found if row is not None and row.snapshot}


def _index_for(statuses: Collection[TurnStatus]) -> str:
    """The smallest index that holds all turns of these statuses."""
    if set(statuses) == {TurnStatus.FAILED}:
        return "failed"
    return "active" if ACTIVE.issuperset(statuses) else "all"


def _placed(reply: Iterable[tuple[bytes, float]]) -> list[Place]:
    """Places of an index's members, `tenant/session/turn`. Their order is that of the index, also where times are the
    same: ids hold no sign below the slash."""
    places = []
    for member, score in reply:
        ref = TurnRef.parse(member.decode())
        places.append(Place(int(score), ref.session_id, ref.turn_id))
    return places


def _listed(ref: TurnRef, values: Sequence[bytes | None]) -> Listed | None:
    texts = (None if raw is None else raw.decode() for raw in values)
    status, agent_id, attempts, last, created, worker, retry_of = texts
    if not status or not agent_id:
        return None
    return Listed(
        ref=ref,
        agent_id=agent_id,
        status=TurnStatus(status),
        attempts=int(attempts or 0),
        last=int(last or 0),
        created_us=int(created or 0),
        worker=worker if status == TurnStatus.IN_PROGRESS else None,
        retry_of=retry_of,
    )


def _is_stale(row: Listed | None, index: str) -> bool:
    return row is None or (index == "active" and row.status in TERMINAL)
