"""Builds the provider instances that the run config names."""

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from shared.runconfig import ProviderInstance, RunConfig
from shared.runconfig.check import check
from shared.runconfig.origin import KeyPath, Origin
from worker.providers.inference import InferenceProvider
from worker.providers.openai import OpenAIInference
from worker.providers.openai_config import OpenAIConfig
from worker.providers.scripted import ScriptedConfig, ScriptedInference

C = TypeVar("C", bound=BaseModel)


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceType(Generic[C]):
    """A provider type: the shape of its config, and what makes an instance (`provider_id`, `config`) of it."""

    config: type[C]
    make: Callable[..., InferenceProvider]

    def build(self, instance: ProviderInstance, *, origin: Origin, at: KeyPath) -> InferenceProvider:
        """An instance. Raises ConfigError that names the key below `at`."""
        config = check(self.config, instance.config, origin=origin, at=(*at, "config"))
        return self.make(provider_id=instance.provider_id, config=config)


INFERENCE_TYPES: dict[str, InferenceType[Any]] = {
    "remote::openai": InferenceType(config=OpenAIConfig, make=OpenAIInference),
    "inline::scripted": InferenceType(config=ScriptedConfig, make=ScriptedInference),
}


def build_inference(config: RunConfig) -> dict[str, InferenceProvider]:
    """The inference providers by `provider_id`, in the config's order.

    Talks to no provider. Raises ConfigError for a provider type that does not exist and for a wrong `config`.
    """
    built: dict[str, InferenceProvider] = {}
    for index, instance in enumerate(config.providers.inference):
        at: KeyPath = ("providers", "inference", index)
        known = INFERENCE_TYPES.get(instance.provider_type)
        if known is None:
            raise config.origin.error((*at, "provider_type"), _unknown_type(instance.provider_type))
        built[instance.provider_id] = known.build(instance, origin=config.origin, at=at)
    return built


def _unknown_type(name: str) -> str:
    near = get_close_matches(name, INFERENCE_TYPES, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"there is no inference provider type '{name}'; {hint}known: {', '.join(sorted(INFERENCE_TYPES))}."
