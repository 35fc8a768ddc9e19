"""The port of safety providers: what the turn loop asks of a shield."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shield:
    """A shield that a provider runs. `resource_id` is the provider's own name for it."""

    identifier: str
    resource_id: str
    params: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """What a shield objects to, as Llama Stack's `SafetyViolation`.

    `user_message` is what the user gets to read in place of the content; `metadata` may say more (categories).
    Neither repeats the content.
    """

    user_message: str
    level: str = "error"
    metadata: Json = field(default_factory=dict)

    def as_json(self) -> Json:
        return {"violation_level": self.level, "user_message": self.user_message, "metadata": self.metadata}


class SafetyProvider(ABC):
    """A provider instance that runs shields.

    Instances are made once per worker process and used by many greenlets at once. Every method raises
    `shared.errors.ProviderError` (and nothing else) for a fault of the provider, with a message that names the
    instance, says what to do and holds no secret and none of the content.
    """

    provider_id: str
    provider_type: str

    @abstractmethod
    def list_shields(self) -> list[Shield]:
        """The shields that the provider runs now."""

    @abstractmethod
    def register_shield(self, shield: Shield) -> Shield:
        """Accept a shield under `shield.identifier`, or raise with the provider's reason."""

    @abstractmethod
    def run_shield(self, shield: Shield, messages: Sequence[Json]) -> Violation | None:
        """Look at messages (Llama Stack shape, in order); None where there is nothing to object to."""

    @abstractmethod
    def close(self) -> None:
        """Release connections. The instance is not used afterwards."""
