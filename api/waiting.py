"""Answers that wait for a turn."""

import re
from collections.abc import Callable, Iterator, Mapping

import orjson
from flask import Response

from api.answers import answer
from api.services import Services
from shared.errors import NotFound, Unavailable
from shared.events import Json
from shared.ids import TurnRef
from shared.job_view import job_of
from shared.status import RESTING

LONGEST_WAIT_S = 600.0
_WAIT = re.compile(r'(?:^|[,;])\s*wait\s*=\s*"?(\d{1,6})"?\s*(?:[,;]|$)', re.IGNORECASE)
_DONE = object()


def preferred_wait_s(prefer: str | None) -> float | None:
    """The `wait` of a Prefer header (RFC 7240) in seconds. One that cannot be read is ignored, as section 2 says."""
    match = _WAIT.search(prefer or "")
    return None if match is None else min(float(match[1]), LONGEST_WAIT_S)


def current(services: Services, ref: TurnRef) -> Json:
    """The turn as it is now, an insert job as a job. Raises NotFound."""
    turn = services.views.turn(ref)
    if turn is not None:
        return job_of(turn) if ref.is_job else turn
    if ref.is_job:
        raise NotFound("job", ref.turn_id, listing="GET /v1/jobs")
    raise NotFound("turn", ref.turn_id, listing=f"GET /v1/agents/{{agent_id}}/session/{ref.session_id}")


def at_rest(
    services: Services, ref: TurnRef, headers: Mapping[str, str], *, require: Callable[[Json], None] | None = None
) -> Response:
    """200 with the turn once it has ended or waits for the client, however long that takes.

    `require` may raise for how it ended, as long as no silence has made the status necessary.
    """
    return _waited(services, ref, timeout_s=None, headers=headers, require=require)


def within(services: Services, ref: TurnRef, timeout_s: float) -> Response:
    """200 with the turn, at rest or not after `timeout_s`."""
    return _waited(services, ref, timeout_s=timeout_s, headers={})


def preferred(services: Services, ref: TurnRef, timeout_s: float, headers: Mapping[str, str]) -> Response:
    """200 with the turn at rest, or 202 with the unfinished turn after `timeout_s`."""
    for _ in services.tails.wait_resting(ref, timeout_s):
        pass  # nothing may be sent yet: the status is only known at the end
    turn = current(services, ref)
    status = 200 if turn["status"] in RESTING else 202
    return answer(turn, status, {**headers, "Preference-Applied": f"wait={timeout_s:.0f}"})


def _waited(
    services: Services,
    ref: TurnRef,
    *,
    timeout_s: float | None,
    headers: Mapping[str, str],
    require: Callable[[Json], None] | None = None,
) -> Response:
    resting = services.tails.wait_resting(ref, timeout_s)
    if next(resting, _DONE) is _DONE:
        outcome = _outcome(services, ref, timeout_s)
        if require is not None:
            require(outcome)
        return answer(outcome, 200, headers)
    response = Response(_with_spaces(services, ref, timeout_s, resting), mimetype="application/json")
    response.headers.extend(headers)
    return response


def _with_spaces(services: Services, ref: TurnRef, timeout_s: float | None, resting: Iterator[None]) -> Iterator[bytes]:
    """A space after each silence keeps the connection; JSON allows white space in front (RFC 8259, section 2)."""
    yield b" "
    for _ in resting:
        yield b" "
    yield orjson.dumps(_outcome(services, ref, timeout_s))


def _outcome(services: Services, ref: TurnRef, timeout_s: float | None) -> Json:
    turn = current(services, ref)
    if timeout_s is None and turn["status"] not in RESTING:
        # The wait ended because the server does. An unfinished turn would pass for an empty answer.
        raise Unavailable(
            f"The server restarts. The turn '{ref.turn_id}' goes on: send the same request again, or GET the turn.",
            code="restarting",
        )
    return turn
