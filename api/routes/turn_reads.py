"""Turns: read, and follow their events."""

from typing import Annotated

from flask import Response, request
from pydantic import Field

from api.answers import answer, nothing
from api.lookup import has_shard, no_turn
from api.routes.parts import StepPath, TurnPath
from api.routing import Query, Routes, Streamed, services, tenant
from api.turn_answers import event_stream, turn_url
from api.waiting import LONGEST_WAIT_S, within
from shared.errors import NotFound
from shared.events import Json
from shared.ids import TurnRef
from shared.log.reader import TurnRow
from shared.status import RESTING
from shared.types import turns as types
from shared.types.steps import StepAnswer

routes = Routes("turn-reads", about="What becomes of a turn: read it, wait for it, follow its events.")

_TURN = "/v1/agents/<agent_id>/session/<session_id>/turn/<turn_id>"
_LONGEST_EVENT_WAIT_S = 60.0


class TurnQuery(Query):
    """How to read a turn."""

    wait: Annotated[
        float | None, Field(ge=0, le=LONGEST_WAIT_S, description="Wait so many seconds until it is at rest.")
    ] = None


class EventsQuery(Query):
    """Which events of a turn, and how long to wait for them."""

    after: Annotated[str | None, Field(description="The id of the last event that you have; or a seq.")] = None
    wait: Annotated[
        float | None, Field(ge=0, le=_LONGEST_EVENT_WAIT_S, description="JSON: wait so many seconds for an event.")
    ] = None
    limit: Annotated[int, Field(ge=1, le=1000, description="JSON: how many at the most.")] = 200


class EventsHeaders(Query):
    """Headers of a tail."""

    last_event_id: Annotated[str | None, Field(alias="Last-Event-ID", description="Like `after`.")] = None


@routes.on("GET", _TURN, answers={200: types.Turn}, problems=(404, 422, 503))
def get_turn(path: TurnPath, query: TurnQuery) -> Response:
    """Get a turn as it is now, partial steps included. With `wait`: as soon as it has ended or waits for input."""
    ref, turn = _find(path)
    if query.wait and turn["status"] not in RESTING:
        return within(services(), ref, query.wait)
    return answer(turn)


@routes.on("GET", f"{_TURN}/step/<step_id>", answers={200: StepAnswer}, problems=(404, 503))
def get_step(path: StepPath) -> Response:
    """Get a step of a turn."""
    _, turn = _find(path)
    for step in turn["steps"]:
        if step["step_id"] == path.step_id:
            return answer({"step": step})
    listing = f"GET {turn_url(path.agent_id, TurnRef(tenant(), path.session_id, path.turn_id))}"
    raise NotFound("step", path.step_id, listing=listing)


@routes.on(
    "GET",
    f"{_TURN}/events",
    answers={200: Streamed(types.EventPage, "Server-sent events, or a page of events."), 204: None},
    problems=(404, 422, 503),
)
def get_events(path: TurnPath, query: EventsQuery, header: EventsHeaders) -> Response:
    """Follow a turn from any event on.

    Server-sent events until the turn has ended, or a page in JSON with `Accept: application/json` or `wait`. 204:
    the turn has ended, and you have all of its events.
    """
    ref, row = services().lookup.turn_row(tenant(), path.agent_id, path.session_id, path.turn_id)
    return events_answer(ref, row, query, header)


def events_answer(ref: TurnRef, row: TurnRow, query: EventsQuery, header: EventsHeaders) -> Response:
    """The events of a turn, in the form that the request asks for."""
    after = header.last_event_id or query.after
    if query.wait is not None or _wants_json():
        page = services().tails.events_page(ref, row, after=after, wait_s=query.wait or 0.0, limit=query.limit)
        return answer(page)
    frames = services().tails.events_response(ref, row, after=after)
    return nothing() if frames is None else event_stream(frames)


def _wants_json() -> bool:
    best = request.accept_mimetypes.best_match(["text/event-stream", "application/json"], default="text/event-stream")
    return best == "application/json"


def _find(path: TurnPath) -> tuple[TurnRef, Json]:
    """The turn of a path as it is now. Raises NotFound, also where it is another session's, or that is deleted."""
    services().lookup.session(tenant(), path.agent_id, path.session_id)
    ref = TurnRef(tenant(), path.session_id, path.turn_id)
    turn = services().views.turn(ref) if has_shard(ref) else None
    if turn is None or turn["session_id"] != path.session_id:
        raise no_turn(path.agent_id, path.session_id, path.turn_id)
    return ref, turn
