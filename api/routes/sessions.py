"""Sessions: create, list, get, delete, cancel their turns."""

from typing import Annotated

from flask import Response
from pydantic import Field

from api.answers import answer, nothing
from api.idempotency import digest_of
from api.routes.parts import AgentPath, CreationHeaders, Page, SessionPath
from api.routing import Query, Routes, body_as_sent, services, tenant
from api.session_answers import with_turns
from api.submitting import cancel
from shared.clock import now_iso
from shared.events import Json
from shared.ids import SessionRef, TurnRef, new_session_id
from shared.log.sessions import Session
from shared.types import sessions as types

routes = Routes("sessions", about="An agent's conversations. Turns of a session run in order, one at a time.")


class Which(Query):
    """Which turns of a session."""

    turn_ids: Annotated[str | None, Field(description="Only these turns: ids with commas in between.")] = None


@routes.on(
    "POST",
    "/v1/agents/<agent_id>/session",
    answers={200: types.SessionCreated},
    problems=(404, 409, 413, 415, 422, 503),
)
def create_session(path: AgentPath, body: types.CreateSession, header: CreationHeaders) -> Response:
    """Create a session."""
    agent = services().lookup.agent(tenant(), path.agent_id)
    persists = agent.agent_config["enable_session_persistence"]

    def create() -> Json:
        session = Session(
            session_id=new_session_id(),
            agent_id=agent.agent_id,
            session_name=body.session_name,
            started_at=now_iso(),
            idle_ttl_s=None if persists else services().turns.session_ttl_s,
            multitask_strategy=body.multitask_strategy,
        )
        services().sessions.create(SessionRef(tenant(), session.session_id), session)
        return {"session_id": session.session_id}

    created, replayed = services().idempotency.once(
        create,
        tenant=tenant(),
        route=f"session:{agent.agent_id}",
        key=header.idempotency_key,
        digest=digest_of(body_as_sent()),
    )
    return answer(created, headers={"Idempotent-Replayed": "true"} if replayed else None)


@routes.on("GET", "/v1/agents/<agent_id>/sessions", answers={200: types.SessionList}, problems=(404, 422, 503))
def list_sessions(path: AgentPath, query: Page) -> Response:
    """List an agent's sessions, oldest first. A page may be short where sessions were deleted lately."""
    agent_id, start, limit = path.agent_id, query.start_index, query.limit
    services().lookup.agent(tenant(), agent_id)
    sessions = services().sessions.of_agent(tenant(), agent_id, start=start, count=limit)
    more = start + limit < services().sessions.count_of_agent(tenant(), agent_id)
    url = f"/v1/agents/{agent_id}/sessions"
    return answer({"data": [_summary(session) for session in sessions], "has_more": more, "url": url})


@routes.on("GET", "/v1/agents/<agent_id>/session/<session_id>", answers={200: types.Session}, problems=(404, 422, 503))
def get_session(path: SessionPath, query: Which) -> Response:
    """Get a session with its turns, in the order of their acceptance.

    Turns that were rolled back are left out, unless `turn_ids` names them.
    """
    session = services().lookup.session(tenant(), path.agent_id, path.session_id)
    turns = _chosen(SessionRef(tenant(), session.session_id), query.turn_ids)
    return with_turns(_summary(session), turns, services().views)


@routes.on("DELETE", "/v1/agents/<agent_id>/session/<session_id>", answers={204: None}, problems=(404, 503))
def delete_session(path: SessionPath) -> Response:
    """Delete a session. Turns that have not ended are canceled, and their tails end."""
    session = services().lookup.session(tenant(), path.agent_id, path.session_id)
    services().sessions.delete(SessionRef(tenant(), session.session_id))
    return nothing()


@routes.on(
    "POST",
    "/v1/agents/<agent_id>/session/<session_id>/cancel",
    answers={200: types.CanceledTurns, 202: types.CanceledTurns},
    problems=(404, 503),
)
def cancel_session(path: SessionPath) -> Response:
    """Cancel all turns of a session that have not ended.

    200: they have ended. 202: workers that run some of them were told; those end shortly. Where there are none, `data`
    is empty.
    """
    session = services().lookup.session(tenant(), path.agent_id, path.session_id)
    turns = services().sessions.unfinished(SessionRef(tenant(), session.session_id))
    # From the tail, so that none of them becomes the head and starts meanwhile.
    outcomes = [cancel(services(), turn)[0] for turn in reversed(turns)]
    views = [view for view in services().views.turns(turns) if view is not None]
    return answer({"data": views}, 202 if "asked" in outcomes else 200)


def _chosen(ref: SessionRef, turn_ids: str | None) -> list[TurnRef]:
    if turn_ids is None:
        return services().sessions.history(ref)
    wanted = {turn_id.strip() for turn_id in turn_ids.split(",")}
    return [turn for turn in services().sessions.turns(ref) if turn.turn_id in wanted]


def _summary(session: Session) -> Json:
    return {
        "session_id": session.session_id,
        "agent_id": session.agent_id,
        "session_name": session.session_name,
        "started_at": session.started_at,
        "multitask_strategy": session.multitask_strategy,
    }
