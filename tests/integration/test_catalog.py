"""What tenants can use in a worker: listed, of the run config, registered elsewhere; and what providers refuse."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import gevent
import pytest
from callskit import SEAT, config_of
from redis import Redis

from shared.errors import ConfigError, ProviderError
from shared.log.keys import Keys
from shared.redis_client import connect
from shared.registrations import Kind, Registration, RegistrationStore, merged
from shared.registry import ProviderStatus, RegisteredModel, Registry, RegistryStore
from shared.runconfig import RunConfig
from worker import catalog as catalog_module
from worker.fleet import Fleet, build_fleet
from worker.providers.tools import Tool, ToolGroup, ToolProvider
from worker.refresh import ToolRefresher
from worker.registrar import Registrar
from worker.toolbox import BoundTool

Json = dict[str, Any]


@dataclass
class Bench:
    client: Redis
    keys: Keys

    @property
    def registrations(self) -> RegistrationStore:
        return RegistrationStore(client=self.client, keys=self.keys)

    def fleet(self, **sections: Any) -> tuple[Fleet, Registrar]:
        """A worker's providers, none of which has been asked."""
        return self.fleet_of(config_of(**sections))

    def fleet_of(self, config: RunConfig) -> tuple[Fleet, Registrar]:
        fleet = build_fleet(config, self.registrations)
        store = RegistryStore(client=self.client, keys=self.keys, digest="d")
        return fleet, Registrar(sources=fleet.sources, store=store, worker=None, on_registry=fleet.catalog.update)

    def asked(self, **sections: Any) -> tuple[Fleet, Registry]:
        """A worker that knows what its providers serve."""
        fleet, registrar = self.fleet(**sections)
        for source in fleet.sources:
            registrar.ask(source.provider_id)
        return fleet, registrar.registry()


@pytest.fixture
def bench(redis_url: str, key_prefix: str) -> Iterator[Bench]:
    with connect(redis_url) as client:
        yield Bench(client, Keys(key_prefix))
        client.connection_pool.disconnect()


def a_group(name: str, *, provider_id: str = "web", **args: Any) -> Registration:
    tool = {"name": "book", "description": "", "input_schema": SEAT, "replay": "never", "metadata": {}}
    details = {"mcp_endpoint": None, "args": args, "tools": [tool]}
    return Registration(
        kind=Kind.TOOLGROUP, identifier="mine", provider_id=provider_id, resource_id=name, details=details
    )


def a_model(name: str, resource_id: str, provider_id: str = "one", **metadata: Any) -> Registration:
    details = {"model_type": "llm", "metadata": metadata}
    return Registration(
        kind=Kind.MODEL, identifier=name, provider_id=provider_id, resource_id=resource_id, details=details
    )


# The run config's own


def test_what_the_run_config_registers_is_served_as_what_providers_list(bench: Bench) -> None:
    _, registry = bench.asked(
        models=[{"model_id": "mine", "provider_id": "two", "provider_model_id": "n", "metadata": {"a": 1}}],
        shields=[{"shield_id": "strict", "provider_shield_id": "words"}],
        toolgroups=[{"toolgroup_id": "fixed", "args": {"seat": "1A", "api_key": "s3cr3t"}}],
    )

    mine = registry.exact_model("mine")
    assert mine == RegisteredModel(
        identifier="mine", model_type="llm", provider_ids=["two"], resource_ids={"two": "n"}, metadata={"a": 1}
    )
    assert [shield.identifier for shield in registry.shields] == ["strict", "words"]
    assert [group.identifier for group in registry.toolgroups] == ["fixed", "seats"]
    fixed = registry.toolgroup("fixed")
    assert fixed is not None
    assert fixed.args == {"seat": "1A", "api_key": "********"}
    assert fixed.tools[0].input_schema["properties"] == {}, "what is given to every call is not asked for"
    assert {one.health["status"] for one in registry.providers} == {"OK"}


@pytest.mark.parametrize(
    ("sections", "api", "words"),
    [
        ({"models": [{"model_id": "x", "provider_id": "one"}]}, "inference", "'x' of the run config is not accepted"),
        ({"shields": [{"shield_id": "x"}]}, "safety", "Its config has: words."),
        ({"toolgroups": [{"toolgroup_id": "x", "mcp_endpoint": {"uri": "http://h/"}}]}, "tool_runtime", "remote::mcp"),
    ],
)
def test_what_a_provider_does_not_accept_is_its_health_and_the_rest_is_served(
    bench: Bench, sections: Json, api: str, words: str
) -> None:
    _, registry = bench.asked(**sections)

    ill = [one for one in registry.providers if one.health["status"] != "OK"]
    assert [one.api for one in ill] == [api]
    assert words in ill[0].health["message"]
    assert registry.exact_model("m") and registry.shield("words") and registry.toolgroup("seats")
    assert not (registry.exact_model("x") or registry.shield("x") or registry.toolgroup("x"))


