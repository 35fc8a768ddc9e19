"""Which provider instances serve a model, and the way of a request to one of them."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TypeVar

from shared.errors import ProviderError
from shared.ids import DEFAULT_TENANT
from shared.registry import RegisteredModel, Registry
from worker.balancer import Ask, Balancer
from worker.catalog import Catalog
from worker.providers.inference import ChatRequest, Delta, InferenceProvider

API = "inference"

T = TypeVar("T")


class Router:
    """Finds the instances for a model by what the providers listed last, and what tenants have registered.

    `catalog` knows both; without one there is only what `update` tells. A model is named `identifier`, or
    `provider_id/identifier` for one instance alone. Every method that asks raises ProviderError, `model_not_found`
    with the names of what is served among them; `balancer` decides which instance answers.
    """

    def __init__(
        self,
        *,
        providers: dict[str, InferenceProvider],
        catalog: Catalog | None = None,
        balancer: Balancer | None = None,
    ) -> None:
        self._providers = providers
        self._catalog = catalog or Catalog()
        self.balancer = balancer or Balancer(providers=providers)

    def update(self, models: list[RegisteredModel], *, complete: bool) -> None:
        """What is served from now on. `complete` once every provider has been asked."""
        self._catalog.update(Registry(models=models), asked=(API,) if complete else ())

    def instances(self, name: str, *, tenant: str = DEFAULT_TENANT) -> dict[str, str]:
        """The instances that serve the model, in the config's order, with their own names of it.

        A worker that has just started may not know yet: waits until every provider has been asked.
        """
        found = self._catalog.find(tenant, API, lambda registry: self._find(name, registry))
        if found is None:
            raise self._not_found(name, tenant)
        return found

    def serves(self, name: str) -> bool:
        """Whether the model can be used now."""
        return self._catalog.find(DEFAULT_TENANT, API, lambda registry: self._find(name, registry)) is not None

    def chat(self, request: ChatRequest, *, tenant: str = DEFAULT_TENANT) -> Iterator[Delta]:
        """The reply of one of the instances that serve `request.model`; close it.

        The model is looked up at once, and nobody is asked before the first `next`.
        """

        def ask(provider: InferenceProvider, model: str, may_retry: bool) -> Iterator[Delta]:
            return provider.chat(replace(request, model=model, retry=may_retry))

        return self.stream(request.model, ask, tenant=tenant)

    def stream(self, name: str, ask: Ask[Iterator[T]], *, tenant: str = DEFAULT_TENANT) -> Iterator[T]:
        """As `chat`, for anything that comes in pieces."""
        return self.balancer.stream(name, self.instances(name, tenant=tenant), ask)

    def call(self, name: str, ask: Ask[T], *, tenant: str = DEFAULT_TENANT) -> T:
        """As `chat`, for an answer in one piece."""
        return self.balancer.call(name, self.instances(name, tenant=tenant), ask)

    def _find(self, name: str, registry: Registry) -> dict[str, str] | None:
        for pinned, identifier in self._candidates(name):
            model = registry.exact_model(identifier)
            if model is None:
                continue
            # A registration may name an instance that the run config has no more.
            there = [one for one in model.provider_ids if one in self._providers and pinned in ("", one)]
            if there:
                return {provider_id: model.resource_ids[provider_id] for provider_id in there}
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
