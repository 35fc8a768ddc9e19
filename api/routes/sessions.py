"""Sessions: create, list, get, delete."""

from typing import Annotated

from flask import Response
from pydantic import Field

from api.answers import answer, nothing
from api.idempotency import digest_of
from api.routes.parts import AgentPath, CreationHeaders, Page, SessionPath
from api.routing import Query, Routes, body_as_sent, services, tenant
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
            idle_ttl_s=None if persists else services().session_ttl_s,
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
    """Get a session with its turns, in the order of their acceptance."""
    session = services().lookup.session(tenant(), path.agent_id, path.session_id)
    turns = services().views.turns(_chosen(SessionRef(tenant(), session.session_id), query.turn_ids))
    return answer({**_summary(session), "turns": [turn for turn in turns if turn is not None]})


@routes.on("DELETE", "/v1/agents/<agent_id>/session/<session_id>", answers={204: None}, problems=(404, 503))
def delete_session(path: SessionPath) -> Response:
    """Delete a session. Turns that have not ended are canceled, and their tails end."""
    session = services().lookup.session(tenant(), path.agent_id, path.session_id)
    services().sessions.delete(SessionRef(tenant(), session.session_id))
    return nothing()


def _chosen(ref: SessionRef, turn_ids: str | None) -> list[TurnRef]:
    turns = services().sessions.turns(ref)
    if turn_ids is None:
        return turns
    wanted = {turn_id.strip() for turn_id in turn_ids.split(",")}
    return [turn for turn in turns if turn.turn_id in wanted]


def _summary(session: Session) -> Json:
    return {
        "session_id": session.session_id,
        "agent_id": session.agent_id,
        "session_name": session.session_name,
        "started_at": session.started_at,
    }