def test_an_entry_for_one_of_several_providers_has_to_name_it_and_for_the_only_one_need_not(bench: Bench) -> None:
    bench.fleet(shields=[{"shield_id": "strict", "provider_shield_id": "words"}])

    with pytest.raises(ConfigError, match=r"models\[0\].provider_id: name the provider instance; there are: one, two"):
        bench.fleet(models=[{"model_id": "mine"}])


def test_what_keeps_documents_of_turns_has_to_be_there(bench: Bench) -> None:
    with pytest.raises(ConfigError, match=r"documents.provider_id: name an instance of providers.memory; none is"):
        bench.fleet(documents={"provider_id": "nowhere"})


def test_a_guard_model_of_the_run_config_waits_for_the_models_and_not_for_itself(bench: Bench) -> None:
    config = config_of(shields=[{"shield_id": "guard", "provider_id": "lg", "provider_shield_id": "n"}])
    safety = [*config.providers.safety, {"provider_id": "lg", "provider_type": "inline::llama-guard"}]
    providers = {**config.providers.model_dump(), "safety": safety}
    fleet, registrar = bench.fleet_of(RunConfig.model_validate({**config.model_dump(), "providers": providers}))

    asking = gevent.spawn(registrar.ask, "lg")
    gevent.sleep(0.01)
    assert not asking.ready(), "whether the model is served is not known yet"
    for provider_id in ("one", "two"):
        registrar.ask(provider_id)

    assert asking.get(timeout=10) is True
    assert fleet.catalog.shield("default", "guard").shield.resource_id == "n"


# Found


def test_a_turn_waits_until_every_provider_of_the_api_has_been_asked_and_for_no_other(bench: Bench) -> None:
    fleet, registrar = bench.fleet()
    shield = gevent.spawn(fleet.catalog.shield, "default", "words")
    tools = gevent.spawn(fleet.catalog.tools, "default", "seats")
    gone = gevent.spawn(fleet.catalog.shield, "default", "gone")
    gevent.sleep(0.01)
    assert not (shield.ready() or tools.ready() or gone.ready())

    registrar.ask("deny")

    assert shield.get(timeout=10).provider.provider_id == "deny"
    with pytest.raises(ProviderError, match="Known: words"):
        gone.get(timeout=10)
    assert not tools.ready()
    registrar.ask("web")
    assert [bound.tool.name for bound in tools.get(timeout=10)] == ["book"]


def test_a_registration_is_found_by_the_first_who_misses_it(bench: Bench) -> None:
    fleet, _ = bench.asked()
    with pytest.raises(ProviderError):
        fleet.router.instances("mine")

    bench.registrations.put("default", a_model("mine", "m"))

    assert fleet.router.instances("mine") == {"one": "m"}
    assert fleet.router.instances("one/mine") == {"one": "m"}
    with pytest.raises(ProviderError, match=r"Served: m, n\."):
        fleet.router.instances("mine", tenant="other")


def test_a_registration_that_was_deleted_is_forgotten_soon(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog_module, "KEPT_S", 0.0)
    fleet, _ = bench.asked()
    bench.registrations.put("default", a_model("mine", "m"))
    fleet.router.instances("mine")

    bench.registrations.delete("default", [a_model("mine", "m")])

    with pytest.raises(ProviderError):
        fleet.router.instances("mine")


def test_a_tool_group_that_another_process_registered_becomes_known_to_the_instance_here(bench: Bench) -> None:
    fleet, _ = bench.asked()
    bench.registrations.put("default", a_group("mine", seat="1A"))

    (bound,) = fleet.catalog.tools("default", "mine/book")
    call(bound)

    assert bound.tool.toolgroup_id == "mine"
    assert [group.identifier for group in fleet.tools["web"].list_toolgroups()] == ["seats", "mine"]


def test_a_server_that_is_away_fails_the_call_and_not_the_turn_that_could_do_without_it(bench: Bench) -> None:
    fleet, _ = bench.asked()
    there = {"mcp_endpoint": {"uri": "http://127.0.0.1:9/mcp"}}
    group = a_group("mine")
    bench.registrations.put("default", replace(group, details={**group.details, **there}))

    (bound,) = fleet.catalog.tools("default", "mine")

    with pytest.raises(ProviderError) as fault:
        bound.provider.invoke(bound.tool, {"seat": "1A"}, idempotency_key="k")
    assert fault.value.code == "toolgroup_refused"


