"""The registry: what the workers' providers really serve, published for the API.

One registry per run config (by its digest), so that workers of an old config and the API of a new one do not
mix. Workers refresh it; a listing that fails keeps the last one.
"""

import time
from dataclasses import dataclass, field
from typing import Any

import orjson
from redis import Redis

from shared.errors import InvalidRequest
from shared.log.keys import Keys
from shared.redis_client import translated

Json = dict[str, Any]

WORKER_TIMEOUT_S = 15
"""A worker that has not been heard of for so long does not count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredModel:
    """A model and the provider instances that serve it, in the order of the run config."""

    identifier: str
    model_type: str
    provider_ids: list[str]
    resource_ids: dict[str, str]
    metadata: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderStatus:
    """A provider instance as the workers see it. `config` has no secrets in it."""

    api: str
    provider_id: str
    provider_type: str
    config: Json
    health: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """What is served."""

    models: list[RegisteredModel] = field(default_factory=list)
    providers: list[ProviderStatus] = field(default_factory=list)

    def model(self, name: str) -> RegisteredModel | None:
        """The model called `identifier` or `provider_id/identifier`."""
        for model in self.models:
            pinned = [f"{provider_id}/{model.identifier}" for provider_id in model.provider_ids]
            if name == model.identifier or name in pinned:
                return model
        return None

    def require_llm(self, name: str, *, param: str) -> None:
        """Raise InvalidRequest, naming what is served, unless `name` is a model that can chat."""
        model = self.model(name)
        if model is not None and model.model_type == "llm":
            return
        served = ", ".join(sorted(m.identifier for m in self.models if m.model_type == "llm")) or "none"
        raise InvalidRequest(
            f"No provider serves the model '{name}'. Served: {served}.", param=param, code="model_not_found"
        )


class RegistryStore:
    """Publishes and reads the registry. Raises StoreError where the store cannot be reached."""

    def __init__(self, *, client: Redis, keys: Keys, digest: str) -> None:
        self._client = client
        self._keys = keys
        self._digest = digest

    def publish(self, registry: Registry) -> None:
        with translated():
            self._client.set(self._keys.registry(self._digest), orjson.dumps(registry))

    def read(self) -> Registry | None:
        """The registry, or None where no worker of this config has published one yet."""
        with translated():
            raw = self._client.get(self._keys.registry(self._digest))
        if raw is None:
            return None
        body = orjson.loads(raw)
        return Registry(
            models=[RegisteredModel(**model) for model in body["models"]],
            providers=[ProviderStatus(**provider) for provider in body["providers"]],
        )

    def alive(self, worker: str) -> None:
        """A worker's sign of life."""
        with translated():
            pipe = self._client.pipeline(transaction=False)
            pipe.zadd(self._keys.workers, {worker: time.time()})
            pipe.zremrangebyscore(self._keys.workers, 0, time.time() - 10 * WORKER_TIMEOUT_S)
            pipe.execute()

    def gone(self, worker: str) -> None:
        """A worker's farewell."""
        with translated():
            self._client.zrem(self._keys.workers, worker)

    def workers(self) -> int:
        """How many workers have been heard of lately."""
        with translated():
            return self._client.zcount(self._keys.workers, time.time() - WORKER_TIMEOUT_S, "+inf")
