"""What calls can ask for: registering with providers, and direct use of what they serve.

Every operation takes a payload of JSON in which `tenant` says for whom, and raises InvalidRequest, NotFound, Conflict
or ProviderError.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TypeVar

from shared.errors import Conflict, InvalidRequest
from shared.events import Json
from shared.ids import DEFAULT_TENANT
from shared.registrations import Kind, Registration, RegistrationStore
from shared.registry import RegisteredTool, RegisteredToolGroup, Registry
from worker.calls import Operation
from worker.catalog import tool_group
from worker.direct import DirectInference
from worker.fleet import Fleet
from worker.memory.context import as_result, context_of
from worker.memory.query import Query
from worker.memory.service import Asked, Hit
from worker.providers.inference import Model
from worker.providers.safety import Shield
from worker.providers.tools_schema import invalid_arguments
from worker.sources import registered_bank, registered_tool

P = TypeVar("P")
_NAMES = frozenset({"identifier", "provider_id", "resource_id"})
"""What a registration has beside its details."""


class Operations:
    """The operations on a fleet of providers."""

    def __init__(self, *, fleet: Fleet, registrations: RegistrationStore) -> None:
        self._fleet = fleet
        self._catalog = fleet.catalog
        self._registrations = registrations
        self._direct = DirectInference(router=fleet.router)

    def table(self) -> Mapping[str, Operation]:
        """The operations by name."""
        return {
            "register_model": self.register_model,
            "register_shield": self.register_shield,
            "register_toolgroup": self.register_toolgroup,
            "list_tools": self.list_tools,
            "invoke_tool": self.invoke_tool,
            "run_shield": self.run_shield,
            "register_memory_bank": self.register_memory_bank,
            "unregister_memory_bank": self.unregister_memory_bank,
            "query_memory": self.query_memory,
            "query_memory_as_context": self.query_memory_as_context,
            "chat_completion": self._direct.chat_completion,
            "chat_completion_stream": self._direct.chat_completion_stream,
            "completion": self._direct.completion,
            "completion_stream": self._direct.completion_stream,
            "embeddings": self._direct.embeddings,
        }

    def register_model(self, payload: Json) -> Json:
        """`{model_id, provider_id?, provider_model_id?, model_type, metadata}`."""
        tenant, identifier = payload["tenant"], payload["model_id"]
        provider = _chosen(self._fleet.inference, payload.get("provider_id"), api="inference")
        resource_id = payload.get("provider_model_id") or identifier
        known = self._catalog.current(tenant, "inference").exact_model(identifier)
        if known is not None:
            served = known.resource_ids.get(provider.provider_id, resource_id)
            if served != resource_id:
                what = f"The provider '{provider.provider_id}' serves its model '{served}' as '{identifier}' already"
                raise _taken(what, "model")
            if known.model_type != payload["model_type"]:
                raise _taken(f"The model '{identifier}' is there already, with the type {known.model_type}", "model")
        accepted = provider.register_model(
            Model(
                identifier=identifier,
                resource_id=resource_id,
                model_type=payload["model_type"],
                metadata=payload["metadata"],
            )
        )
        details = {"model_type": accepted.model_type, "metadata": accepted.metadata}
        self._keep(tenant, Kind.MODEL, identifier, provider.provider_id, accepted.resource_id, details)
        return {}

    def register_shield(self, payload: Json) -> Json:
        """`{shield_id, provider_id?, provider_shield_id?, params}`."""
        tenant, identifier = payload["tenant"], payload["shield_id"]
        provider = _chosen(self._fleet.safety, payload.get("provider_id"), api="safety")
        shield = Shield(
            identifier=identifier,
            resource_id=payload.get("provider_shield_id") or identifier,
            params=payload["params"],
        )
        known = self._catalog.current(tenant, "safety").shield(identifier)
        if known is not None and (known.provider_id, known.resource_id, known.params) != (
            provider.provider_id,
            shield.resource_id,
            shield.params,
        ):
            raise _taken(f"The shield '{identifier}' is there already, and another one", "shield")
        accepted = provider.register_shield(shield)
        details = {"params": accepted.params}
        self._keep(tenant, Kind.SHIELD, identifier, provider.provider_id, accepted.resource_id, details)
        return {}

    def register_toolgroup(self, payload: Json) -> Json:
        """`{toolgroup_id, provider_id?, mcp_endpoint?, args?}`."""
        tenant, identifier = payload["tenant"], payload["toolgroup_id"]
        provider = _chosen(self._fleet.tools, payload.get("provider_id"), api="tool_runtime")
        details = {"mcp_endpoint": payload.get("mcp_endpoint"), "args": payload.get("args") or {}}
        registry = self._catalog.current(tenant, "tool_runtime")
        if registry.toolgroup(identifier) is not None:
            self._refuse_other_group(tenant, identifier, provider.provider_id, details)
        # Group names of several tenants meet in one provider instance; ids hold no slash.
        name = identifier if tenant == DEFAULT_TENANT else f"{tenant}/{identifier}"
        provider.register_toolgroup(tool_group(name, details))
        tools = [asdict(registered_tool(tool)) for tool in provider.list_tools(name)]
        self._keep(tenant, Kind.TOOLGROUP, identifier, provider.provider_id, name, {**details, "tools": tools})
        return {}

    def register_memory_bank(self, payload: Json) -> Json:
        """`{memory_bank_id, type, provider_id?, provider_memory_bank_id?, embedding_model?, …}`."""
        tenant, identifier = payload["tenant"], payload["memory_bank_id"]
        provider = _chosen(self._fleet.memory, payload.get("provider_id"), api="memory")
        bank = self._fleet.banks.completed(payload, tenant=tenant)
        known = self._catalog.current(tenant, "memory").memory_bank(identifier)
        if known is not None and known != registered_bank(bank, provider.provider_id):
            raise _taken(f"The memory bank '{identifier}' is there already, and another one", "memory_bank")
        accepted = asdict(registered_bank(provider.register_memory_bank(bank), provider.provider_id))
        details = {name: accepted[name] for name in accepted if name not in _NAMES}
        self._keep(tenant, Kind.MEMORY_BANK, identifier, provider.provider_id, accepted["resource_id"], details)
        return {}

    def unregister_memory_bank(self, payload: Json) -> Json:
        """`{memory_bank_id}`: all that is in it goes, unless it is there under another name too."""
        tenant, identifier = payload["tenant"], payload["memory_bank_id"]
        banks = self._catalog.current(tenant, "memory").memory_banks
        others = {(bank.provider_id, bank.resource_id) for bank in banks if bank.identifier != identifier}
        for one in self._registrations.of(tenant):
            if one.kind is Kind.MEMORY_BANK and one.identifier == identifier and one.provider_id in self._fleet.memory:
                if (one.provider_id, one.resource_id) not in others:
                    self._fleet.memory[one.provider_id].unregister_memory_bank(one.resource_id)
        return {}

    def query_memory(self, payload: Json) -> Json:
        """`{bank_id, query, params}`: `{chunks, scores}`."""
        return as_result(self._searched([payload["bank_id"]], payload))

    def query_memory_as_context(self, payload: Json) -> Json:
        """`{bank_ids, query, params, max_tokens}`: `{content, metadata}`, as a model reads it."""
        hits = self._searched(payload["bank_ids"], payload)
        found = context_of(hits, max_tokens=payload["max_tokens"])
        documents = [one["document_id"] for one in found.citations]
        return {"content": found.text, "metadata": {"document_ids": documents, "citations": found.citations}}

    def _searched(self, bank_ids: list[str], payload: Json) -> list[Hit]:
        query = Query.of(payload["query"], payload["params"])
        return self._fleet.searching.search([Asked(name, query) for name in bank_ids], tenant=payload["tenant"])

    def list_tools(self, payload: Json) -> Json:
        """`{toolgroup_id}` as its provider lists it now: `{tools}`."""
        tenant, identifier = payload["tenant"], payload["toolgroup_id"]
        registry = self._catalog.current(tenant, "tool_runtime")
        registry.require_toolgroups([identifier], param="tool_group_id")
        group = registry.toolgroup(identifier)
        if group is None:
            return {"tools": [asdict(tool) for _, tool in registry.tools_of(identifier)]}
        provider = self._catalog.provider_of(tenant, group)
        return {"tools": [asdict(registered_tool(tool)) for tool in provider.list_tools(group.resource_id)]}

    def invoke_tool(self, payload: Json) -> Json:
        """`{tool_name, arguments, key}`: `{content, error_code, error_message, metadata}`. `key` names this call."""
        tenant, arguments = payload["tenant"], payload["arguments"]
        registry = self._catalog.current(tenant, "tool_runtime")
        bound = self._catalog.bind(tenant, *_one_tool(registry, payload["tool_name"]))
        problem = invalid_arguments(bound.tool, arguments)
        if problem is not None:
            raise InvalidRequest(problem, param="kwargs", code="invalid_arguments")
        result = bound.invoke(arguments, idempotency_key=payload["key"])
        return {
            "content": result.content,
            "error_code": 1 if result.error else None,
            "error_message": _text(result.content) if result.error else None,
            "metadata": result.metadata,
        }

    def run_shield(self, payload: Json) -> Json:
        """`{shield_id, messages, params}`: `{violation}`, null where there is nothing to object to."""
        served = self._catalog.shield(payload["tenant"], payload["shield_id"])
        shield = Shield(
            identifier=served.shield.identifier,
            resource_id=served.shield.resource_id,
            params={**served.shield.params, **payload["params"]},
        )
        violation = served.provider.run_shield(shield, payload["messages"])
        return {"violation": None if violation is None else violation.as_json()}

    def _refuse_other_group(self, tenant: str, identifier: str, provider_id: str, details: Json) -> None:
        """A repetition is harmless; anything else under the same name is not what is there."""
        for one in self._registrations.of(tenant):
            if one.kind is Kind.TOOLGROUP and one.identifier == identifier:
                kept = {key: one.details[key] for key in details}
                if (one.provider_id, kept) == (provider_id, details):
                    return
        raise _taken(f"The tool group '{identifier}' is there already, and another one", "toolgroup")

    def _keep(
        self, tenant: str, kind: Kind, identifier: str, provider_id: str, resource_id: str, details: Json
    ) -> None:
        registration = Registration(
            kind=kind, identifier=identifier, provider_id=provider_id, resource_id=resource_id, details=details
        )
        self._registrations.put(tenant, registration)


def _chosen(providers: Mapping[str, P], provider_id: str | None, *, api: str) -> P:
    """The instance of that name, or the only one."""
    known = ", ".join(providers) or "none"
    if provider_id is None and len(providers) == 1:
        return next(iter(providers.values()))
    if provider_id is None:
        problem = f"Name the {api} provider in provider_id. Configured: {known}."
        raise InvalidRequest(problem, param="provider_id", code="provider_not_named")
    if provider_id not in providers:
        problem = f"There is no {api} provider '{provider_id}'. Configured: {known}."
        raise InvalidRequest(problem, param="provider_id", code="provider_not_found")
    return providers[provider_id]


def _taken(what: str, kind: str) -> Conflict:
    return Conflict(f"{what}. Delete it first, or choose another {kind}_id.", code="already_registered")


def _one_tool(registry: Registry, name: str) -> tuple[RegisteredToolGroup, RegisteredTool]:
    """The tool of this name, or of `group/tool`."""
    found = [(group, tool) for group in registry.toolgroups for tool in group.tools if tool.name == name]
    if not found and registry.toolgroup(name) is None:
        found = registry.tools_of(name)
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(f"{group.identifier}/{tool.name}" for group, tool in found)
        problem = f"Several tool groups have a tool '{name}': name one of {names}."
        raise InvalidRequest(problem, param="tool_name", code="tool_ambiguous")
    known = ", ".join(sorted(tool.name for group in registry.toolgroups for tool in group.tools)) or "none"
    raise InvalidRequest(f"There is no tool '{name}'. Known: {known}.", param="tool_name", code="tool_not_found")


def _text(content: str | list[Json]) -> str:
    return content if isinstance(content, str) else "\n".join(str(item.get("text") or "") for item in content)
