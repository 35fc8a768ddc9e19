"""Which provider instance serves a model."""

from gevent.event import Event as Signal

from shared.errors import ProviderError
from shared.registry import RegisteredModel
from worker.providers.inference import InferenceProvider


class Router:
    """Finds the instance for a model by what the providers listed last."""

    def __init__(self, *, providers: dict[str, InferenceProvider]) -> None:
        self._providers = providers
        self._models: dict[str, RegisteredModel] = {}
        self._complete = False
        self._updated = Signal()

    def update(self, models: list[RegisteredModel], *, complete: bool) -> None:
        """What is served from now on. `complete` once every provider has been asked."""
        self._models = {model.identifier: model for model in models}
        self._complete = complete
        updated, self._updated = self._updated, Signal()
        updated.set()

    def route(self, name: str) -> tuple[InferenceProvider, str]:
        """The instance for `identifier` or `provider_id/identifier`, and the provider's own name of the model.

        A worker that has just started may not know yet: waits until every provider has been asked. Raises
        ProviderError `model_not_found`, naming what is served.
        """
        while True:
            found = self._find(name)
            if found is not None:
                return found
            if self._complete:
                raise self._not_found(name)
            self._updated.wait()

    def _find(self, name: str) -> tuple[InferenceProvider, str] | None:
        for provider_id, identifier in self._candidates(name):
            model = self._models.get(identifier)
            if model is None:
                continue
            chosen = provider_id or model.provider_ids[0]
            if chosen in model.resource_ids:
                return self._providers[chosen], model.resource_ids[chosen]
        return None

    def _candidates(self, name: str) -> list[tuple[str, str]]:
        """The name as it stands first: identifiers may contain slashes themselves."""
        pinned, slash, identifier = name.partition("/")
        return [("", name)] + ([(pinned, identifier)] if slash and pinned in self._providers else [])

    def _not_found(self, name: str) -> ProviderError:
        served = ", ".join(sorted(self._models)) or "none"
        pinned = name.partition("/")[0]
        return ProviderError(
            f"No provider serves the model '{name}' now. Served: {served}.",
            provider_id=pinned if pinned in self._providers else "",
            code="model_not_found",
        )
