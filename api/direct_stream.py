"""Calls whose answers are streamed, as server-sent events."""

import logging
from collections.abc import Generator

import orjson
from flask import Response

from api.problems import problem_of
from api.streams import frames
from api.turn_answers import event_stream
from shared.calls import Calls
from shared.errors import TurnstoneError
from shared.events import Json

logger = logging.getLogger(__name__)

_QUIET_BEATS = 4
"""After so many signs of life without a piece the answer begins: a client that hears nothing for long asks again."""


def streamed(calls: Calls, operation: str, payload: Json) -> Response:
    """The answer to a streamed call. What fails before its first piece raises: it has a status of its own."""
    pieces = calls.stream(operation, payload)
    first = None
    for _ in range(_QUIET_BEATS):
        first = next(pieces, None)
        if first is not None:
            break
    return event_stream(_frames(pieces, first))


def _frames(pieces: Generator[bytes | None], first: bytes | None) -> Generator[bytes]:
    """Closing it ends the call, and with it the provider's work."""
    try:
        yield frames.PING if first is None else frames.plain_frame(first)
        for piece in pieces:
            yield frames.PING if piece is None else frames.plain_frame(piece)
    except TurnstoneError as error:
        logger.info("a streamed call failed: %s", error)
        problem = problem_of(error)
        yield frames.error_frame(orjson.dumps({"message": problem.detail, "code": problem.code, **problem.facts}))
    finally:
        pieces.close()
