"""Server-sent event frames, as bytes. Payloads go out as they lie in the log: nothing is parsed here.

One thing in them is rewritten: Unicode's own line ends, which JSON allows raw, go out as escapes. In SSE they end no
line, but readers that cut text by Python's `splitlines` (httpx's `iter_lines` does) would break the event there.

Format: WHATWG HTML, section 9.2 (server-sent events).
"""

PING_WITH_IDS = b": ping\n"
"""No blank line: where a stream has `id:` lines, the official client takes one for an event without data."""
PING = b": ping\n\n"
RESTARTING = b": the server restarts, reconnect\n"
STORE_AWAY = b": the store does not answer, reconnect\n"

_LINE_ENDS = ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"), (b"\xc2\x85", b"\\u0085"))

Payload = bytes


def frame(entry_id: str, event_type: str, payload: Payload) -> bytes:
    """A frame of the events stream: id, type and data."""
    head = f"id: {entry_id}\nevent: {event_type}\n" if entry_id else f"event: {event_type}\n"
    return head.encode() + data_frame(payload)


def data_frame(payload: Payload) -> bytes:
    """A frame of a POST's stream: the official client wants neither ids nor types."""
    return b'data: {"event": {"payload": ' + _one_line(payload) + b"}}\n\n"


def plain_frame(data: bytes) -> bytes:
    """A frame whose data is `data`, a JSON object, as it stands."""
    return b"data: " + _one_line(data) + b"\n\n"


def error_frame(error: bytes) -> bytes:
    """The frame that ends a POST's stream in failure; `error` is a JSON object."""
    return b'data: {"error": ' + _one_line(error) + b"}\n\n"


def with_turn(payload: Payload, turn: bytes) -> Payload:
    """The payload with the full turn as its last member."""
    return payload[:-1] + b',"turn":' + turn + b"}"


def _one_line(text: bytes) -> bytes:
    if text.isascii():
        return text
    for raw, escaped in _LINE_ENDS:
        if raw in text:
            text = text.replace(raw, escaped)
    return text
