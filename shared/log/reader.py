"""Reads turns: their logs, their rows and their snapshots."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import RedisError

from shared.errors import StoreError
from shared.events import Entry, PrivateEntry
from shared.fold import TurnState, fold
from shared.ids import TurnRef
from shared.log import snapshots
from shared.log.blobs import BlobGone, BlobStore, RedisBlobs
from shared.log.keys import Keys
from shared.redis_client import Store
from shared.round_trips import Command
from shared.status import TurnStatus

_END_OF_SEQ = 2**64 - 1
"""`XRANGE (N` alone would return entry N again with a higher epoch: to read after seq N, name its last id."""

_PAGE = 1000
_FEW = 64
"""Entries that are read in a round trip with others; more may be so much that the others would wait."""

Value = bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRow:
    """A turn's hash as readers need it. `retry_of` is the turn that it repeats."""

    status: TurnStatus
    agent_id: str
    session_id: str
    attempts: int
    last: int
    snapshot: bytes | None
    retry_of: str | None = None


_ROW = ("status", "agent_id", "session_id", "attempts", "last", "retry_of", *snapshots.FIELDS)


class LogReader:
    """Reads logs and rows. One per process; safe to share. Raises StoreError like the writer."""

    def __init__(self, *, client: Store, keys: Keys, blobs: BlobStore | None = None) -> None:
        self._client = client
        self._keys = keys
        self._blobs = blobs or RedisBlobs(client=client, keys=keys)

    def row(self, ref: TurnRef) -> TurnRow | None:
        """The turn's row, or None where there is no such turn."""
        return self._row(ref, *self._together([self._row_command(ref)]))

    def row_in_session(self, ref: TurnRef) -> tuple[TurnRow | None, str | None]:
        """The turn's row, and its session's agent (None where there is no such session, or it is deleted), in one round
        trip."""
        session = self._keys.session(ref.session).session
        values, (agent_id, deleted) = self._together(
            [self._row_command(ref), ("HMGET", session, "agent_id", "deleted")]
        )
        return self._row(ref, values), None if deleted or agent_id is None else agent_id.decode()

    def rows(self, refs: Sequence[TurnRef]) -> list[TurnRow | None]:
        """Rows in one round trip, and that not with others: with their snapshots they may be megabytes."""
        pipe = self._client.pipeline(transaction=False)
        for ref in refs:
            pipe.hmget(self._keys.turn(ref).turn, _ROW)
        replies = _execute(pipe)
        return [self._row(ref, values) for ref, values in zip(refs, replies, strict=True)]

    def _row_command(self, ref: TurnRef) -> Command:
        return ("HMGET", self._keys.turn(ref).turn, *_ROW)

    def _alone(self, commands: Sequence[Command]) -> list[Any]:
        pipe = self._client.pipeline(transaction=False)
        for command in commands:
            pipe.execute_command(*command)  # type: ignore[no-untyped-call]
        return _execute(pipe)

    def _together(self, commands: Sequence[Command]) -> list[Any]:
        replies: list[Any] = _read(self._client.together, commands)
        for reply in replies:
            if isinstance(reply, RedisError):
                raise StoreError(f"The store cannot be read: {reply}") from reply
        return replies

    def _row(self, ref: TurnRef, values: list[bytes | None]) -> TurnRow | None:
        status, agent_id, session_id, attempts, last, retry_of, *stored = values
        if status is None or agent_id is None or session_id is None:
            return None
        try:
            snapshot = self._snapshot(ref, *stored)
        except BlobGone:
            return None  # a sweep is removing the turn just now
        return TurnRow(
            status=TurnStatus(status.decode()),
            agent_id=agent_id.decode(),
            session_id=session_id.decode(),
            attempts=int(attempts or 0),
            last=int(last or 0),
            snapshot=snapshot,
            retry_of=retry_of.decode() if retry_of else None,
        )

    def _snapshot(self, ref: TurnRef, plain: Value, packed: Value, *names: Value) -> bytes | None:
        stored = plain or packed
        for name in filter(None, names):
            stored = self._blobs.get(ref, name.decode())
        return stored and snapshots.unpack(stored)

    def time_limits(self, ref: TurnRef) -> tuple[float | None, float | None]:
        """How long the turn may wait for a worker, and take as a whole: seconds from its acceptance, None for ever."""
        names = ("created_us", "start_by", "end_by")
        created, *limits = _read(self._client.hmget, self._keys.turn(ref).turn, names)
        start, end = (None if limit is None else (int(limit) - int(created)) / 1_000_000 for limit in limits)
        return start, end

    def entries(self, ref: TurnRef, *, after: int = 0, count: int = _PAGE) -> list[Entry]:
        """At most `count` entries with a seq greater than `after`."""
        return self.entries_many([(ref, after)], count=count)[0]

    def entries_many(self, cursors: Sequence[tuple[TurnRef, int]], *, count: int) -> list[list[Entry]]:
        """Entries after each (turn, seq), in one round trip."""
        commands: list[Command] = [
            ("XRANGE", self._keys.turn(ref).events, f"({after}-{_END_OF_SEQ}", "+", "COUNT", count)
            for ref, after in cursors
        ]
        replies = self._together(commands) if len(cursors) * count <= _FEW else self._alone(commands)
        return [decode_entries(ref, reply, self._blobs) for (ref, _), reply in zip(cursors, replies, strict=True)]

    def all_entries(self, ref: TurnRef, *, upto: int | None = None) -> Iterator[Entry]:
        """All entries in order, up to a seq."""
        after = 0
        while page := self.entries(ref, after=after):
            for entry in page:
                if upto is not None and entry.seq > upto:
                    return
                yield entry
            after = page[-1].seq

    def entry(self, ref: TurnRef, seq: int) -> Entry | None:
        """One entry, or None where the log does not hold it."""
        page = self.entries(ref, after=seq - 1, count=1)
        return page[0] if page and page[0].seq == seq else None

    def holds(self, ids: Sequence[tuple[TurnRef, str]]) -> list[bool]:
        """Whether each turn's log holds the entry of this public id, in one round trip."""
        pipe = self._client.pipeline(transaction=False)
        for ref, entry_id in ids:
            pipe.xrange(self._keys.turn(ref).events, entry_id, entry_id)
        return [bool(reply) for reply in _execute(pipe)]

    def last_ids(self, refs: Sequence[TurnRef]) -> list[str | None]:
        """The public id of each log's last entry, None where there is no log, in one round trip."""
        pipe = self._client.pipeline(transaction=False)
        for ref in refs:
            pipe.xrevrange(self._keys.turn(ref).events, count=1)
        return [reply[0][0].decode() if reply else None for reply in _execute(pipe)]

    def private(self, ref: TurnRef) -> list[PrivateEntry]:
        """The whole private record."""
        reply = _read(self._client.xrange, self._keys.turn(ref).private)
        return decode_private(ref, reply, self._blobs)

    def state(self, ref: TurnRef, *, upto: int | None = None) -> TurnState:
        """The turn as its log tells it now, or as it was at a seq."""
        return fold(self.all_entries(ref, upto=upto))

    def has_events(self, ref: TurnRef) -> bool:
        """Whether the turn's log is still there: it expires some time after the turn's end."""
        return bool(_read(self._client.exists, self._keys.turn(ref).events))


