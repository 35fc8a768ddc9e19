"""What a worker publishes of its providers, and what it knows before they have answered."""

from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from redis import Redis

from shared.errors import ProviderError
from shared.log.keys import Keys
from shared.redis_client import connect
from shared.registry import RegisteredModel, RegistryStore
from worker.providers.inference import ChatRequest, Delta, InferenceProvider, Model
from worker.registrar import Registrar


class Listing(InferenceProvider):
    """A provider that serves `names`, or is down where they are None."""

    provider_type = "remote::test"

    def __init__(self, provider_id: str, *names: str) -> None:
        self.provider_id = provider_id
        self.names: tuple[str, ...] | None = names

    def list_models(self) -> list[Model]:
        if self.names is None:
            raise ProviderError(f"Provider '{self.provider_id}' is down.", provider_id=self.provider_id)
        return [Model(identifier=name, resource_id=f"{name}:latest") for name in self.names]

    def register_model(self, model: Model) -> Model:
        return model

    def chat(self, request: ChatRequest) -> Iterator[Delta]:
        raise NotImplementedError

    def close(self) -> None:
        pass


@pytest.fixture
def store(redis_url: str, key_prefix: str) -> Iterator[RegistryStore]:
    with connect(redis_url) as client:
        yield registry_store(client, key_prefix)


def registry_store(client: Redis, key_prefix: str) -> RegistryStore:
    return RegistryStore(client=client, keys=Keys(key_prefix), digest="one config")


def a_registrar(
    store: RegistryStore, *providers: Listing, on_models: Callable[[list[RegisteredModel]], None] = lambda _: None
) -> Registrar:
    return Registrar(
        providers={provider.provider_id: provider for provider in providers},
        configs={},
        store=store,
        worker="w",
        on_models=on_models,
    )


def published(store: RegistryStore) -> dict[str, Any]:
    """The published models with their providers."""
    registry = store.read()
    assert registry is not None
    return {model.identifier: model.resource_ids for model in registry.models}


def test_a_provider_that_is_down_at_a_restart_keeps_the_models_that_it_had(store: RegistryStore) -> None:
    big, small = Listing("big", "m"), Listing("small", "m", "n")
    a_registrar(store, big, small).refresh()
    before = published(store)
    small.names = None
    big.names = ("m", "new")

    restarted = a_registrar(store, big, small)
    restarted.recall()
    restarted.refresh()

    assert published(store) == {**before, "new": {"big": "new:latest"}}


def test_a_provider_that_is_not_in_the_config_any_more_takes_its_models_with_it(store: RegistryStore) -> None:
    a_registrar(store, Listing("big", "m"), Listing("small", "n")).refresh()

    restarted = a_registrar(store, Listing("big", "m"))
    restarted.recall()
    restarted.refresh()

    assert published(store) == {"m": {"big": "m:latest"}}


def test_a_restarted_worker_knows_at_once_what_was_served(store: RegistryStore) -> None:
    a_registrar(store, Listing("big", "m")).refresh()
    told: list[str] = []

    restarted = a_registrar(
        store, Listing("big", "m"), on_models=lambda models: told.extend(m.identifier for m in models)
    )
    restarted.recall()

    restarted.wait_until_known()
    assert told == ["m"]


def test_the_first_worker_of_a_config_knows_nothing_before_its_providers_have_answered(store: RegistryStore) -> None:
    first = a_registrar(store, Listing("big", "m"))
    first.recall()
    waiting = gevent.spawn(first.wait_until_known)
    gevent.sleep(0)
    waited_before = waiting.ready()

    first.refresh()

    waiting.join(timeout=10)
    assert (waited_before, waiting.ready()) == (False, True)


def test_instances_of_one_model_stand_in_the_order_of_the_config(store: RegistryStore) -> None:
    late, early = Listing("late", "m"), Listing("early", "m")
    late.names = None
    registrar = a_registrar(store, late, early)
    registrar.refresh()
    late.names = ("m",)
    registrar._ask_at["late"] = 0.0

    registrar.refresh()

    registry = store.read()
    assert registry is not None
    assert registry.models[0].provider_ids == ["late", "early"]
