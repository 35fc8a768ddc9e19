"""A session with all of its turns, which may be tens of megabytes: written piece by piece, so that nobody waits for it
who reads something else from this process."""

import time
from collections.abc import Iterator, Sequence

import orjson
from flask import Response

from api.streams.views import TurnViews
from shared.events import Json
from shared.ids import TurnRef

_PIECE_BYTES = 256 * 1024
"""About so much is read and sent at once; a slow client is waited for in between."""
_FIRST_TURNS, _MOST_TURNS = 8, 200


def with_turns(summary: Json, refs: Sequence[TurnRef], views: TurnViews) -> Response:
    """The session with these turns. The first piece is read at once: a store that is away is still a 503."""
    pieces = _pieces(refs, views)
    first = next(pieces, b"")
    head = orjson.dumps(summary)[:-1] + b',"turns":[' + first
    if len(refs) <= _FIRST_TURNS:
        return Response(head + b"]}", mimetype="application/json")
    return Response(_whole(head, pieces), mimetype="application/json")


def _whole(head: bytes, pieces: Iterator[bytes]) -> Iterator[bytes]:
    yield head
    for piece in pieces:
        time.sleep(0)  # a client that reads fast would let nobody else run
        yield b"," + piece
    yield b"]}"


def _pieces(refs: Sequence[TurnRef], views: TurnViews) -> Iterator[bytes]:
    """Turns with commas in between, so many at once as the last ones were small. None is empty."""
    start, count = 0, _FIRST_TURNS
    while start < len(refs):
        piece = b",".join(views.texts(refs[start : start + count]))
        if piece:
            yield piece
        start += count
        count = max(1, min(_MOST_TURNS, count * _PIECE_BYTES // (len(piece) + 1)))
