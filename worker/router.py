"""Which provider instance serves a model."""

from shared.errors import ProviderError
from shared.registry import RegisteredModel
from worker.providers.inference import InferenceProvider


class Router:
    """Finds the instance for a model by what the providers listed last."""

    def __init__(self, *, providers: dict[str, InferenceProvider]) -> None:
        self._providers = providers
        self._models: dict[str, RegisteredModel] = {}

    def update(self, models: list[RegisteredModel]) -> None:
        """What is served from now on."""
        self._models = {model.identifier: model for model in models}

    def route(self, name: str) -> tuple[InferenceProvider, str]:
        """The instance for `identifier` or `provider_id/identifier`, and the provider's own name of the model.

        Raises ProviderError `model_not_found`, naming what is served.
        """
        for provider_id, identifier in self._candidates(name):
            model = self._models.get(identifier)
            if model is None:
                continue
            chosen = provider_id or model.provider_ids[0]
            if chosen in model.resource_ids:
                return self._providers[chosen], model.resource_ids[chosen]
        served = ", ".join(sorted(self._models)) or "none"
        raise ProviderError(
            f"No provider serves the model '{name}' now. Served: {served}.",
            provider_id=name.partition("/")[0] if name.partition("/")[0] in self._providers else "",
            code="model_not_found",
        )

    def _candidates(self, name: str) -> list[tuple[str, str]]:
        """The name as it stands first: identifiers may contain slashes themselves."""
        pinned, slash, identifier = name.partition("/")
        return [("", name)] + ([(pinned, identifier)] if slash and pinned in self._providers else [])
