"""What tenants have registered with providers: kept in the store until it is deleted, over restarts and new configs."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, cast

import orjson
from redis import Redis
from redis.client import Pipeline

from shared.log.keys import Keys
from shared.redis_client import translated
from shared.registry import (
    RegisteredMemoryBank,
    RegisteredModel,
    RegisteredShield,
    RegisteredToolGroup,
    Registry,
    shown_endpoint,
    tool_from_json,
)
from shared.runconfig.secrets import mask, protect

Json = dict[str, Any]


class Kind(StrEnum):
    """What can be registered."""

    MODEL = "model"
    SHIELD = "shield"
    TOOLGROUP = "toolgroup"
    MEMORY_BANK = "memory_bank"

    @property
    def words(self) -> str:
        """What people call it."""
        return self.replace("_", " ")

    @property
    def listing(self) -> str:
        """The call that lists all of them."""
        return f"GET /v1/{self.replace('_', '-')}s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """Something that a provider has accepted under a name. `resource_id` is the provider's own name for it.

    `details` by kind: `{model_type, metadata}`; `{params}`; `{mcp_endpoint, args, tools}`, in which credentials stand
    as they were given; `{kind, embedding_model, embedding_dimension, chunk_size_in_tokens, overlap_size_in_tokens}`.
    """

    kind: Kind
    identifier: str
    provider_id: str
    resource_id: str
    details: Json = field(default_factory=dict)


class RegistrationStore:
    """Keeps registrations. Raises StoreError where the store cannot be reached."""

    def __init__(self, *, client: Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    def put(self, tenant: str, registration: Registration) -> None:
        """Keep it; one of the same kind, name and provider is replaced."""
        with translated():
            key, name = self._keys.registrations(tenant), _field(registration)
            self._client.hset(key, name, orjson.dumps(registration))

    def renew(self, tenant: str, before: Registration, after: Registration) -> None:
        """Put `after` in the place of `before`, unless somebody has replaced or deleted that meanwhile."""
        key, name = self._keys.registrations(tenant), _field(before)

        def swap(pipe: Pipeline) -> None:
            there = cast(bytes | None, pipe.hget(key, name))
            pipe.multi()
            if there == orjson.dumps(before):
                pipe.hset(key, name, orjson.dumps(after))

        with translated():
            self._client.transaction(swap, key)

    def delete(self, tenant: str, registrations: Iterable[Registration]) -> None:
        names = [_field(registration) for registration in registrations]
        if names:
            with translated():
                self._client.hdel(self._keys.registrations(tenant), *names)

    def of(self, tenant: str) -> list[Registration]:
        """All of a tenant's, in a stable order."""
        with translated():
            rows = cast(dict[bytes, bytes], self._client.hgetall(self._keys.registrations(tenant)))
        bodies = [orjson.loads(raw) for _, raw in sorted(rows.items())]
        return [Registration(**{**body, "kind": Kind(body["kind"])}) for body in bodies]


def _field(registration: Registration) -> str:
    """Provider ids hold no spaces, so no two registrations share a field."""
    return f"{registration.kind} {registration.provider_id} {registration.identifier}"


def merged(registry: Registry, registrations: Iterable[Registration]) -> Registry:
    """What a tenant can use: what providers list, and what it has registered with those that are there.

    What a provider lists itself stands above a registration of the same name.
    """
    models = {model.identifier: model for model in registry.models}
    shields = {shield.identifier: shield for shield in registry.shields}
    groups = {group.identifier: group for group in registry.toolgroups}
    banks = {bank.identifier: bank for bank in registry.memory_banks}
    there = {provider.provider_id for provider in registry.providers}
    for one in registrations:
        if one.provider_id not in there:
            continue
        if one.kind is Kind.MODEL:
            models[one.identifier] = _with_provider(models.get(one.identifier), one)
        elif one.kind is Kind.SHIELD:
            shields.setdefault(one.identifier, registered_shield(one))
        elif one.kind is Kind.MEMORY_BANK:
            banks.setdefault(one.identifier, registered_memory_bank(one))
        else:
            groups.setdefault(one.identifier, registered_toolgroup(one))
    return replace(
        registry,
        models=list(models.values()),
        shields=list(shields.values()),
        toolgroups=list(groups.values()),
        memory_banks=list(banks.values()),
    )


def _with_provider(model: RegisteredModel | None, one: Registration) -> RegisteredModel:
    if model is None:
        return RegisteredModel(
            identifier=one.identifier,
            model_type=one.details["model_type"],
            provider_ids=[one.provider_id],
            resource_ids={one.provider_id: one.resource_id},
            metadata=one.details["metadata"],
        )
    metadata = {**model.metadata, **one.details["metadata"]}
    if one.provider_id in model.provider_ids:
        return replace(model, metadata=metadata)
    return replace(
        model,
        provider_ids=[*model.provider_ids, one.provider_id],
        resource_ids={**model.resource_ids, one.provider_id: one.resource_id},
        metadata=metadata,
    )


def registered_shield(one: Registration) -> RegisteredShield:
    return RegisteredShield(
        identifier=one.identifier,
        provider_id=one.provider_id,
        resource_id=one.resource_id,
        params=one.details["params"],
    )


def registered_memory_bank(one: Registration) -> RegisteredMemoryBank:
    return RegisteredMemoryBank(
        identifier=one.identifier, provider_id=one.provider_id, resource_id=one.resource_id, **one.details
    )


def registered_toolgroup(one: Registration) -> RegisteredToolGroup:
    """With credentials as asterisks."""
    return RegisteredToolGroup(
        identifier=one.identifier,
        provider_id=one.provider_id,
        resource_id=one.resource_id,
        mcp_endpoint=shown_endpoint(one.details["mcp_endpoint"]),
        args=mask(protect(one.details["args"])),
        tools=[tool_from_json(tool) for tool in one.details["tools"]],
    )
