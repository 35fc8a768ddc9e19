"""Builds the provider instances that the run config names."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from shared.runconfig import ProviderInstance, RunConfig
from shared.runconfig.check import check
from shared.runconfig.origin import KeyPath, Origin
from worker.providers.imported import build_imported, is_import_path
from worker.providers.inference import InferenceProvider
from worker.providers.memory import MemoryProvider
from worker.providers.memory_pgvector import PgvectorMemory
from worker.providers.memory_pgvector_config import PgvectorConfig
from worker.providers.memory_sqlite import SqliteMemory, SqliteMemoryConfig
from worker.providers.ollama import OllamaConfig, OllamaInference
from worker.providers.openai import OpenAIInference
from worker.providers.openai_config import OpenAIConfig
from worker.providers.safety import SafetyProvider
from worker.providers.safety_denylist import DenylistConfig, DenylistSafety
from worker.providers.safety_llama_guard import Chat, LlamaGuardConfig, LlamaGuardSafety, Serves
from worker.providers.safety_openai_moderation import ModerationConfig, ModerationSafety
from worker.providers.scripted import ScriptedConfig, ScriptedInference
from worker.providers.tgi import TGIConfig, TGIInference
from worker.providers.tools import ToolProvider
from worker.providers.tools_http import HttpTools
from worker.providers.tools_http_config import HttpToolsConfig
from worker.providers.tools_mcp import McpTools
from worker.providers.tools_mcp_bridge import McpBridge
from worker.providers.tools_mcp_config import McpConfig
from worker.providers.vllm import VLLMConfig, VLLMInference
from worker.providers.wordllama import WordllamaConfig, WordllamaInference

P = TypeVar("P")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderType(Generic[P]):
    """A provider type: the shape of its config, and what makes an instance (`provider_id`, `config`) of it."""

    config: type[BaseModel]
    make: Callable[..., P]

    def build(self, instance: ProviderInstance, *, origin: Origin, at: KeyPath) -> P:
        """An instance. Raises ConfigError that names the key below `at`."""
        config = check(self.config, instance.config, origin=origin, at=(*at, "config"))
        return self.make(provider_id=instance.provider_id, config=config)


INFERENCE_TYPES: dict[str, ProviderType[InferenceProvider]] = {
    "remote::openai": ProviderType(config=OpenAIConfig, make=OpenAIInference),
    "remote::vllm": ProviderType(config=VLLMConfig, make=VLLMInference),
    "remote::tgi": ProviderType(config=TGIConfig, make=TGIInference),
    "remote::ollama": ProviderType(config=OllamaConfig, make=OllamaInference),
    "inline::scripted": ProviderType(config=ScriptedConfig, make=ScriptedInference),
    "inline::wordllama": ProviderType(config=WordllamaConfig, make=WordllamaInference),
}


MEMORY_TYPES: dict[str, ProviderType[MemoryProvider]] = {
    "inline::sqlite": ProviderType(config=SqliteMemoryConfig, make=SqliteMemory),
    "remote::pgvector": ProviderType(config=PgvectorConfig, make=PgvectorMemory),
}


def safety_types(*, chat: Chat, serves: Serves) -> dict[str, ProviderType[SafetyProvider]]:
    """As `build_safety` needs them."""
    return {
        "inline::denylist": ProviderType(config=DenylistConfig, make=DenylistSafety),
        "inline::llama-guard": ProviderType(
            config=LlamaGuardConfig, make=partial(LlamaGuardSafety, chat=chat, serves=serves)
        ),
        "remote::openai-moderation": ProviderType(config=ModerationConfig, make=ModerationSafety),
    }


def tool_types() -> dict[str, ProviderType[ToolProvider]]:
    """Types whose instances of `remote::mcp` share one child process, which is started by the first that needs it."""
    return {
        "remote::http": ProviderType(config=HttpToolsConfig, make=HttpTools),
        "remote::mcp": ProviderType(config=McpConfig, make=partial(McpTools, bridge=McpBridge())),
    }


def build_inference(config: RunConfig) -> dict[str, InferenceProvider]:
    """The inference providers by `provider_id`, in the config's order.

    Talks to no provider. Raises ConfigError for a provider type that does not exist and for a wrong `config`.
    """
    return _build("inference", config, INFERENCE_TYPES, port=InferenceProvider)


def build_safety(config: RunConfig, *, chat: Chat, serves: Serves) -> dict[str, SafetyProvider]:
    """The safety providers by `provider_id`, in the config's order; talks to nobody and raises as above.

    `chat` is how guard models are asked, routed by the model's name; `serves` says whether a model can be used now.
    """
    return _build("safety", config, safety_types(chat=chat, serves=serves), port=SafetyProvider)


def build_memory(config: RunConfig) -> dict[str, MemoryProvider]:
    """The memory providers by `provider_id`, in the config's order; talks to nobody and raises as above."""
    return _build("memory", config, MEMORY_TYPES, port=MemoryProvider)


def build_tools(config: RunConfig) -> dict[str, ToolProvider]:
    """The tool providers by `provider_id`, in the config's order; talks to nobody and raises as above."""
    built = _build("tool_runtime", config, tool_types(), port=ToolProvider)
    owners: dict[str, str] = {}
    for index, (provider_id, provider) in enumerate(built.items()):
        for group in provider.list_toolgroups():
            owner = owners.setdefault(group.identifier, provider_id)
            if owner != provider_id:
                taken = f"the tool group '{group.identifier}' is that of '{owner}' already; set `toolgroup_id`."
                raise config.origin.error(("providers", "tool_runtime", index, "config"), taken)
    return built


def _build(api: str, config: RunConfig, types: Mapping[str, ProviderType[P]], *, port: type[Any]) -> dict[str, P]:
    built: dict[str, P] = {}
    for index, instance in enumerate(getattr(config.providers, api)):
        at: KeyPath = ("providers", api, index)
        known = types.get(instance.provider_type)
        if is_import_path(instance.provider_type):
            built[instance.provider_id] = build_imported(port, instance, origin=config.origin, at=at)
            continue
        if known is None:
            raise config.origin.error((*at, "provider_type"), _unknown_type(api, instance.provider_type, types))
        built[instance.provider_id] = known.build(instance, origin=config.origin, at=at)
    return built


def _unknown_type(api: str, name: str, types: Collection[str]) -> str:
    near = get_close_matches(name, types, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    own = "or one of your own as package.module:Class"
    return f"there is no {api} provider type '{name}'; {hint}known: {', '.join(sorted(types))}, {own}."
