"""Turns by their ids alone, across agents and sessions: for operators."""

from typing import Annotated

from flask import Response
from pydantic import BaseModel, Field

from api.answers import answer
from api.requeueing import requeue
from api.routes.parts import STATUSES, CreationHeaders, statuses_of
from api.routing import Query, Routes, services, tenant
from api.submitting import end_as_failed
from api.turn_answers import answer_as_asked, turn_url
from api.waiting import current
from api.why import why
from shared.clock import iso_of
from shared.errors import NotFound
from shared.events import Json
from shared.log.listing import MOST, Listed, Place
from shared.types import operating as types
from shared.types.turns import Turn

routes = Routes("operating", about="Turns across agents and sessions: what they do, why, and what to do about them.")

_TURN = "/v1/turns/<turn_id>"


class TurnIdPath(BaseModel):
    """A turn."""

    turn_id: str


class TurnsQuery(Query):
    """Which turns."""

    status: Annotated[str | None, Field(description=f"Only these: of {STATUSES}; several with commas in between.")] = (
        None
    )
    agent_id: Annotated[str | None, Field(description="Only those of this agent.")] = None
    limit: Annotated[int, Field(ge=1, le=MOST, description="How many at the most.")] = 50
    after: Annotated[str | None, Field(description="Go on behind the page that gave this.")] = None


@routes.on("GET", "/v1/turns", answers={200: types.TurnList}, problems=(404, 422, 503))
def list_turns(query: TurnsQuery) -> Response:
    """List turns of all agents and sessions, newest first; failed ones alone by the time they failed.

    A page goes on exactly where the one before ended, whatever came in between. One that is short may still have
    more: `has_more` says so.
    """
    statuses = statuses_of(query.status)
    place = None if query.after is None else Place.parse(query.after)
    if query.agent_id is not None:
        services().lookup.agent(tenant(), query.agent_id)
    page = services().listing.page(tenant(), statuses=statuses, agent_id=query.agent_id, limit=query.limit, after=place)
    data = [_listed(turn) for turn in page.turns]
    after = None if page.after is None else page.after.cursor
    return answer({"data": data, "has_more": after is not None, "after": after})


@routes.on("GET", _TURN, answers={200: Turn}, problems=(404, 503))
def get_turn_by_id(path: TurnIdPath) -> Response:
    """Get a turn of which the id is all that is known, as it is now. `Content-Location` is its own path."""
    ref, row = services().lookup.turn_by_id(tenant(), path.turn_id)
    return answer(current(services(), ref), headers={"Content-Location": turn_url(row.agent_id, ref)})


@routes.on("GET", f"{_TURN}/why", answers={200: types.Why}, problems=(404, 503))
def why_turn(path: TurnIdPath) -> Response:
    """Tell where a turn is, what happens next with it, and what can be done. Nothing of what was said is in it."""
    ref, row = services().lookup.turn_by_id(tenant(), path.turn_id)
    facts = services().facts.facts(ref)
    if facts is None:
        raise NotFound("turn", path.turn_id, listing="GET /v1/turns")
    return answer(why(ref, row, facts))


@routes.on("POST", f"{_TURN}/requeue", answers={202: Turn}, problems=(404, 409, 422, 429, 503))
def requeue_turn(path: TurnIdPath, header: CreationHeaders) -> Response:
    """Run a turn again that failed or was canceled: as a new turn of its session, which is the answer.

    It has the old one's input and config as they were, waits for the session's unfinished turns, and names the old one
    in `retry_of`. 409 where the old one has not ended (`not_ended`), completed (`completed`), or ended longer than
    `turns.events_ttl_s` ago (`input_expired`). Each request makes another turn, unless it has the same Idempotency-Key.
    """
    ref, row = services().lookup.turn_by_id(tenant(), path.turn_id)
    made = requeue(services(), ref, row, idempotency_key=header.idempotency_key)
    headers = {"Location": turn_url(row.agent_id, made.ref)}
    if made.turn is None:
        headers["Idempotent-Replayed"] = "true"
    return answer_as_asked(services(), made.ref, stream=None, prefer=None, headers=headers, turn=made.turn)


@routes.on("POST", f"{_TURN}/fail", answers={200: Turn}, problems=(404, 409, 413, 415, 422, 503))
def fail_turn(path: TurnIdPath, body: types.FailTurn) -> Response:
    """End an unfinished turn as failed, whoever runs it: `failed_by_operator`. 409 where it has ended already."""
    ref, _ = services().lookup.turn_by_id(tenant(), path.turn_id)
    end_as_failed(services(), ref, body.reason)
    return answer(current(services(), ref))


def _listed(turn: Listed) -> Json:
    optional = {"worker": turn.worker, "error": turn.error, "retry_of": turn.retry_of}
    return {
        "turn_id": turn.ref.turn_id,
        "session_id": turn.ref.session_id,
        "agent_id": turn.agent_id,
        "status": turn.status,
        "attempts": turn.attempts,
        "created_at": iso_of(turn.created_us),
        **{name: value for name, value in optional.items() if value is not None},
        "url": turn_url(turn.agent_id, turn.ref),
    }
