"""The registry: what workers publish is what the API reads."""

import time
from collections.abc import Iterator

import pytest
from logkit import free_port
from redis import Redis

from shared.errors import InvalidRequest, StoreError
from shared.log.keys import Keys
from shared.queues import MEMORY_QUEUE, TURNS_QUEUE
from shared.redis_client import connect
from shared.registry import WORKER_TIMEOUT_S, ProviderStatus, RegisteredModel, Registry, RegistryStore


@pytest.fixture
def client(redis_url: str) -> Iterator[Redis]:
    with connect(redis_url) as client:
        yield client


@pytest.fixture
def store(client: Redis, key_prefix: str) -> RegistryStore:
    return RegistryStore(client=client, keys=Keys(key_prefix), digest="config1")


def a_registry() -> Registry:
    return Registry(
        models=[
            RegisteredModel(
                identifier="meta/m",
                model_type="llm",
                provider_ids=["big", "small"],
                resource_ids={"big": "m", "small": "m:latest"},
                metadata={"context": 8192},
            ),
            RegisteredModel(identifier="e", model_type="embedding", provider_ids=["big"], resource_ids={"big": "e"}),
        ],
        providers=[
            ProviderStatus(
                api="inference",
                provider_id="big",
                provider_type="remote::openai",
                config={"url": "http://gpu-1/v1"},
                health={"status": "OK"},
            )
        ],
    )


def test_what_was_published_is_read_back(store: RegistryStore) -> None:
    store.publish(a_registry())

    assert store.read() == a_registry()


def test_before_the_first_worker_there_is_no_registry(store: RegistryStore) -> None:
    assert store.read() is None


def test_an_empty_registry_is_not_the_same_as_none(store: RegistryStore) -> None:
    store.publish(Registry())

    assert store.read() == Registry()


def test_registries_of_two_run_configs_do_not_mix(store: RegistryStore, client: Redis, key_prefix: str) -> None:
    store.publish(a_registry())

    other = RegistryStore(client=client, keys=Keys(key_prefix), digest="config2")

    assert other.read() is None


def test_a_newer_registry_replaces_the_older(store: RegistryStore) -> None:
    store.publish(a_registry())
    store.publish(Registry())

    assert store.read() == Registry()


@pytest.mark.parametrize("name", ["meta/m", "big/meta/m", "small/meta/m"])
def test_a_model_is_found_by_its_name_and_pinned_to_an_instance(name: str) -> None:
    model = a_registry().model(name)

    assert model is not None
    assert model.identifier == "meta/m"
    a_registry().require_llm(name, param="model")


@pytest.mark.parametrize("name", ["m", "other/meta/m", "e", "", "big/"])
def test_a_model_that_cannot_chat_or_is_not_served_is_refused_with_what_is_served(name: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        a_registry().require_llm(name, param="agent_config.model")

    assert "Served: meta/m." in refusal.value.message
    assert (refusal.value.param, refusal.value.code) == ("agent_config.model", "model_not_found")


def test_workers_count_while_they_are_heard_of(store: RegistryStore, client: Redis, key_prefix: str) -> None:
    store.alive("w1")
    store.alive("w2")
    store.alive("w2")
    client.zadd(Keys(key_prefix).workers(TURNS_QUEUE), {"silent": time.time() - WORKER_TIMEOUT_S - 1})

    assert store.workers() == 2
    store.gone("w1")
    store.gone("w1")
    assert store.workers() == 1


def test_workers_of_each_queue_are_counted_by_themselves(store: RegistryStore) -> None:
    store.alive("w1")
    store.alive("m1", queue=MEMORY_QUEUE)
    store.alive("m2", queue=MEMORY_QUEUE)

    store.gone("m1", queue=MEMORY_QUEUE)
    store.gone("w1", queue=MEMORY_QUEUE)

    assert (store.workers(), store.workers(MEMORY_QUEUE)) == (1, 1)


def test_workers_that_are_long_gone_are_forgotten(store: RegistryStore, client: Redis, key_prefix: str) -> None:
    client.zadd(Keys(key_prefix).workers(TURNS_QUEUE), {"old": time.time() - 100 * WORKER_TIMEOUT_S})

    store.alive("w1")

    assert client.zrange(Keys(key_prefix).workers(TURNS_QUEUE), 0, -1) == [b"w1"]


def test_a_store_that_is_away_is_a_store_error(key_prefix: str) -> None:
    with connect(f"redis://127.0.0.1:{free_port()}") as nobody:
        store = RegistryStore(client=nobody, keys=Keys(key_prefix), digest="config1")

        for call in (
            lambda: store.publish(Registry()),
            store.read,
            lambda: store.alive("w1"),
            lambda: store.gone("w1"),
            store.workers,
        ):
            with pytest.raises(StoreError):
                call()
