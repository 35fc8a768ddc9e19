"""Follows a turn's events over connections that may drop: each event once, in order."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import orjson

from shared.cli.client import ApiClient
from shared.errors import ApiUnreachable
from shared.events import TERMINAL_EVENTS, Json

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 5.0
PATIENCE_S = 120.0
"""So long the API may be away in one piece: longer than a restart, shorter than a coffee break."""


class Frame(NamedTuple):
    """One event. `id` is empty where the log has expired and the story was rebuilt."""

    id: str
    type: str
    payload: Json


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection is gone, for the reason; it is tried again by itself."""

    reason: str


@dataclass(frozen=True, slots=True)
class Back:
    """The connection is there again."""


def follow(
    api: ApiClient,
    path: str,
    *,
    after: str | None,
    known: bool,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Frame | Lost | Back]:
    """The events after `after` up to the turn's end, with a Lost for each break and a Back for its end.

    `known`: the API has been reached already, so that it is waited for also where the first connection fails.
    Raises ApiUnreachable where it stays away, ApiRefused where it refuses.
    """
    last_id, pause = after, FIRST_PAUSE_S
    away_since: float | None = None
    lost = False
    while True:
        try:
            with api.stream(f"{path}/events", last_id=last_id) as pieces:
                known, away_since = True, None
                if lost:
                    lost = False
                    yield Back()
                if pieces is None:
                    return
                for frame in frames(pieces):
                    pause = FIRST_PAUSE_S
                    last_id = frame.id or last_id
                    yield frame
                    if frame.type in TERMINAL_EVENTS:
                        return
            # A server that restarts ends its streams politely, in the middle of the story.
            reason = "the stream ended before the turn did"
        except ApiUnreachable as error:
            now = clock()
            away_since = now if away_since is None else away_since
            if not known or now - away_since > PATIENCE_S:
                raise
            reason = error.message
        lost = True
        yield Lost(reason)
        sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE_S)


def frames(pieces: Iterable[bytes]) -> Iterator[Frame]:
    """The events in the bytes of a stream, cut anywhere. Comments are skipped, and so is an event that was cut."""
    fields: dict[bytes, bytes] = {}
    for line in _lines(pieces):
        if line:
            name, _, value = line.partition(b":")
            fields[name] = value.removeprefix(b" ")
            continue
        if b"data" in fields:
            payload = orjson.loads(fields[b"data"])["event"]["payload"]
            yield Frame(fields.get(b"id", b"").decode(), payload["event_type"], payload)
        fields = {}


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            text = line.removesuffix(b"\r")
            if not text.startswith(b":"):
                yield text
