"""Tails and polls: a turn's events for clients, from any cursor, to the turn's end."""

import time
from collections.abc import Iterator
from random import uniform

import orjson

from api.streams import frames
from api.streams.cursor import Cursor
from api.streams.hub import HubClosed, TailHub
from api.streams.rebuilt import rebuilt_events
from api.streams.story import StoryLost, read_from
from api.streams.views import TurnViews
from shared.errors import NotFound, StoreError
from shared.events import TERMINAL_EVENTS, Entry, Json
from shared.fold import fold
from shared.ids import TurnRef
from shared.log.blobs import BlobGone
from shared.log.reader import LogReader, TurnRow
from shared.status import RESTING, TERMINAL

HEARTBEAT_S = 15.0
"""No tail is silent for longer. Each has a beat of its own, up to a quarter shorter: a thousand that began together, or
that all hung up since, are not written to in the same moment."""
_AWAITING = "turn_awaiting_input"
_RESTING_EVENTS = TERMINAL_EVENTS | {_AWAITING}
_CLIENT_TYPES = frozenset(
    {"turn_start", "step_start", "step_progress", "step_complete", "turn_complete", "turn_awaiting_input"}
)
"""The event types that the official client knows."""
_LOOK_AGAIN_S = 0.2
_READ_IT = "read it with GET, or tail its events."
_GONE = "The store does not have this turn any more: it was deleted, or lost in a failover. Then submit it again."


