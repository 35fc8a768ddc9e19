"""Server-sent events, read incrementally: bytes in, the data of each event out."""

from collections.abc import Iterable, Iterator

MAX_EVENT_BYTES = 8 * 1024 * 1024


class EventTooLong(ValueError):
    """What should be an event does not end: the stream is none, or is broken."""


def event_data(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The `data` of each event in `pieces`, which may be cut anywhere.

    Follows the WHATWG rules (any line end, comments and other fields skipped, several data lines joined by a
    newline), except that an event without its closing blank line counts at the end of the stream.
    """
    buffer = b""
    lines: list[bytes] = []
    for piece in pieces:
        # Nearly every server writes one whole event at a time; this way it costs two searches and a slice.
        if not buffer and not lines and piece[:6] == b"data: " and piece.find(b"\n") == len(piece) - 2:
            if piece[-2:] == b"\n\n":
                yield piece[6:-2]
                continue
        buffer += piece
        if len(buffer) > MAX_EVENT_BYTES:
            raise EventTooLong
        whole = buffer.splitlines(keepends=True)
        # A carriage return at the end may be half of a line end.
        buffer = whole.pop() if whole and not whole[-1].endswith(b"\n") else b""
        yield from _events(whole, lines)
    yield from _events([*buffer.splitlines(), b""], lines)


def _events(raw_lines: Iterable[bytes], lines: list[bytes]) -> Iterator[bytes]:
    """Events that end within `raw_lines`; the data lines of one that does not stay in `lines`."""
    for raw in raw_lines:
        line = raw.rstrip(b"\r\n")
        if line.startswith(b"data:"):
            lines.append(line[6:] if line[5:6] == b" " else line[5:])
        elif not line and lines:
            yield b"\n".join(lines)
            lines.clear()
