"""Agents: create, list, get, delete."""

from flask import Response

from api.answers import answer, nothing
from api.configs import agent_config, check_config
from api.deletion import delete_agent as delete_with_sessions
from api.idempotency import digest_of
from api.routes.parts import AgentPath, CreationHeaders, Page
from api.routing import Routes, body_as_sent, services, tenant
from shared.agents import Agent
from shared.clock import now_iso
from shared.events import Json
from shared.ids import new_agent_id
from shared.types import agents as types

routes = Routes("agents", about="How a model is to act: model, instructions, tools.")


@routes.on("POST", "/v1/agents", answers={200: types.AgentCreated}, problems=(409, 413, 415, 422, 503))
def create_agent(body: types.CreateAgent, header: CreationHeaders) -> Response:
    """Create an agent."""
    config = agent_config(body.agent_config)

    def create() -> Json:
        services().served.look(tenant(), lambda registry: check_config(config, registry, where="agent_config."))
        agent = Agent(agent_id=new_agent_id(), agent_config=config, created_at=now_iso())
        services().agents.create(tenant(), agent)
        return {"agent_id": agent.agent_id}

    created, replayed = services().idempotency.once(
        create, tenant=tenant(), route="agents", key=header.idempotency_key, digest=digest_of(body_as_sent())
    )
    return answer(created, headers={"Idempotent-Replayed": "true"} if replayed else None)


@routes.on("GET", "/v1/agents", answers={200: types.AgentList}, problems=(422, 503))
def list_agents(query: Page) -> Response:
    """List agents, oldest first."""
    start, limit = query.start_index, query.limit
    agents = services().agents.page(tenant(), start=start, count=limit)
    more = start + limit < services().agents.count(tenant())
    return answer({"data": agents, "has_more": more, "url": "/v1/agents"})


@routes.on("GET", "/v1/agents/<agent_id>", answers={200: types.Agent}, problems=(404, 503))
def get_agent(path: AgentPath) -> Response:
    """Get an agent."""
    return answer(services().lookup.agent(tenant(), path.agent_id))


@routes.on("DELETE", "/v1/agents/<agent_id>", answers={204: None}, problems=(404, 503))
def delete_agent(path: AgentPath) -> Response:
    """Delete an agent with its sessions. Turns that have not ended are canceled."""
    delete_with_sessions(services(), tenant(), path.agent_id)
    return nothing()
