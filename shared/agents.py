"""Agents: named configurations that sessions belong to."""

import time
from dataclasses import dataclass
from typing import cast

import orjson
from redis import Redis

from shared.events import Json
from shared.log.keys import Keys
from shared.redis_client import translated


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """An agent as it was created."""

    agent_id: str
    agent_config: Json
    created_at: str


class AgentStore:
    """Keeps agents. One per process. Raises StoreError where the store cannot be reached."""

    def __init__(self, *, client: Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    def create(self, tenant: str, agent: Agent) -> None:
        """Write the agent, then the tenant's index."""
        body = {"agent_config": agent.agent_config, "created_at": agent.created_at}
        with translated():
            self._client.set(self._keys.agent(tenant, agent.agent_id), orjson.dumps(body))
            self._client.zadd(self._keys.agents(tenant), {agent.agent_id: time.time()})

    def get(self, tenant: str, agent_id: str) -> Agent | None:
        """The agent, or None."""
        return self._get_many(tenant, [agent_id])[0]

    def page(self, tenant: str, *, start: int, count: int) -> list[Agent]:
        """A tenant's agents, oldest first. `start` and `count` as in a slice."""
        with translated():
            raw = self._client.zrange(self._keys.agents(tenant), start, start + count - 1)
        found = self._get_many(tenant, [item.decode() for item in cast(list[bytes], raw)])
        return [agent for agent in found if agent is not None]

    def count(self, tenant: str) -> int:
        """How many agents a tenant has."""
        with translated():
            return self._client.zcard(self._keys.agents(tenant))

    def delete(self, tenant: str, agent_id: str) -> bool:
        """Remove the agent itself; its sessions are deleted before. False where there was none."""
        with translated():
            removed = self._client.delete(self._keys.agent(tenant, agent_id))
            self._client.zrem(self._keys.agents(tenant), agent_id)
        return bool(removed)

    def _get_many(self, tenant: str, agent_ids: list[str]) -> list[Agent | None]:
        if not agent_ids:
            return []
        with translated():
            rows = self._client.mget([self._keys.agent(tenant, agent_id) for agent_id in agent_ids])
        return [_agent(agent_id, cast(bytes | None, row)) for agent_id, row in zip(agent_ids, rows, strict=True)]


def _agent(agent_id: str, row: bytes | None) -> Agent | None:
    if row is None:
        return None
    body = orjson.loads(row)
    return Agent(agent_id=agent_id, agent_config=body["agent_config"], created_at=body["created_at"])