def decode_entries(ref: TurnRef, reply: Iterable[Any], blobs: BlobStore) -> list[Entry]:
    """Entries of an XRANGE reply."""
    entries = []
    for entry_id, fields in reply:
        seq, _, epoch = entry_id.partition(b"-")
        values = _pairs(fields)
        payload = values[b"p"] if b"p" in values else blobs.get(ref, values[b"b"].decode())
        entries.append(Entry(int(seq), int(epoch), values[b"t"].decode(), int(values[b"v"]), payload))
    return entries


def decode_private(ref: TurnRef, reply: Iterable[Any], blobs: BlobStore) -> list[PrivateEntry]:
    """Private records of an XRANGE reply."""
    records = []
    for entry_id, fields in reply:
        values = _pairs(fields)
        payload = values[b"p"] if b"p" in values else blobs.get(ref, values[b"b"].decode())
        records.append(PrivateEntry(int(entry_id.partition(b"-")[0]), values[b"k"].decode(), payload))
    return records


def _pairs(fields: Any) -> dict[bytes, bytes]:
    """Fields as a mapping: XRANGE gives one, the same reply out of a script is a flat list."""
    if isinstance(fields, dict):
        return fields
    return dict(zip(fields[::2], fields[1::2], strict=True))


def _execute(pipe: Any) -> list[Any]:
    return list(_read(pipe.execute))


def _read(command: Any, *args: Any) -> Any:
    try:
        return command(*args)
    except (RedisError, OSError) as error:
        raise StoreError(f"The store cannot be read: {error}") from error
