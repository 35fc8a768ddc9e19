"""Which provider instance serves a model."""

from collections.abc import Iterator
from dataclasses import replace

from shared.errors import ProviderError
from shared.ids import DEFAULT_TENANT
from shared.registry import RegisteredModel, Registry
from worker.catalog import Catalog
from worker.providers.inference import ChatRequest, Delta, InferenceProvider

API = "inference"


class Router:
    """Finds the instance for a model by what the providers listed last, and what tenants have registered.

    `catalog` knows both; without one there is only what `update` tells.
    """

    def __init__(self, *, providers: dict[str, InferenceProvider], catalog: Catalog | None = None) -> None:
        self._providers = providers
        self._catalog = catalog or Catalog()

    def update(self, models: list[RegisteredModel], *, complete: bool) -> None:
        """What is served from now on. `complete` once every provider has been asked."""
        self._catalog.update(Registry(models=models), asked=(API,) if complete else ())

    def route(self, name: str, *, tenant: str = DEFAULT_TENANT) -> tuple[InferenceProvider, str]:
        """The instance for `identifier` or `provider_id/identifier`, and the provider's own name of the model.

        A worker that has just started may not know yet: waits until every provider has been asked. Raises
        ProviderError `model_not_found`, naming what is served.
        """
        found = self._catalog.find(tenant, API, lambda registry: self._find(name, registry))
        if found is None:
            raise self._not_found(name, tenant)
        return found

    def serves(self, name: str) -> bool:
        """Whether the model can be used now."""
        return self._catalog.find(DEFAULT_TENANT, API, lambda registry: self._find(name, registry)) is not None

    def chat(self, request: ChatRequest, *, tenant: str = DEFAULT_TENANT) -> Iterator[Delta]:
        """The reply of whichever instance serves `request.model`. Raises ProviderError."""
        provider, model = self.route(request.model, tenant=tenant)
        return provider.chat(replace(request, model=model))

    def _find(self, name: str, registry: Registry) -> tuple[InferenceProvider, str] | None:
        for provider_id, identifier in self._candidates(name):
            model = registry.exact_model(identifier)
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

    def _not_found(self, name: str, tenant: str) -> ProviderError:
        served = ", ".join(sorted(model.identifier for model in self._catalog.registry(tenant).models)) or "none"
        pinned = name.partition("/")[0]
        return ProviderError(
            f"No provider serves the model '{name}' now. Served: {served}.",
            provider_id=pinned if pinned in self._providers else "",
            code="model_not_found",
        )
