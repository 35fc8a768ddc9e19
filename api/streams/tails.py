"""Tails and polls: a turn's events for clients, from any cursor, to the turn's end."""

import time
from collections.abc import Iterator

import orjson

from api.streams import frames
from api.streams.cursor import Cursor
from api.streams.hub import HubClosed, TailHub
from api.streams.rebuilt import rebuilt_events
from api.streams.views import TurnViews
from shared.errors import NotFound
from shared.events import TERMINAL_EVENTS, Entry, Json
from shared.ids import TurnRef
from shared.log.reader import LogReader, TurnRow
from shared.status import RESTING, TERMINAL

HEARTBEAT_S = 15.0
_AWAITING = "turn_awaiting_input"
_RESTING_EVENTS = TERMINAL_EVENTS | {_AWAITING}
_CLIENT_TYPES = frozenset(
    {"turn_start", "step_start", "step_progress", "step_complete", "turn_complete", "turn_awaiting_input"}
)
"""The event types that the official client knows."""


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
        self, ref: TurnRef, *, after: str | None, heartbeat_s: float = HEARTBEAT_S
    ) -> Iterator[bytes] | None:
        """The SSE stream of all events after a cursor, or None where the reader has them all: answer 204.

        Raises InvalidRequest for a cursor that is none, NotFound for a turn that is not there.
        """
        cursor, row = Cursor.parse(after), self._row(ref)
        if row.status in TERMINAL and not self._reader.has_events(ref):
            return self._rebuilt(ref, cursor)
        if self._is_stale(ref, cursor, row):
            return self._reset(ref, heartbeat_s)
        if row.status in TERMINAL and cursor.seq == row.last:
            return None
        return self._tail(ref, cursor.seq, heartbeat_s)

    def events_page(self, ref: TurnRef, *, after: str | None, wait_s: float, limit: int) -> Json:
        """The JSON form: `{data: [{seq, id, event}], last_id, status, has_more}`, for `orjson.dumps`."""
        cursor, row = Cursor.parse(after), self._row(ref)
        if row.status in TERMINAL and not self._reader.has_events(ref):
            return self._rebuilt_page(ref, cursor)
        if self._is_stale(ref, cursor, row):
            entry_id, payload = self._reset_payload(ref)
            item = _item(int(entry_id.partition("-")[0]), entry_id, payload)
            return {"data": [item], "last_id": entry_id, "status": row.status, "has_more": True}
        entries = self._reader.entries(ref, after=cursor.seq, count=limit + 1)
        if not entries and wait_s > 0 and row.status not in TERMINAL:
            entries = self._wait_for_entries(ref, cursor.seq, wait_s)[: limit + 1]
        page = entries[:limit]
        return {
            "data": [_item(entry.seq, entry.id, self._payload(ref, entry)) for entry in page],
            "last_id": page[-1].id if page else (after or "0"),
            "status": self._row(ref).status,
            "has_more": len(entries) > limit,
        }

    def post_stream(self, ref: TurnRef, *, after_seq: int) -> Iterator[bytes]:
        """The stream of POST (create, resume): what the official client reads, until the turn ends or rests."""
        yield frames.PING  # a byte at once: a timeout before the first one makes SDKs post again
        try:
            for batch in self._hub.follow(ref, after=after_seq, idle_s=HEARTBEAT_S):
                if not batch:
                    yield frames.PING
                shown, rests = self._client_frames(ref, batch)
                if shown:
                    yield shown
                if rests:
                    return
        except HubClosed:
            message = "The server restarts. The turn goes on: read it with GET, or tail its events."
            yield frames.error_frame(orjson.dumps({"message": message, "code": "restarting", "turn_id": ref.turn_id}))

    def wait_resting(self, ref: TurnRef, timeout_s: float | None) -> Iterator[None]:
        """Yields every 15 s at the latest while the turn works; ends when it rests, or after `timeout_s`."""
        row = self._row(ref)
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        if row.status in RESTING:
            return
        idle_s = HEARTBEAT_S if timeout_s is None else min(HEARTBEAT_S, max(timeout_s, 0.001))
        last_yield = time.monotonic()
        try:
            for batch in self._hub.follow(ref, after=row.last, idle_s=idle_s):
                if any(entry.event_type in _RESTING_EVENTS for entry in batch):
                    return
                if deadline is not None and time.monotonic() >= deadline:
                    return
                if time.monotonic() - last_yield >= HEARTBEAT_S:
                    last_yield = time.monotonic()
                    yield
        except HubClosed:
            return

    def _tail(self, ref: TurnRef, after: int, heartbeat_s: float) -> Iterator[bytes]:
        cursor = after
        try:
            for batch in self._hub.follow(ref, after=cursor, idle_s=heartbeat_s):
                if not batch:
                    yield frames.PING_WITH_IDS
                elif not frames.is_next(batch, cursor):
                    yield from self._reset(ref, heartbeat_s)
                    return
                else:
                    yield b"".join(frames.frame(e.id, e.event_type, self._payload(ref, e)) for e in batch)
                    cursor = batch[-1].seq
                    if batch[-1].event_type in TERMINAL_EVENTS:
                        return
        except HubClosed:
            yield frames.RESTARTING

    def _is_stale(self, ref: TurnRef, cursor: Cursor, row: TurnRow) -> bool:
        """Whether the cursor belongs to a story that the log does not tell."""
        if cursor.seq == 0:
            return False
        if cursor.seq > row.last:
            return True
        if cursor.epoch is None:
            return False
        entry = self._reader.entry(ref, cursor.seq)
        return entry is None or entry.epoch != cursor.epoch

    def _reset(self, ref: TurnRef, heartbeat_s: float) -> Iterator[bytes]:
        entry_id, payload = self._reset_payload(ref)
        yield frames.frame(entry_id, "reset", payload)
        yield from self._tail(ref, int(entry_id.partition("-")[0]), heartbeat_s)

    def _reset_payload(self, ref: TurnRef) -> tuple[str, bytes]:
        """A snapshot up to the last event before the turn's end, so that its end still comes as an event."""
        entries = [e for e in self._reader.all_entries(ref) if e.event_type not in TERMINAL_EVENTS]
        state = self._reader.state(ref, upto=entries[-1].seq)
        payload = {"event_type": "reset", "reason": "unknown_cursor", "turn": state.as_turn()}
        return entries[-1].id, orjson.dumps(payload)

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

    def _wait_for_entries(self, ref: TurnRef, after: int, wait_s: float) -> list[Entry]:
        try:
            return next(self._hub.follow(ref, after=after, idle_s=wait_s), [])
        except HubClosed:
            return []

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
        row = self._reader.row(ref)
        if row is None:
            raise NotFound("turn", ref.turn_id, listing="GET /v1/agents/{agent_id}/session/{session_id}")
        return row


def _item(seq: int | None, entry_id: str | None, payload: bytes) -> Json:
    return {"seq": seq, "id": entry_id, "event": {"payload": orjson.Fragment(payload)}}
