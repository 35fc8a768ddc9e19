"""The registry: what the workers' providers really serve, published for the API.

One registry per run config (by its digest), so that workers of an old config and the API of a new one do not
mix. Workers refresh it; a listing that fails keeps the last one.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import orjson
from redis import Redis

from shared.errors import InvalidRequest
from shared.log.keys import Keys
from shared.queues import TURNS_QUEUE
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
class RegisteredShield:
    """A shield and the provider instance that runs it. `resource_id` is the provider's own name for it."""

    identifier: str
    provider_id: str
    resource_id: str
    params: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredTool:
    """A tool. `input_schema` is the JSON Schema of its arguments; `replay` is safe or never."""

    name: str
    description: str
    input_schema: Json
    replay: str
    metadata: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredToolGroup:
    """A tool group, the provider instance that runs its tools, and the tools. It holds no secret.

    `resource_id` is the group's name within the provider.
    """

    identifier: str
    provider_id: str
    resource_id: str
    mcp_endpoint: Json | None = None
    args: Json = field(default_factory=dict)
    tools: list[RegisteredTool] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredMemoryBank:
    """A memory bank, and the provider instance that keeps it. `resource_id` is the provider's own name for it.

    `kind` is vector, keyword, keyvalue or graph; the model and its dimension are None but for vector banks.
    """

    identifier: str
    provider_id: str
    resource_id: str
    kind: str
    embedding_model: str | None = None
    embedding_dimension: int | None = None
    chunk_size_in_tokens: int
    overlap_size_in_tokens: int


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
    shields: list[RegisteredShield] = field(default_factory=list)
    toolgroups: list[RegisteredToolGroup] = field(default_factory=list)
    memory_banks: list[RegisteredMemoryBank] = field(default_factory=list)
    providers: list[ProviderStatus] = field(default_factory=list)

    def model(self, name: str) -> RegisteredModel | None:
        """The model called `identifier` or `provider_id/identifier`."""
        for model in self.models:
            pinned = [f"{provider_id}/{model.identifier}" for provider_id in model.provider_ids]
            if name == model.identifier or name in pinned:
                return model
        return None

    def exact_model(self, identifier: str) -> RegisteredModel | None:
        """The model of this identifier, not pinned."""
        return next((model for model in self.models if model.identifier == identifier), None)

    def shield(self, identifier: str) -> RegisteredShield | None:
        return next((shield for shield in self.shields if shield.identifier == identifier), None)

    def toolgroup(self, identifier: str) -> RegisteredToolGroup | None:
        return next((group for group in self.toolgroups if group.identifier == identifier), None)

    def memory_bank(self, identifier: str) -> RegisteredMemoryBank | None:
        return next((bank for bank in self.memory_banks if bank.identifier == identifier), None)

    def tools_of(self, name: str) -> list[tuple[RegisteredToolGroup, RegisteredTool]]:
        """The tools that an agent's `group` or `group/tool` stands for; none where it stands for nothing."""
        whole = self.toolgroup(name)
        if whole is not None:
            return [(whole, tool) for tool in whole.tools]
        group_id, _, tool_name = name.rpartition("/")
        group = self.toolgroup(group_id)
        return [(group, tool) for tool in group.tools if tool.name == tool_name] if group is not None else []

    def require_llm(self, name: str, *, param: str) -> None:
        """Raise InvalidRequest, naming what is served, unless `name` is a model that can chat."""
        self.require_model(name, "llm", param=param)

    def require_model(self, name: str, model_type: str, *, param: str) -> None:
        """Raise InvalidRequest, naming what is served, unless `name` is a model of this type."""
        model = self.model(name)
        if model is not None and model.model_type == model_type:
            return
        served = ", ".join(sorted(m.identifier for m in self.models if m.model_type == model_type)) or "none"
        what = "the model" if model_type == "llm" else f"the {model_type} model"
        raise InvalidRequest(
            f"No provider serves {what} '{name}'. Served: {served}.", param=param, code="model_not_found"
        )

    def require_shields(self, identifiers: Iterable[str], *, param: str) -> None:
        """Raise InvalidRequest, naming what there is, unless all are shields."""
        for identifier in identifiers:
            if self.shield(identifier) is None:
                known = ", ".join(sorted(shield.identifier for shield in self.shields)) or "none"
                raise InvalidRequest(
                    f"There is no shield '{identifier}'. Known: {known}.", param=param, code="shield_not_found"
                )

    def require_memory_banks(self, identifiers: Iterable[str], *, param: str) -> None:
        """Raise InvalidRequest, naming what there is, unless all are memory banks."""
        for identifier in identifiers:
            if self.memory_bank(identifier) is None:
                known = ", ".join(sorted(bank.identifier for bank in self.memory_banks)) or "none"
                raise InvalidRequest(
                    f"There is no memory bank '{identifier}'. Known: {known}. POST /v1/memory-banks registers one.",
                    param=param,
                    code="memory_bank_not_found",
                )

    def require_toolgroups(self, toolgroups: Iterable[str | Json], *, param: str) -> None:
        """Raise InvalidRequest, naming what there is, unless all are `group`, `group/tool` or `{name, args}`."""
        for entry in toolgroups:
            name = entry if isinstance(entry, str) else entry["name"]
            if self.toolgroup(name) is None and not self.tools_of(name):
                raise InvalidRequest(self._no_toolgroup(name), param=param, code="toolgroup_not_found")

    def _no_toolgroup(self, name: str) -> str:
        group = self.toolgroup(name.rpartition("/")[0])
        if group is not None:
            tools = ", ".join(sorted(tool.name for tool in group.tools)) or "none"
            return f"The tool group '{group.identifier}' has no such tool as '{name}' names. Its tools: {tools}."
        known = ", ".join(sorted(group.identifier for group in self.toolgroups)) or "none"
        return f"There is no tool group '{name}'. Known: {known}."


def shown_endpoint(endpoint: Json | None) -> Json | None:
    """An MCP endpoint without what may be a credential: headers, user and query."""
    if endpoint is None:
        return None
    parts = urlsplit(str(endpoint["uri"]))
    return {"uri": urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))}


def tool_from_json(body: Json) -> RegisteredTool:
    return RegisteredTool(**body)


def toolgroup_from_json(body: Json) -> RegisteredToolGroup:
    return RegisteredToolGroup(**{**body, "tools": [tool_from_json(tool) for tool in body["tools"]]})


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
            shields=[RegisteredShield(**shield) for shield in body.get("shields", [])],
            toolgroups=[toolgroup_from_json(group) for group in body.get("toolgroups", [])],
            memory_banks=[RegisteredMemoryBank(**bank) for bank in body.get("memory_banks", [])],
            providers=[ProviderStatus(**provider) for provider in body["providers"]],
        )

    def alive(self, worker: str, *, queue: str = TURNS_QUEUE) -> None:
        """A sign of life of a worker that serves `queue`."""
        key = self._keys.workers(queue)
        with translated():
            pipe = self._client.pipeline(transaction=False)
            pipe.zadd(key, {worker: time.time()})
            pipe.zremrangebyscore(key, 0, time.time() - 10 * WORKER_TIMEOUT_S)
            pipe.execute()

    def gone(self, worker: str, *, queue: str = TURNS_QUEUE) -> None:
        """A worker's farewell."""
        with translated():
            self._client.zrem(self._keys.workers(queue), worker)

    def workers(self, queue: str = TURNS_QUEUE) -> int:
        """How many workers of a queue have been heard of lately."""
        with translated():
            return self._client.zcount(self._keys.workers(queue), time.time() - WORKER_TIMEOUT_S, "+inf")
