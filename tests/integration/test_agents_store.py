"""Agents, kept and listed."""

from collections.abc import Iterator

import pytest
from logkit import free_port
from redis import Redis

from shared.agents import Agent, AgentStore
from shared.errors import StoreError
from shared.ids import DEFAULT_TENANT, new_agent_id
from shared.log.keys import Keys
from shared.redis_client import connect


@pytest.fixture
def client(redis_url: str) -> Iterator[Redis]:
    with connect(redis_url) as client:
        yield client


@pytest.fixture
def agents(client: Redis, key_prefix: str) -> AgentStore:
    return AgentStore(client=client, keys=Keys(key_prefix))


def new_agent(**config: object) -> Agent:
    return Agent(agent_id=new_agent_id(), agent_config={"model": "m", **config}, created_at="2026-01-01T00:00:00Z")


def test_an_agent_is_read_back_as_it_was_created(agents: AgentStore) -> None:
    agent = new_agent(instructions="é 😀", sampling_params={"strategy": {"type": "greedy"}, "max_tokens": 2**60})

    agents.create(DEFAULT_TENANT, agent)

    assert agents.get(DEFAULT_TENANT, agent.agent_id) == agent


def test_an_agent_that_is_not_there_is_none(agents: AgentStore) -> None:
    assert agents.get(DEFAULT_TENANT, new_agent_id()) is None


def test_an_agent_of_another_tenant_is_not_seen(agents: AgentStore) -> None:
    agent = new_agent()
    agents.create(DEFAULT_TENANT, agent)

    assert agents.get("other", agent.agent_id) is None
    assert agents.page("other", start=0, count=10) == []
    assert not agents.delete("other", agent.agent_id)


def test_agents_are_listed_in_pages_oldest_first(agents: AgentStore) -> None:
    created = [new_agent(number=number) for number in range(5)]
    for agent in created:
        agents.create(DEFAULT_TENANT, agent)

    pages = [agents.page(DEFAULT_TENANT, start=start, count=2) for start in (0, 2, 4, 6)]

    assert pages == [created[:2], created[2:4], created[4:], []]


def test_a_deleted_agent_is_gone_from_the_list_and_deleted_once(agents: AgentStore, client: Redis) -> None:
    first, second = new_agent(), new_agent()
    agents.create(DEFAULT_TENANT, first)
    agents.create(DEFAULT_TENANT, second)

    assert agents.delete(DEFAULT_TENANT, first.agent_id)
    assert not agents.delete(DEFAULT_TENANT, first.agent_id)

    assert agents.get(DEFAULT_TENANT, first.agent_id) is None
    assert agents.page(DEFAULT_TENANT, start=0, count=10) == [second]


def test_an_agent_that_an_interrupted_deletion_left_in_the_index_is_not_listed(
    agents: AgentStore, client: Redis, key_prefix: str
) -> None:
    first, second = new_agent(), new_agent()
    agents.create(DEFAULT_TENANT, first)
    agents.create(DEFAULT_TENANT, second)
    client.delete(Keys(key_prefix).agent(DEFAULT_TENANT, first.agent_id))

    assert agents.page(DEFAULT_TENANT, start=0, count=10) == [second]


def test_a_store_that_is_away_is_a_store_error(key_prefix: str) -> None:
    with connect(f"redis://127.0.0.1:{free_port()}") as nobody:
        agents = AgentStore(client=nobody, keys=Keys(key_prefix))

        for call in (
            lambda: agents.create(DEFAULT_TENANT, new_agent()),
            lambda: agents.get(DEFAULT_TENANT, "agent_a"),
            lambda: agents.page(DEFAULT_TENANT, start=0, count=1),
            lambda: agents.delete(DEFAULT_TENANT, "agent_a"),
        ):
            with pytest.raises(StoreError):
                call()
