"""Deletes agents with all that belongs to them."""

from api.services import Services
from shared.errors import NotFound
from shared.ids import SessionRef

_PAGE = 200


def delete_agent(services: Services, tenant: str, agent_id: str) -> None:
    """Delete the agent's sessions, then the agent. Where it breaks off, the same call goes on. Raises NotFound."""
    if services.agents.get(tenant, agent_id) is None:
        raise NotFound("agent", agent_id, listing="GET /v1/agents")
    _delete_sessions(services, tenant, agent_id)
    services.agents.delete(tenant, agent_id)
    # Once more, for sessions that were created meanwhile: from now on there can be no others.
    _delete_sessions(services, tenant, agent_id)


def _delete_sessions(services: Services, tenant: str, agent_id: str) -> None:
    """Deleted sessions stay in the agent's index until they are swept: the pages go over them."""
    for start in range(0, services.sessions.count_of_agent(tenant, agent_id), _PAGE):
        for session in services.sessions.of_agent(tenant, agent_id, start=start, count=_PAGE):
            services.sessions.delete(SessionRef(tenant, session.session_id))
