"""The registrar on a real store: what providers serve is what the API reads, also where some of them are down."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import gevent
import pytest
from redis import Redis

from shared.errors import ProviderError, StoreError
from shared.log.keys import Keys
from shared.redis_client import connect
from shared.registry import Registry, RegistryStore
from worker import circuit as circuit_module
from worker import registrar as registrar_module
from worker.balancer import Balancer
from worker.providers.inference import InferenceProvider, Model
from worker.providers.scripted import ScriptedConfig, ScriptedInference
from worker.registrar import Registrar
from worker.sources import InferenceSource, Source

DEADLINE_S = 10.0


class Listed(ScriptedInference):
    """A provider that serves what the test says, or is down, or hangs."""

    def __init__(self, name: str, *models: str) -> None:
        super().__init__(provider_id=name, config=ScriptedConfig.model_validate({"models": ["any"]}))
        self.models = list(models)
        self.down = False
        self.hangs = False
        self.broken = False
        self.asked = 0

    def list_models(self) -> list[Model]:
        self.asked += 1
        while self.hangs:
            gevent.sleep(0.01)
        if self.broken:
            raise UnicodeError("label empty or too long")
        if self.down:
            raise ProviderError(f"Provider '{self.provider_id}' cannot be reached.", provider_id=self.provider_id)
        return [Model(identifier=name, resource_id=f"{name}:{self.provider_id}") for name in self.models]


class FaultyStore(RegistryStore):
    """A store that is away as long as the test says."""

    away = False
    refused = 0

    def publish(self, registry: Registry) -> None:
        self._check()
        super().publish(registry)

    def read(self) -> Registry | None:
        self._check()
        return super().read()

    def _check(self) -> None:
        if self.away:
            self.refused += 1
            raise StoreError("away")


@dataclass
class Bench:
    store: FaultyStore
    told: list[tuple[list[str], bool]] = field(default_factory=list)
    running: list[gevent.Greenlet] = field(default_factory=list)

    def _tell(self, registry: Registry, *, asked: Collection[str]) -> None:
        self.told.append(([model.identifier for model in registry.models], "inference" in asked))

    def start(self, *providers: Listed, worker: str | None = "w1") -> Registrar:
        self.balancer = balancer = Balancer(providers={provider.provider_id: provider for provider in providers})
        sources = (
            InferenceSource(provider=one, balancer=balancer, config={"url": f"http://{one.provider_id}"})
            for one in providers
        )
        registrar = self.begin(*sources, worker=worker)
        balancer.watch(registrar.look_again)
        return registrar

    def begin(self, *sources: Source, worker: str | None = "w1") -> Registrar:
        registrar = Registrar(sources=sources, store=self.store, worker=worker, on_registry=self._tell)
        self.running.append(gevent.spawn(registrar.run))
        return registrar

    def published(self) -> Registry:
        registry = self.store.read()
        assert registry is not None
        return registry

    def names(self) -> list[str]:
        registry = self.store.read()
        return [model.identifier for model in registry.models] if registry else []

    def health(self, name: str) -> str:
        return next(str(one.health["status"]) for one in self.published().providers if one.provider_id == name)

    def until_published(self, *names: str) -> None:
        until(lambda: self.names() == list(names))


def until(condition: object) -> None:
    with gevent.Timeout(DEADLINE_S):
        while not condition():  # type: ignore[operator]
            gevent.sleep(0.01)


@pytest.fixture
def bench(redis_url: str, key_prefix: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    for name in ("REFRESH_S", "RETRY_S", "ALIVE_S", "_STORE_RETRY_S"):
        monkeypatch.setattr(registrar_module, name, 0.02)
    watches: list[gevent.Greenlet] = []
    monkeypatch.setattr(registrar_module, "spawn_vital", lambda _, run: watches.append(gevent.spawn(run)))
    with connect(redis_url) as client:
        bench = Bench(store_of(client, key_prefix))
        yield bench
        gevent.killall([*bench.running, *watches])


def store_of(client: Redis, prefix: str) -> FaultyStore:
    return FaultyStore(client=client, keys=Keys(prefix), digest="config1")


def test_what_the_providers_serve_is_published_with_their_health(bench: Bench) -> None:
    bench.start(Listed("big", "m"), Listed("small", "n"))

    bench.until_published("m", "n")

    assert bench.health("big") == bench.health("small") == "OK"
    assert bench.published().providers[0].config == {"url": "http://big"}
    until(lambda: bench.store.workers() == 1)


def test_two_instances_that_serve_one_model_are_one_entry_in_the_order_of_the_config(bench: Bench) -> None:
    first, second = Listed("big", "m"), Listed("small", "m", "n")
    first.hangs = True
    bench.start(first, second)
    until(lambda: second.asked)
    first.hangs = False

    bench.until_published("m", "n")

    model = bench.published().models[0]
    assert model.provider_ids == ["big", "small"]
    assert model.resource_ids == {"big": "m:big", "small": "m:small"}


def test_a_provider_that_is_down_does_not_stop_the_others_and_is_asked_again(bench: Bench) -> None:
    down = Listed("big", "m")
    down.down = True
    bench.start(down, Listed("small", "n"))

    bench.until_published("n")
    assert bench.health("big") == "Error"
    down.down = False

    bench.until_published("m", "n")
    assert bench.health("big") == "OK"


@pytest.mark.parametrize("code", ["provider_unreachable", "provider_interrupted"])
def test_an_instance_that_is_set_aside_is_shown_so_and_asked_at_once_where_it_is_gone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    for name in ("ALIVE_S", "REFRESH_S"):
        monkeypatch.setattr(registrar_module, name, DEADLINE_S)
    big = Listed("big", "m")
    bench.start(big)
    bench.until_published("m")
    until(lambda: bench.health("big") == "OK")
    asked = big.asked

    def refused(provider: InferenceProvider, model: str, may_retry: bool) -> None:
        raise ProviderError("Provider 'big' is out of memory.", provider_id="big", code=code, retryable=True)

    # Long enough to be seen on a busy machine, before the instance is tried again.
    monkeypatch.setattr(circuit_module, "FIRST_S", 1.0)
    with pytest.raises(ProviderError):
        bench.balancer.call("m", {"big": "m"}, refused)

    until(lambda: bench.health("big") == "Error")
    assert bench.published().providers[0].health["message"] == "Provider 'big' is out of memory."
    until(lambda: bench.health("big") == "OK")
    assert big.asked - asked == (code == "provider_unreachable")


def test_a_provider_with_a_fault_of_its_own_does_not_stop_the_others(bench: Bench) -> None:
    broken = Listed("big", "m")
    broken.broken = True
    bench.start(broken, Listed("small", "n"))

    bench.until_published("n")
    assert bench.health("big") == "Error"


def test_a_listing_that_fails_keeps_the_last_one(bench: Bench) -> None:
    provider = Listed("big", "m")
    bench.start(provider)
    bench.until_published("m")

    provider.down = True

    until(lambda: bench.health("big") == "Error")
    assert bench.names() == ["m"]


def test_a_start_while_the_provider_is_down_keeps_what_was_listed_before(bench: Bench) -> None:
    bench.start(Listed("big", "m"))
    bench.until_published("m")
    gevent.killall(bench.running)
    down = Listed("big", "m")
    down.down = True

    bench.start(down)

    until(lambda: bench.health("big") == "Error")
    assert bench.names() == ["m"]
    assert bench.told[-1] == (["m"], True)


def test_a_model_that_the_provider_serves_no_more_goes(bench: Bench) -> None:
    provider = Listed("big", "m", "n")
    bench.start(provider)
    bench.until_published("m", "n")

    provider.models = ["n"]

    bench.until_published("n")


def test_a_provider_that_hangs_keeps_no_turn_of_another_waiting_and_nothing_half_is_published(bench: Bench) -> None:
    hanging = Listed("big", "m")
    hanging.hangs = True
    bench.start(hanging, Listed("small", "n"))

    until(lambda: (["n"], False) in bench.told)
    until(lambda: bench.store.workers() == 1)
    assert bench.store.read() is None, "what is not published yet is asked for again, what is missing is refused"

    hanging.hangs = False
    bench.until_published("m", "n")


def test_what_could_not_be_published_is_published_when_the_store_is_back(bench: Bench) -> None:
    provider = Listed("big", "m")
    bench.store.away = True
    bench.start(provider)
    until(lambda: bench.store.refused > 1)
    bench.store.away = False
    bench.until_published("m")

    bench.store.away = True
    provider.models = ["n"]
    until(lambda: bench.told[-1] == (["n"], True))
    provider.hangs = True
    bench.store.away = False

    bench.until_published("n")


def test_without_providers_an_empty_registry_is_published(bench: Bench) -> None:
    bench.start()

    until(lambda: bench.store.read() == Registry())