def call(bound: BoundTool) -> None:
    """Nobody is there to answer."""
    with pytest.raises(ProviderError, match="cannot be reached"):
        bound.provider.invoke(bound.tool, {"seat": "1A"}, idempotency_key="k")


def test_a_tool_group_that_was_registered_anew_replaces_the_one_that_was_known(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog_module, "KEPT_S", 0.0)
    fleet, _ = bench.asked()
    bench.registrations.put("default", a_group("mine", seat="1A"))
    call(*fleet.catalog.tools("default", "mine"))

    bench.registrations.put("default", a_group("mine", seat="2B"))
    call(*fleet.catalog.tools("default", "mine"))

    (known,) = [group for group in fleet.tools["web"].list_toolgroups() if group.identifier == "mine"]
    assert known == ToolGroup(identifier="mine", args={"seat": "2B"})


def test_groups_of_the_same_name_of_two_tenants_are_two(bench: Bench) -> None:
    fleet, _ = bench.asked()
    bench.registrations.put("a", a_group("a/mine", seat="1A"))
    bench.registrations.put("b", a_group("b/mine", seat="2B"))

    names = [fleet.catalog.tools(tenant, "mine")[0].tool.toolgroup_id for tenant in ("a", "b")]

    assert names == ["a/mine", "b/mine"]


def test_registered_groups_are_not_taken_for_the_providers_own(bench: Bench) -> None:
    fleet, registrar = bench.fleet()
    fleet.tools["web"].register_toolgroup(ToolGroup(identifier="mine"))

    registrar.ask("web")

    assert [group.identifier for group in registrar.registry().toolgroups] == ["seats"]


# Kept as they are


class Renewed:
    """The tools of a group as its server lists them by now."""

    def __init__(self, provider: ToolProvider) -> None:
        self._provider = provider
        self.down = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._provider, name)

    def list_tools(self, toolgroup_id: str) -> list[Tool]:
        if self.down:
            raise ProviderError("Tool provider 'web' cannot be reached.", provider_id="web")
        return [Tool(name="cancel", toolgroup_id=toolgroup_id)]


def test_the_tools_of_a_registered_group_are_asked_for_again(bench: Bench) -> None:
    fleet, _ = bench.asked()
    renewed = fleet.tools["web"] = Renewed(fleet.tools["web"])  # type: ignore[assignment]
    bench.registrations.put("a", a_group("a/mine", seat="1A"))
    bench.registrations.put("a", a_model("k", "m"))
    bench.registrations.put("a", replace(a_group("gone/mine"), identifier="gone", provider_id="gone"))
    refresher = ToolRefresher(catalog=fleet.catalog, registrations=bench.registrations, tenants=["a", "b"])

    renewed.down = True  # type: ignore[attr-defined]
    refresher.refresh()
    assert [bound.tool.name for bound in fleet.catalog.tools("a", "mine")] == ["book"]
    renewed.down = False  # type: ignore[attr-defined]
    refresher.refresh()

    fleet.catalog.current("a", "tool_runtime")
    assert [bound.tool.name for bound in fleet.catalog.tools("a", "mine")] == ["cancel"]
    assert len(bench.registrations.of("a")) == 3


def test_a_registration_that_somebody_changed_meanwhile_is_left_as_it_is(bench: Bench) -> None:
    old, new = a_group("mine", seat="1A"), a_group("mine", seat="2B")
    for there in ([], [new]):
        for one in there:
            bench.registrations.put("default", one)

        bench.registrations.renew("default", old, a_group("mine", seat="3C"))

        assert bench.registrations.of("default") == there


# Merged


def test_what_a_provider_lists_stands_above_a_registration_of_the_same_name() -> None:
    listed = RegisteredModel(identifier="m", model_type="llm", provider_ids=["one"], resource_ids={"one": "m"})
    status = ProviderStatus(api="inference", provider_id="one", provider_type="t", config={}, health={})
    registry = Registry(models=[listed], providers=[status, replace(status, provider_id="two")])

    others = [a_model("m", "n", "two"), a_model("m", "n", "gone"), a_model("k", "k")]
    known = merged(registry, [a_model("m", "other", note="x"), *others])

    assert known.exact_model("m") == replace(
        listed, provider_ids=["one", "two"], resource_ids={"one": "m", "two": "n"}, metadata={"note": "x"}
    )
    assert [model.identifier for model in known.models] == ["m", "k"]
