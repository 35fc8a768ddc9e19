"""How the routes that run a turn answer: at once, as a stream, or when the turn is at rest."""

from collections.abc import Iterator, Mapping

from flask import Response

from api.answers import answer
from api.services import Services
from api.waiting import at_rest, current, preferred, preferred_wait_s
from shared.events import Json
from shared.ids import TurnRef

_STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""Proxies that buffer would hold events back."""


def job_url(ref: TurnRef) -> str:
    """The path of an insert job."""
    return f"/v1/jobs/{ref.turn_id}"


def turn_url(agent_id: str, ref: TurnRef) -> str:
    """The path of a turn."""
    return f"/v1/agents/{agent_id}/session/{ref.session_id}/turn/{ref.turn_id}"


def event_stream(frames: Iterator[bytes], headers: Mapping[str, str] | None = None) -> Response:
    """Server-sent events. A client that leaves closes `frames`."""
    response = Response(frames, mimetype="text/event-stream")
    response.headers.extend({**_STREAM_HEADERS, **(headers or {})})
    return response


def answer_as_asked(
    services: Services,
    ref: TurnRef,
    *,
    stream: bool | None,
    prefer: str | None,
    headers: Mapping[str, str],
    turn: Json | None = None,
    after_seq: int = 0,
) -> Response:
    """The answer of the kind that `stream` asks for. `turn` saves reading it, where it is known."""
    if stream:
        return event_stream(services.tails.post_stream(ref, after_seq=after_seq), headers)
    if stream is None:
        return answer(turn or current(services, ref), 202, {**headers, "Retry-After": "1"})
    wait_s = preferred_wait_s(prefer)
    return at_rest(services, ref, headers) if wait_s is None else preferred(services, ref, wait_s, headers)