class Tails:
    """Follows turns for clients. A client that leaves closes the iterator, which leaves the hub."""

    def __init__(self, *, hub: TailHub, reader: LogReader, views: TurnViews) -> None:
        self._hub = hub
        self._reader = reader
        self._views = views

    def close(self) -> None:
        """End all tails politely: the process is shutting down."""
        self._hub.close()

    def events_response(
        self, ref: TurnRef, row: TurnRow, *, after: str | None, heartbeat_s: float | None = None
    ) -> Iterator[bytes] | None:
        """The SSE stream of all events after a cursor, or None where the reader has them all: answer 204.

        `row` is the turn's, as it was a moment ago. Raises InvalidRequest for a cursor that is none.
        """
        cursor = Cursor.parse(after)
        if row.status in TERMINAL:
            if not self._reader.has_events(ref):
                return self._rebuilt(ref, cursor)
            if cursor.seq == row.last and (cursor.epoch is None or all(self._reader.holds([(ref, cursor.id)]))):
                return None
        return self._tail(ref, cursor, heartbeat_s or _beat_s())

    def events_page(self, ref: TurnRef, row: TurnRow, *, after: str | None, wait_s: float, limit: int) -> Json:
        """The JSON form: `{data: [{seq, id, event}], last_id, status, has_more}`, for `orjson.dumps`."""
        cursor = Cursor.parse(after)
        if row.status in TERMINAL and not self._reader.has_events(ref):
            return self._rebuilt_page(ref, cursor)
        try:
            entries = self._entries(ref, cursor, limit + 1, wait_s=0 if row.status in TERMINAL else wait_s)
            page = entries[:limit]
            data = [_item(entry.seq, entry.id, self._payload(ref, entry)) for entry in page]
        except StoryLost:
            return self._reset_page(ref, cursor)
        except BlobGone:
            raise _not_found(ref) from None
        return {
            "data": data,
            "last_id": page[-1].id if page else (after or "0"),
            "status": self._row(ref).status,
            "has_more": len(entries) > limit,
        }

    def post_stream(self, ref: TurnRef, *, after_seq: int) -> Iterator[bytes]:
        """The stream of POST (create, resume): what the official client reads, until the turn ends or rests."""
        yield frames.PING  # a byte at once: a timeout before the first one makes SDKs post again
        try:
            for batch in self._hub.follow(ref, after=Cursor(after_seq), idle_s=_beat_s()):
                if not batch:
                    yield frames.PING
                shown, rests = self._client_frames(ref, batch)
                if shown:
                    yield shown
                if rests:
                    return
        except HubClosed:
            yield _failure(ref, "restarting", f"The server restarts. The turn goes on: {_READ_IT}")
        except StoreError:
            yield _failure(ref, "store_unavailable", f"The store does not answer. The turn goes on: {_READ_IT}")
        except (StoryLost, BlobGone):
            yield self._lost_failure(ref)

    def _lost_failure(self, ref: TurnRef) -> bytes:
        if self._found(ref) is None:
            return _failure(ref, "turn_lost", _GONE)
        lost = "The store has lost events of this turn in a failover."
        return _failure(ref, "events_lost", f"{lost} It goes on without them: {_READ_IT}")

    def wait_resting(self, ref: TurnRef, timeout_s: float | None) -> Iterator[None]:
        """Yields every 15 s at the latest while the turn works; ends when it rests, or after `timeout_s`.

        Raises NotFound where the turn is gone.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        last_yield = time.monotonic()
        try:
            for rests in self._until_rest(ref, deadline):
                if rests or (deadline is not None and time.monotonic() >= deadline):
                    return
                if time.monotonic() - last_yield >= HEARTBEAT_S:
                    last_yield = time.monotonic()
                    yield
        except HubClosed:
            return

    def _until_rest(self, ref: TurnRef, deadline: float | None) -> Iterator[bool]:
        """Whether the turn rests, with each batch of events. Where its log has lost some, the row is asked again."""
        while (row := self._row(ref)).status not in RESTING:
            left = HEARTBEAT_S if deadline is None else max(deadline - time.monotonic(), 0.001)
            try:
                for batch in self._hub.follow(ref, after=Cursor(row.last), idle_s=min(HEARTBEAT_S, left)):
                    yield any(entry.event_type in _RESTING_EVENTS for entry in batch)
            except StoryLost:
                yield False
                time.sleep(_LOOK_AGAIN_S)
        yield True

    def _tail(self, ref: TurnRef, after: Cursor, heartbeat_s: float) -> Iterator[bytes]:
        """Events to the turn's end, or the word to come again: a status has been promised by then."""
        try:
            yield from self._told(ref, after, heartbeat_s)
        except HubClosed:
            yield frames.RESTARTING
        except StoreError:
            yield frames.STORE_AWAY

    def _told(self, ref: TurnRef, after: Cursor, heartbeat_s: float) -> Iterator[bytes]:
        """Where the log tells another story: a reset, and on from there."""
        cursor, reason = after, "unknown_cursor"
        while True:
            try:
                for batch in self._hub.follow(ref, after=cursor, idle_s=heartbeat_s):
                    reason = "events_lost"
                    yield self._frames(ref, batch)
                    if batch and batch[-1].event_type in TERMINAL_EVENTS:
                        return
            except BlobGone:
                reset = None
            except StoryLost:
                reset = self._reset(ref, reason)
            if reset is None:
                yield from self._without_log(ref, after)
                return
            cursor, payload = reset
            yield frames.frame(cursor.id, "reset", payload)

    def _frames(self, ref: TurnRef, batch: list[Entry]) -> bytes:
        if not batch:
            return frames.PING_WITH_IDS
        return b"".join(frames.frame(entry.id, entry.event_type, self._payload(ref, entry)) for entry in batch)

    def _reset(self, ref: TurnRef, reason: str) -> tuple[Cursor, bytes] | None:
        """A snapshot up to the last event before the turn's end, so that its end still comes as an event.

        None where there is no log.
        """
        try:
            entries = [e for e in self._reader.all_entries(ref) if e.event_type not in TERMINAL_EVENTS]
        except BlobGone:
            return None
        if not entries:
            return None
        payload = {"event_type": "reset", "reason": reason, "turn": fold(entries).as_turn()}
        return Cursor.at(entries[-1]), orjson.dumps(payload)

    def _reset_page(self, ref: TurnRef, cursor: Cursor) -> Json:
        row, reset = self._row(ref), self._reset(ref, "unknown_cursor")
        if reset is None:
            if row.status in TERMINAL:
                return self._rebuilt_page(ref, cursor)
            raise _not_found(ref)
        at, payload = reset
        return {"data": [_item(at.seq, at.id, payload)], "last_id": at.id, "status": row.status, "has_more": True}

    def _without_log(self, ref: TurnRef, cursor: Cursor) -> Iterator[bytes]:
        """The last words of a tail whose log is not there any more."""
        row = self._found(ref)
        if row is not None and row.snapshot is not None:
            yield from self._rebuilt(ref, cursor)
            return
        payload = {"event_type": "turn_lost", "turn_id": ref.turn_id, "message": _GONE}
        yield frames.frame("", "turn_lost", orjson.dumps(payload))

    def _payload(self, ref: TurnRef, entry: Entry) -> bytes:
        """The payload on its way out: frames of an end or a rest are completed with the turn."""
        if entry.event_type in TERMINAL_EVENTS:
            return frames.with_turn(entry.payload, self._views.snapshot(ref))
        if entry.event_type == _AWAITING:
            return frames.with_turn(entry.payload, self._turn_at(ref, entry.seq))
        return entry.payload

    def _turn_at(self, ref: TurnRef, seq: int) -> bytes:
        return orjson.dumps(self._reader.state(ref, upto=seq).as_turn())

    def _client_frames(self, ref: TurnRef, batch: list[Entry]) -> tuple[bytes, bool]:
        """What the official client is shown of a batch, in one piece, and whether its stream ends there."""
        shown: list[bytes] = []
        for entry in batch:
            shown.append(self._client_frame(ref, entry) or b"")
            if entry.event_type in _RESTING_EVENTS:
                return b"".join(shown), True
        return b"".join(shown), False

    def _client_frame(self, ref: TurnRef, entry: Entry) -> bytes | None:
        if entry.event_type in _CLIENT_TYPES:
            return frames.data_frame(self._payload(ref, entry))
        if entry.event_type == "step_abandoned":
            return self._abandoned_frame(ref, entry)
        if entry.event_type in TERMINAL_EVENTS:
            event: Json = orjson.loads(entry.payload)
            error = event.get("error") or {"code": "turn_canceled", "message": event.get("reason")}
            return frames.error_frame(orjson.dumps({**error, "turn_id": ref.turn_id}))
        return None

    def _abandoned_frame(self, ref: TurnRef, entry: Entry) -> bytes | None:
        """The official client does not know abandoned steps: for it the step completes with what it had."""
        state = self._reader.state(ref, upto=entry.seq - 1)
        if state.open_step is None:
            return None
        step = {**state.partial_step(state.open_step), "completed_at": state.last_time}
        names = {"step_type": step["step_type"], "step_id": step["step_id"]}
        return frames.data_frame(orjson.dumps({"event_type": "step_complete", **names, "step_details": step}))

    def _entries(self, ref: TurnRef, cursor: Cursor, count: int, *, wait_s: float) -> list[Entry]:
        """What comes after the cursor, waited for. Raises StoryLost."""
        page = self._after(ref, cursor, count)
        if page or wait_s <= 0:
            return page
        try:
            batch = next(self._hub.follow(ref, after=cursor, idle_s=wait_s), [])
        except HubClosed:
            return []
        return batch[:count] or self._after(ref, cursor, count)

    def _after(self, ref: TurnRef, cursor: Cursor, count: int) -> list[Entry]:
        page = read_from(self._reader, ref, cursor, count=count + 1)
        return page[:count] if cursor.seq == 0 else page[1:]

    def _rebuilt(self, ref: TurnRef, cursor: Cursor) -> Iterator[bytes]:
        turn = orjson.loads(self._views.snapshot(ref))
        if cursor.seq:
            payload = {"event_type": "reset", "reason": "events_expired", "turn": turn}
            yield frames.frame("", "reset", orjson.dumps(payload))
            *_, (event_type, payload_bytes) = rebuilt_events(turn)
            yield frames.frame("", event_type, payload_bytes)
            return
        for event_type, payload_bytes in rebuilt_events(turn):
            yield frames.frame("", event_type, payload_bytes)

    def _rebuilt_page(self, ref: TurnRef, cursor: Cursor) -> Json:
        turn = orjson.loads(self._views.snapshot(ref))
        payloads = [payload for _, payload in rebuilt_events(turn)]
        if cursor.seq:
            reset = {"event_type": "reset", "reason": "events_expired", "turn": turn}
            payloads = [orjson.dumps(reset), payloads[-1]]
        data = [_item(None, None, payload) for payload in payloads]
        return {"data": data, "last_id": None, "status": turn["status"], "has_more": False}

    def _row(self, ref: TurnRef) -> TurnRow:
        row = self._found(ref)
        if row is None:
            raise _not_found(ref)
        return row

    def _found(self, ref: TurnRef) -> TurnRow | None:
        try:
            return self._reader.row(ref)
        except BlobGone:
            return None  # a sweep has just removed the turn


def _beat_s() -> float:
    return HEARTBEAT_S * uniform(0.75, 1.0)


def _not_found(ref: TurnRef) -> NotFound:
    return NotFound("turn", ref.turn_id, listing="GET /v1/agents/{agent_id}/session/{session_id}")


def _failure(ref: TurnRef, code: str, message: str) -> bytes:
    """The frame that ends a POST's stream before its turn has ended."""
    return frames.error_frame(orjson.dumps({"message": message, "code": code, "turn_id": ref.turn_id}))


def _item(seq: int | None, entry_id: str | None, payload: bytes) -> Json:
    return {"seq": seq, "id": entry_id, "event": {"payload": orjson.Fragment(payload)}}
