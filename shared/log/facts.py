"""Reads what `shared.why` decides on: one turn's hash, indexes and queue at one moment, and nothing that users said."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from time import time as clock
from typing import Any, cast

import orjson
from redis import Redis

from shared.events import SCHEMA_VERSION, Json, TurnCanceled, TurnFailed, decode
from shared.ids import TurnRef
from shared.log.blobs import BlobGone
from shared.log.keys import Keys
from shared.log.reader import LogReader
from shared.queues import MEMORY_QUEUE, TURNS_QUEUE
from shared.redis_client import translated
from shared.registry import WORKER_TIMEOUT_S
from shared.status import TERMINAL, TurnStatus
from shared.why import Facts, LastEvent, Owner, Queue

_SECOND_US = 1_000_000
_FIELDS = ("status", "schema", "created_us", "attempts", "lapses", "lapsed", "worker", "token", "deadline", "lease",
           "cancel", "hints", "pending", "start_by", "end_by", "written", "last")  # fmt: skip


class FactReader:
    """Reads the facts of single turns. One per process; safe to share. Raises StoreError."""

    def __init__(self, *, client: Redis, keys: Keys, reader: LogReader) -> None:
        self._client = client
        self._keys = keys
        self._reader = reader

    def facts(self, ref: TurnRef) -> Facts | None:
        """The turn's facts, None where there is no such turn. Three round trips, one more for an ended turn."""
        turn, shard = self._keys.turn(ref), self._keys.shard(ref.shard)
        with translated():
            pipe = self._client.pipeline(transaction=True)  # one moment, and one slot
            pipe.time()
            pipe.hmget(turn.turn, _FIELDS)
            pipe.zscore(shard.due, ref.member)
            pipe.lrange(self._keys.session(ref.session).queue, 0, -1)
            pipe.xrevrange(turn.events, count=1)
            time, values, due, queue, last = pipe.execute()
        row = {name: None if raw is None else raw.decode() for name, raw in zip(_FIELDS, values, strict=True)}
        if row["status"] is None:
            return None
        now = time[0] * _SECOND_US + time[1]
        return self._facts(ref, _Moment(now, row), due=due, queue=[raw.decode() for raw in queue], last=last)

    def _facts(self, ref: TurnRef, at: "_Moment", *, due: float | None, queue: list[str], last: list[Any]) -> Facts:
        status = TurnStatus(at.row["status"] or "")
        alive = self._alive(MEMORY_QUEUE if ref.is_job else TURNS_QUEUE)
        due_s = None if due is None else at.until(due)
        awaits = status is TurnStatus.AWAITING_INPUT
        return Facts(
            turn_id=ref.turn_id,
            is_job=ref.is_job,
            status=status,
            age_s=-(at.left("created_us") or 0.0),
            attempts=at.number("attempts"),
            losses=at.number("lapses") + at.number("lapsed"),
            newer=at.number("schema") > SCHEMA_VERSION,
            owner=None if status in TERMINAL else at.owner(alive),
            last_event=at.event(last),
            cancel=at.row["cancel"] is not None,
            hints=at.number("hints"),
            hint_s=None if awaits else due_s,
            start_s=at.left("start_by") if at.number("attempts") == 0 else None,
            end_s=at.left("end_by"),
            queue=_place(ref.turn_id, queue),
            pending=tuple(orjson.loads(at.row["pending"] or "[]")) if awaits else (),
            input_s=due_s if awaits else None,
            workers=len(alive),
            ending=self._ending(ref, at.number("last")) if status in TERMINAL else None,
        )

    def _alive(self, queue: str) -> set[str]:
        """The names of a queue's workers that have given a sign of life lately, by this machine's clock, as they do."""
        with translated():
            names = self._client.zrangebyscore(self._keys.workers(queue), clock() - WORKER_TIMEOUT_S, "+inf")
        return {raw.decode() for raw in cast(list[bytes], names)}

    def _ending(self, ref: TurnRef, last: int) -> str | None:
        """Why a turn ended: from its last event, else from its snapshot, which knows of failures only."""
        try:
            entry, row = self._reader.entry(ref, last), self._reader.row(ref)
        except BlobGone:
            return None  # a sweep has just removed it
        event = None if entry is None else decode(entry)
        if isinstance(event, TurnCanceled):
            return event.reason
        if isinstance(event, TurnFailed):
            return _error(event.error)
        error = orjson.loads(row.snapshot).get("error") if row is not None and row.snapshot else None
        return None if error is None else _error(error)


@dataclass(frozen=True, slots=True)
class _Moment:
    """A turn's hash at a time of the store, in µs."""

    now: int
    row: Mapping[str, str | None]

    def number(self, name: str) -> int:
        return int(self.row[name] or 0)

    def until(self, time_us: float) -> float:
        return (time_us - self.now) / _SECOND_US

    def left(self, name: str) -> float | None:
        """Seconds until the time in a field; negative where it has passed."""
        value = self.row[name]
        return None if value is None else self.until(int(value))

    def owner(self, alive: Collection[str]) -> Owner | None:
        deadline = self.left("deadline")
        if self.row["token"] is None or deadline is None:
            return None
        lease = self.number("lease") / _SECOND_US
        left = min(deadline, lease)  # as in `lease_end` of the scripts
        worker = self.row["worker"] or "?"
        return Owner(worker=worker, alive=worker in alive, lease_s=lease, renewed_s=lease - left, left_s=left)

    def event(self, entries: Sequence[Any]) -> LastEvent | None:
        if not entries:
            return None
        entry_id, values = entries[0]
        written = self.left("written")
        age = None if written is None else max(0.0, -written)
        return LastEvent(id=entry_id.decode(), type=values[b"t"].decode(), age_s=age)


def _place(turn_id: str, queue: Sequence[str]) -> Queue | None:
    """Where a turn stands among its session's unfinished ones; None for one that has ended."""
    if turn_id not in queue:
        return None
    position = queue.index(turn_id)
    before, head = (queue[position - 1], queue[0]) if position else (None, None)
    return Queue(position=position, length=len(queue), before=before, head=head)


def _error(error: Json) -> str:
    return f"{error['code']}. {error['message']}"
