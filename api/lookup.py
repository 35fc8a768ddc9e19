"""Finds what a request's path names, and remembers what never changes."""

import re
from functools import lru_cache

from shared.agents import Agent, AgentStore
from shared.errors import InvalidRequest, NotFound
from shared.ids import SessionRef, TurnRef
from shared.log.reader import LogReader, TurnRow
from shared.log.sessions import Session, SessionStore

_ID = re.compile(r"[a-z]+_\d{2}_[0-9a-z]+", re.ASCII)
_AGENTS = 1000
"""How many are remembered. A config takes some KB."""


class Lookup:
    """Finds agents, sessions and turns by the ids in a path. Every method raises NotFound."""

    def __init__(self, *, agents: AgentStore, sessions: SessionStore, reader: LogReader) -> None:
        self._agents = agents
        self._sessions = sessions
        self._reader = reader
        # A submit costs no reads: an agent's config never changes. What is not there is not remembered.
        self.known_agent = lru_cache(_AGENTS)(self.agent)

    def agent(self, tenant: str, agent_id: str) -> Agent:
        found = self._agents.get(tenant, agent_id)
        if found is None:
            raise NotFound("agent", agent_id, listing="GET /v1/agents")
        return found

    def session(self, tenant: str, agent_id: str, session_id: str) -> Session:
        """The session, as it is now."""
        found = self._read(tenant, session_id)
        if found is None or found.agent_id != agent_id:
            raise no_session(agent_id, session_id)
        return found

    def place_of_session(self, tenant: str, agent_id: str, session_id: str) -> SessionRef:
        """Where the session lies, if there is one: the script that accepts a turn looks."""
        ref = SessionRef(tenant, session_id)
        if not has_shard(ref):
            raise no_session(agent_id, session_id)
        return ref

    def turn(self, tenant: str, agent_id: str, session_id: str, turn_id: str) -> TurnRef:
        """Where the turn lies. A turn of another session is none, and so is one of a deleted session."""
        return self.turn_row(tenant, agent_id, session_id, turn_id)[0]

    def turn_row(self, tenant: str, agent_id: str, session_id: str, turn_id: str) -> tuple[TurnRef, TurnRow]:
        """As `turn`, with the turn's row."""
        ref = TurnRef(tenant, session_id, turn_id)
        if not has_shard(ref) or not has_shard(ref.session):
            self.session(tenant, agent_id, session_id)
            raise no_turn(agent_id, session_id, turn_id)
        row, owner = self._reader.row_in_session(ref)
        if owner != agent_id:
            raise no_session(agent_id, session_id)
        if row is None or row.session_id != session_id:
            raise no_turn(agent_id, session_id, turn_id)
        return ref, row

    def turn_by_id(self, tenant: str, turn_id: str) -> tuple[TurnRef, TurnRow]:
        """Where a turn lies whose id is all that is known: the id names the shard, and the row the rest."""
        found = self._by_id(TurnRef(tenant, "", turn_id))
        if found is None or found[0].is_job:
            raise NotFound("turn", turn_id, listing="GET /v1/turns")
        return found

    def job(self, tenant: str, job_id: str) -> tuple[TurnRef, TurnRow]:
        """As `turn_by_id`, for insert jobs."""
        found = self._by_id(TurnRef(tenant, "", job_id))
        if found is None or not found[0].is_job:
            raise NotFound("job", job_id, listing="GET /v1/jobs")
        return found

    def _by_id(self, ref: TurnRef) -> tuple[TurnRef, TurnRow] | None:
        row = self._row(ref)
        if row is None or self._read(ref.tenant, row.session_id) is None:
            return None
        return TurnRef(ref.tenant, row.session_id, ref.turn_id), row

    def _row(self, ref: TurnRef) -> TurnRow | None:
        return self._reader.row(ref) if has_shard(ref) else None

    def _read(self, tenant: str, session_id: str) -> Session | None:
        ref = SessionRef(tenant, session_id)
        return self._sessions.get(ref) if has_shard(ref) else None


def has_shard(ref: SessionRef | TurnRef) -> bool:
    """Whether the id can be one of ours: it says where its keys lie, and holds no sign that parts of keys have."""
    if not _ID.fullmatch(ref.turn_id if isinstance(ref, TurnRef) else ref.session_id):
        return False
    try:
        return ref.shard >= 0
    except InvalidRequest:
        return False


def no_session(agent_id: str, session_id: str) -> NotFound:
    return NotFound("session", session_id, listing=f"GET /v1/agents/{agent_id}/sessions")


def no_turn(agent_id: str, session_id: str, turn_id: str) -> NotFound:
    return NotFound("turn", turn_id, listing=f"GET /v1/agents/{agent_id}/session/{session_id}")
