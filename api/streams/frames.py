"""Server-sent event frames, as bytes. Payloads go out as they lie in the log: nothing is parsed here.

Format: WHATWG HTML, section 9.2 (server-sent events).
"""

from shared.events import Entry

PING_WITH_IDS = b": ping\n"
"""No blank line: where a stream has `id:` lines, the official client takes one for an event without data."""
PING = b": ping\n\n"
RESTARTING = b": the server restarts, reconnect\n"

Payload = bytes


def frame(entry_id: str, event_type: str, payload: Payload) -> bytes:
    """A frame of the events stream: id, type and data."""
    head = f"id: {entry_id}\nevent: {event_type}\n".encode() if entry_id else f"event: {event_type}\n".encode()
    return head + data_frame(payload)


def data_frame(payload: Payload) -> bytes:
    """A frame of a POST's stream: the official client wants neither ids nor types."""
    return b'data: {"event": {"payload": ' + payload + b"}}\n\n"


def error_frame(error: bytes) -> bytes:
    """The frame that ends a POST's stream in failure; `error` is a JSON object."""
    return b'data: {"error": ' + error + b"}\n\n"


def with_turn(payload: Payload, turn: bytes) -> Payload:
    """The payload with the full turn as its last member."""
    return payload[:-1] + b',"turn":' + turn + b"}"


def is_next(entries: list[Entry], after: int) -> bool:
    """Whether a batch goes on where the reader stands."""
    return entries[0].seq == after + 1
