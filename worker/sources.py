"""What the registrar asks: a provider instance with what the run config registers with it at start."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from shared.errors import ProviderError
from shared.events import Json
from shared.registry import RegisteredMemoryBank, RegisteredShield, RegisteredTool, RegisteredToolGroup, shown_endpoint
from shared.runconfig import StaticMemoryBank, StaticModel, StaticShield, StaticToolGroup
from shared.runconfig.secrets import mask, protect
from worker.balancer import Balancer
from worker.providers.inference import InferenceProvider, Model
from worker.providers.memory import Bank, MemoryProvider
from worker.providers.safety import SafetyProvider, Shield
from worker.providers.tools import Tool, ToolGroup, ToolProvider

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What a provider instance serves. `problem` says what of the run config it does not accept (yet)."""

    models: list[Model] = field(default_factory=list)
    shields: list[RegisteredShield] = field(default_factory=list)
    toolgroups: list[RegisteredToolGroup] = field(default_factory=list)
    memory_banks: list[RegisteredMemoryBank] = field(default_factory=list)
    problem: str | None = None


class Source(ABC):
    """A provider instance. `config` is its config without secrets."""

    api: str

    def __init__(self, *, provider_id: str, provider_type: str, config: Json) -> None:
        self.provider_id = provider_id
        self.provider_type = provider_type
        self.config = config
        self._accepted: set[str] = set()

    @abstractmethod
    def ask(self) -> Listing:
        """What the provider serves now. Raises ProviderError."""

    def fault(self) -> str | None:
        """Why requests avoid the provider now, though it may list what it serves."""
        return None

    def _register(self, entries: Iterable[tuple[str, Callable[[], object]]]) -> str | None:
        """Register what was not accepted yet; the provider's reason where it refuses one."""
        problem = None
        for name, register in entries:
            if name in self._accepted:
                continue
            try:
                register()
            except ProviderError as error:
                problem = f"'{name}' of the run config is not accepted: {error.message}"
            else:
                self._accepted.add(name)
        return problem


class InferenceSource(Source):
    """Models."""

    api = "inference"

    def __init__(
        self,
        *,
        provider: InferenceProvider,
        balancer: Balancer,
        config: Json,
        models: Sequence[StaticModel] = (),
    ) -> None:
        super().__init__(provider_id=provider.provider_id, provider_type=provider.provider_type, config=config)
        self._provider = provider
        self._balancer = balancer
        self._models = {
            model.model_id: Model(
                identifier=model.model_id,
                resource_id=model.provider_model_id or model.model_id,
                model_type=model.model_type,
                metadata=model.metadata,
            )
            for model in models
        }

    def ask(self) -> Listing:
        listed = self._list()
        problem = self._register(
            (name, partial(self._provider.register_model, model)) for name, model in self._models.items()
        )
        own = [model for name, model in self._models.items() if name in self._accepted]
        names = {model.identifier for model in own}
        return Listing(models=[*(model for model in listed if model.identifier not in names), *own], problem=problem)

    def fault(self) -> str | None:
        return self._balancer.fault(self.provider_id)

    def _list(self) -> list[Model]:
        answered = False
        try:
            listed = self._provider.list_models()
            answered = True
        finally:
            self._balancer.listed(self.provider_id, answered=answered)
        return listed


class SafetySource(Source):
    """Shields."""

    api = "safety"

    def __init__(self, *, provider: SafetyProvider, config: Json, shields: Sequence[StaticShield] = ()) -> None:
        super().__init__(provider_id=provider.provider_id, provider_type=provider.provider_type, config=config)
        self._provider = provider
        self._shields = {
            one.shield_id: Shield(
                identifier=one.shield_id, resource_id=one.provider_shield_id or one.shield_id, params=one.params
            )
            for one in shields
        }

    def ask(self) -> Listing:
        listed = self._provider.list_shields()
        problem = self._register(
            (name, partial(self._provider.register_shield, shield)) for name, shield in self._shields.items()
        )
        own = [shield for name, shield in self._shields.items() if name in self._accepted]
        names = {shield.identifier for shield in own}
        served = [*(shield for shield in listed if shield.identifier not in names), *own]
        return Listing(shields=[self._registered(shield) for shield in served], problem=problem)

    def _registered(self, shield: Shield) -> RegisteredShield:
        return RegisteredShield(
            identifier=shield.identifier,
            provider_id=self.provider_id,
            resource_id=shield.resource_id,
            params=shield.params,
        )


