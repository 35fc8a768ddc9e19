"""What a process remembers of the registry, and for how long."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from api.served import Served
from shared.errors import Unavailable
from shared.ids import DEFAULT_TENANT
from shared.log.keys import Keys
from shared.redis_client import Store, connect
from shared.registrations import RegistrationStore
from shared.registry import RegisteredModel, Registry, RegistryStore

MODEL = RegisteredModel(identifier="m", model_type="llm", provider_ids=["p"], resource_ids={"p": "m"})


@pytest.fixture
def store(redis_url: str) -> Iterator[Store]:
    with connect(redis_url) as store:
        yield store


@pytest.fixture
def registry(store: Store, key_prefix: str) -> RegistryStore:
    registry = RegistryStore(client=store, keys=Keys(key_prefix), digest="d")
    registry.publish(Registry(models=[MODEL]))
    return registry


@pytest.fixture
def served(store: Store, key_prefix: str, registry: RegistryStore) -> Served:
    """One that remembers nothing for long."""
    return Served(store=registry, registrations=RegistrationStore(client=store, keys=Keys(key_prefix)), kept_s=0.1)


def test_while_one_request_reads_the_registry_others_make_do_with_the_last_one(
    served: Served, registry: RegistryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = served.registry(DEFAULT_TENANT)
    plain, begun, go_on, reads = registry.read, Event(), Event(), []

    def read() -> Registry | None:
        reads.append(1)
        begun.set()
        go_on.wait(5)
        return plain()

    monkeypatch.setattr(registry, "read", read)
    monkeypatch.setattr(served, "_kept_s", 0.0)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(served.registry, DEFAULT_TENANT)
        assert begun.wait(5)
        monkeypatch.setattr(served, "_kept_s", 60.0)

        assert served.registry(DEFAULT_TENANT) is before
        go_on.set()
        assert reading.result() is not before

    assert reads == [1]


def test_a_registry_that_is_gone_is_not_remembered(
    served: Served, registry: RegistryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.registry(DEFAULT_TENANT)
    monkeypatch.setattr(registry, "read", lambda: None)
    monkeypatch.setattr(served, "_kept_s", 0.0)
    with pytest.raises(Unavailable):
        served.registry(DEFAULT_TENANT)
    monkeypatch.setattr(served, "_kept_s", 60.0)

    with pytest.raises(Unavailable):
        served.registry(DEFAULT_TENANT)
