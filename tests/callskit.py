"""What tests of calls share: a calls worker within the test's process, which answers as soon as it is asked."""

from collections.abc import Callable
from typing import Any

from apikit import Api

from shared.runconfig import ApiKey, FrontConfig, RunConfig
from worker.calls import CallServer
from worker.fleet import Fleet, build_fleet
from worker.operations import Operations
from worker.registrar import APIS, Registrar

Json = dict[str, Any]

WORDS: Json = {"shield_id": "words", "patterns": ["bad word"], "message": "Mind your language."}
SEAT: Json = {"type": "object", "properties": {"seat": {"type": "string"}}, "required": ["seat"]}


def config_of(**sections: Any) -> RunConfig:
    """Two scripted models on two instances, a denylist, and two HTTP tools that nobody answers."""
    book = {"name": "book", "description": "Books a seat.", "parameters": SEAT, "url": "http://127.0.0.1:9/book"}
    providers = {
        "inference": [
            {"provider_id": "one", "provider_type": "inline::scripted", "config": {"models": ["m", "n"]}},
            {"provider_id": "two", "provider_type": "inline::scripted", "config": {"models": ["n"]}},
        ],
        "safety": [{"provider_id": "deny", "provider_type": "inline::denylist", "config": {"shields": [WORDS]}}],
        "tool_runtime": [
            {
                "provider_id": "web",
                "provider_type": "remote::http",
                "config": {"toolgroup_id": "seats", "tools": [book]},
            }
        ],
    }
    return RunConfig.model_validate({"providers": providers, **sections})


def with_calls(api: Api, config: RunConfig | None = None) -> Fleet:
    """Serve the API's calls in this process, and publish what the providers of `config` serve."""
    services, config = api.services, config or config_of()
    fleet = build_fleet(config, services.registrations)
    registrar = Registrar(
        sources=fleet.sources, store=services.registry, worker=None, on_registry=lambda _, asked: None
    )
    for source in fleet.sources:
        assert registrar.ask(source.provider_id), registrar.registry().providers
    fleet.catalog.update(registrar.registry(), asked=APIS)
    services.registry.publish(registrar.registry())
    operations = Operations(fleet=fleet, registrations=services.registrations)
    server = CallServer(client=services.calls._client, keys=services.calls._keys, operations=operations.table())
    hint_with(api, server.run)
    return fleet


def hint_with(api: Api, hint: Callable[[str], None]) -> None:
    """Have `hint` look at each call in place of a worker."""
    api.services.calls._hint = hint  # type: ignore[method-assign]


def with_keys(**tenants: str) -> FrontConfig:
    """A front config in which each name is a key for the tenant."""
    return FrontConfig(api_keys=tuple(ApiKey.model_validate({"key": k, "tenant": t}) for k, t in tenants.items()))