class ToolSource(Source):
    """Tool groups with their tools: the provider's own and the run config's, not those that tenants register."""

    api = "tool_runtime"

    def __init__(self, *, provider: ToolProvider, config: Json, toolgroups: Sequence[StaticToolGroup] = ()) -> None:
        super().__init__(provider_id=provider.provider_id, provider_type=provider.provider_type, config=config)
        self._provider = provider
        self._groups = {group.identifier: group for group in provider.list_toolgroups()}
        self._static = {
            one.toolgroup_id: ToolGroup(identifier=one.toolgroup_id, mcp_endpoint=one.mcp_endpoint, args=one.args or {})
            for one in toolgroups
        }

    def ask(self) -> Listing:
        problem = self._register(
            (name, partial(self._provider.register_toolgroup, group)) for name, group in self._static.items()
        )
        own = {name: group for name, group in self._static.items() if name in self._accepted}
        served = {**{name: group for name, group in self._groups.items() if name not in own}, **own}
        return Listing(toolgroups=[self._registered(group) for group in served.values()], problem=problem)

    def _registered(self, group: ToolGroup) -> RegisteredToolGroup:
        return RegisteredToolGroup(
            identifier=group.identifier,
            provider_id=self.provider_id,
            resource_id=group.identifier,
            mcp_endpoint=shown_endpoint(group.mcp_endpoint),
            args=mask(protect(group.args)),
            tools=[registered_tool(tool) for tool in self._provider.list_tools(group.identifier)],
        )


class MemorySource(Source):
    """Memory banks: the provider's own and the run config's, not those that tenants register.

    `made` completes a bank of the run config: a vector bank's dimension is its model's, which has to be asked.
    """

    api = "memory"

    def __init__(
        self,
        *,
        provider: MemoryProvider,
        config: Json,
        banks: Sequence[StaticMemoryBank] = (),
        made: Callable[[StaticMemoryBank], Bank],
    ) -> None:
        super().__init__(provider_id=provider.provider_id, provider_type=provider.provider_type, config=config)
        self._provider = provider
        self._static = {bank.memory_bank_id: bank for bank in banks}
        self._made = made
        self._own: dict[str, Bank] = {}

    def ask(self) -> Listing:
        listed = self._provider.list_memory_banks()
        problem = self._register((name, partial(self._accept, bank)) for name, bank in self._static.items())
        served = {bank.identifier: bank for bank in listed} | self._own
        return Listing(
            memory_banks=[registered_bank(bank, self.provider_id) for bank in served.values()], problem=problem
        )

    def _accept(self, static: StaticMemoryBank) -> None:
        self._own[static.memory_bank_id] = self._provider.register_memory_bank(self._made(static))


def registered_bank(bank: Bank, provider_id: str) -> RegisteredMemoryBank:
    """A bank as it stands in the registry."""
    return RegisteredMemoryBank(
        identifier=bank.identifier,
        provider_id=provider_id,
        resource_id=bank.resource_id,
        kind=bank.kind.value,
        embedding_model=bank.embedding_model,
        embedding_dimension=bank.embedding_dimension,
        chunk_size_in_tokens=bank.chunk_size_in_tokens,
        overlap_size_in_tokens=bank.overlap_size_in_tokens,
    )


def registered_tool(tool: Tool) -> RegisteredTool:
    """A tool as it stands in the registry."""
    return RegisteredTool(
        name=tool.name,
        description=tool.description,
        input_schema=tool.input_schema,
        replay=tool.replay.value,
        metadata=tool.metadata,
    )
