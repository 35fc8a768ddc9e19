"""What each tenant can use in this worker: what the providers list, and what the tenant has registered."""

import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast

import gevent
from gevent.event import Event as Signal

from shared.errors import ProviderError, StoreError
from shared.events import Json
from shared.registrations import Kind, Registration, RegistrationStore, merged
from shared.registry import RegisteredMemoryBank, RegisteredTool, RegisteredToolGroup, Registry
from shared.runconfig.secrets import protect
from worker.attachments import Attachments
from worker.providers.memory import Bank, BankKind, MemoryProvider
from worker.providers.safety import SafetyProvider, Shield
from worker.providers.tools import Replay, TenantTools, Tool, ToolGroup, ToolProvider, ToolResult
from worker.shields import ServedShield
from worker.toolbox import BoundTool

KEPT_S = 5.0
"""For so long a deleted registration may go on being used; one that is new is read as soon as it is missed."""
_STORE_RETRY_S = 0.5

T = TypeVar("T")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Known:
    """A tenant's registrations as they were read last."""

    read_at: float
    registrations: list[Registration]


class Catalog:
    """Finds what a tenant names, and binds it to the instance that serves it.

    Without `registrations` there are none; without `attachments` nothing is kept of the files that tools return.
    """

    def __init__(
        self,
        *,
        safety: Mapping[str, SafetyProvider] | None = None,
        tools: Mapping[str, ToolProvider] | None = None,
        memory: Mapping[str, MemoryProvider] | None = None,
        registrations: RegistrationStore | None = None,
        attachments: Attachments | None = None,
    ) -> None:
        # Not `or`: the fleet fills these later.
        self._safety = {} if safety is None else safety
        self._tools = {} if tools is None else tools
        self._memory = {} if memory is None else memory
        self._registrations = registrations
        self._attachments = attachments
        self._listed = Registry()
        self._asked: Collection[str] = ()
        self._updated = Signal()
        self._known: dict[str, _Known] = {}
        self._merged: dict[str, tuple[Registry, _Known, Registry]] = {}
        self._adopted: dict[str, Registration] = {}

    def update(self, registry: Registry, *, asked: Collection[str]) -> None:
        """What the providers list from now on. `asked` are the APIs all of whose providers have been asked."""
        self._listed, self._asked = registry, asked
        updated, self._updated = self._updated, Signal()
        updated.set()

    def registry(self, tenant: str, *, fresh: bool = False) -> Registry:
        """What the tenant can use. `fresh`: as it is registered now."""
        known = self._read(tenant, fresh=fresh)
        cached = self._merged.get(tenant)
        if cached is not None and cached[0] is self._listed and cached[1] is known:
            return cached[2]
        registry = merged(self._listed, known.registrations)
        self._merged[tenant] = (self._listed, known, registry)
        return registry

    def find(self, tenant: str, api: str, look: Callable[[Registry], T | None]) -> T | None:
        """What `look` finds in what the tenant can use.

        A worker that has just started may not know yet: waits until every provider of the API has been asked.
        """
        while True:
            updated, complete = self._updated, api in self._asked
            found = look(self.registry(tenant))
            if found is None and complete:
                return look(self.registry(tenant, fresh=True))
            if found is not None:
                return found
            updated.wait()

    def current(self, tenant: str, api: str) -> Registry:
        """What the tenant can use of an API as it is now, once every provider of it has been asked."""
        while api not in self._asked:
            self._updated.wait()
        return self.registry(tenant, fresh=True)

    def shield(self, tenant: str, identifier: str) -> ServedShield:
        """Raises ProviderError `shield_not_found`, naming what there is."""
        found = self.find(tenant, "safety", lambda registry: registry.shield(identifier))
        if found is None:
            known = ", ".join(sorted(shield.identifier for shield in self.registry(tenant).shields)) or "none"
            problem = f"No provider runs the shield '{identifier}' now. Known: {known}."
            raise ProviderError(problem, provider_id="", code="shield_not_found")
        shield = Shield(identifier=found.identifier, resource_id=found.resource_id, params=found.params)
        return ServedShield(self._safety[found.provider_id], shield)

    def memory_bank(self, tenant: str, identifier: str) -> tuple[MemoryProvider, Bank]:
        """The bank and the instance that keeps it. Raises ProviderError `memory_bank_not_found`."""
        found = self.find(tenant, "memory", lambda registry: registry.memory_bank(identifier))
        if found is None:
            known = ", ".join(sorted(bank.identifier for bank in self.registry(tenant).memory_banks)) or "none"
            problem = f"No provider keeps the memory bank '{identifier}' now. Known: {known}."
            raise ProviderError(problem, provider_id="", code="memory_bank_not_found")
        return self._memory[found.provider_id], kept_bank(found)

    def tools(self, tenant: str, name: str) -> list[BoundTool]:
        """The tools of `group` or `group/tool`. Raises ProviderError `toolgroup_not_found`, naming what there is."""

        def look(registry: Registry) -> list[tuple[RegisteredToolGroup, RegisteredTool]] | None:
            tools = registry.tools_of(name)
            return tools if tools or registry.toolgroup(name) is not None else None

        found = self.find(tenant, "tool_runtime", look)
        if found is None:
            known = ", ".join(sorted(group.identifier for group in self.registry(tenant).toolgroups)) or "none"
            problem = f"No provider serves the tool group '{name}' now. Known: {known}."
            raise ProviderError(problem, provider_id="", code="toolgroup_not_found")
        return [self.bind(tenant, group, tool) for group, tool in found]

    def bind(self, tenant: str, group: RegisteredToolGroup, tool: RegisteredTool) -> BoundTool:
        """The tool with the instance that runs it. A server that is away is met by the first call and not here."""
        provider = self._tools[group.provider_id]
        if isinstance(provider, TenantTools):
            provider = provider.of(tenant)
        elif self._is_registered(group):
            provider = cast(ToolProvider, _Adopting(provider, lambda: self._adopt(tenant, group, provider)))
        return BoundTool(
            provider,
            Tool(
                name=tool.name,
                toolgroup_id=group.resource_id,
                description=tool.description,
                input_schema=tool.input_schema,
                replay=Replay(tool.replay),
                metadata=tool.metadata,
            ),
            keep=None if self._attachments is None else partial(self._attachments.keep, tenant),
        )

    def provider_of(self, tenant: str, group: RegisteredToolGroup) -> ToolProvider:
        """The instance that serves the group, which knows it by now. Raises ProviderError."""
        provider = self._tools[group.provider_id]
        if self._is_registered(group):
            self._adopt(tenant, group, provider)
        return provider

    def _is_registered(self, group: RegisteredToolGroup) -> bool:
        return group.resource_id not in {listed.resource_id for listed in self._listed.toolgroups}

    def _adopt(self, tenant: str, group: RegisteredToolGroup, provider: ToolProvider) -> None:
        """Another worker process registered the group: have this one's instance know it too."""
        for one in self._read(tenant).registrations:
            if one.kind is Kind.TOOLGROUP and one.resource_id == group.resource_id:
                if self._adopted.get(one.resource_id) != one:
                    provider.register_toolgroup(tool_group(one.resource_id, one.details))
                    self._adopted[one.resource_id] = one

    def _read(self, tenant: str, *, fresh: bool = False) -> _Known:
        known = self._known.get(tenant)
        if self._registrations is None:
            return self._known.setdefault(tenant, _Known(0.0, []))
        while known is None or fresh or time.monotonic() - known.read_at > KEPT_S:
            try:
                registrations = self._registrations.of(tenant)
            except StoreError as error:
                # What was read before still holds; only what is missed has to wait for the store.
                if known is not None and not fresh:
                    return known
                logger.warning("registrations wait for the store: %s", error)
                gevent.sleep(_STORE_RETRY_S)
            else:
                same = known is not None and known.registrations == registrations
                kept = known.registrations if known is not None and same else registrations
                self._known[tenant] = _Known(time.monotonic(), kept)
                return self._known[tenant]
        return known


def kept_bank(bank: RegisteredMemoryBank) -> Bank:
    """A bank of the registry as its provider takes it."""
    return Bank(
        identifier=bank.identifier,
        resource_id=bank.resource_id,
        kind=BankKind(bank.kind),
        embedding_model=bank.embedding_model,
        embedding_dimension=bank.embedding_dimension,
        chunk_size_in_tokens=bank.chunk_size_in_tokens,
        overlap_size_in_tokens=bank.overlap_size_in_tokens,
    )


class _Adopting:
    """A provider instance that is made to know a registered group before it makes a call."""

    def __init__(self, provider: ToolProvider, adopt: Callable[[], None]) -> None:
        self._provider = provider
        self._adopt = adopt

    def __getattr__(self, name: str) -> Any:
        return getattr(self._provider, name)

    def invoke(self, tool: Tool, arguments: Json, *, idempotency_key: str) -> ToolResult:
        self._adopt()
        return self._provider.invoke(tool, arguments, idempotency_key=idempotency_key)


def tool_group(name: str, details: Json) -> ToolGroup:
    """A group as its provider takes it, credentials hidden."""
    return ToolGroup(
        identifier=name, mcp_endpoint=protect(details["mcp_endpoint"]), args=protect(details["args"] or {})
    )
