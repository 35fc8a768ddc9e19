"""Asks the providers what they serve and publishes it, with this worker's signs of life."""

import logging
import time
from collections.abc import Callable

import gevent
from gevent.event import Event as Signal

from shared.errors import ProviderError, StoreError
from shared.events import Json
from shared.registry import ProviderStatus, RegisteredModel, Registry, RegistryStore
from worker.providers.inference import InferenceProvider, Model

logger = logging.getLogger(__name__)

REFRESH_S = 60
RETRY_S = 5
ALIVE_S = 5


class Registrar:
    """Lists models at start and every minute; a provider that is down is asked again every five seconds.

    A failed listing keeps the last one, also one that an earlier worker of this config published: a restart while a
    provider is down takes no model away. `configs` are the instances' configs without secrets.
    """

    def __init__(
        self,
        *,
        providers: dict[str, InferenceProvider],
        configs: dict[str, Json],
        store: RegistryStore,
        worker: str,
        on_models: Callable[[list[RegisteredModel]], None],
    ) -> None:
        self._providers = providers
        self._configs = configs
        self._store = store
        self._worker = worker
        self._on_models = on_models
        self._listed: dict[str, list[Model]] = {}
        self._health: dict[str, Json] = {}
        self._ask_at = dict.fromkeys(providers, 0.0)
        self._recalled = False
        self._known = Signal()

    def wait_until_known(self) -> None:
        """Return once it is known what is served: a turn that came sooner would fail for want of its model."""
        self._known.wait()

    def run(self) -> None:
        """For the life of the worker."""
        while True:
            try:
                self.recall()
                self.refresh()
                self._store.alive(self._worker)
            except StoreError as error:
                logger.warning("registry waits for the store: %s", error)
            gevent.sleep(ALIVE_S)

    def recall(self) -> None:
        """Begin with what was published last."""
        if self._recalled:
            return
        known = self._store.read() or Registry()
        for provider_id in self._providers:
            if listed := [_listed(model, provider_id) for model in known.models if provider_id in model.resource_ids]:
                self._listed[provider_id] = listed
        self._recalled = True
        if self._listed:
            self._tell(self._registry())

    def refresh(self) -> None:
        """Ask every provider that is due, all at once, and publish if any was asked."""
        due = [provider_id for provider_id, at in self._ask_at.items() if time.monotonic() >= at]
        if not due:
            return
        gevent.joinall([gevent.spawn(self._list, provider_id) for provider_id in due], raise_error=True)
        registry = self._registry()
        self._tell(registry)
        self._store.publish(registry)

    def _tell(self, registry: Registry) -> None:
        self._on_models(registry.models)
        self._known.set()

    def _list(self, provider_id: str) -> None:
        try:
            self._listed[provider_id] = self._providers[provider_id].list_models()
        except ProviderError as error:
            if self._health.get(provider_id, {}).get("message") != error.message:
                logger.warning("models of provider '%s' not listed: %s", provider_id, error)
            self._health[provider_id] = {"status": "Error", "message": error.message}
            self._ask_at[provider_id] = time.monotonic() + RETRY_S
        else:
            self._health[provider_id] = {"status": "OK"}
            self._ask_at[provider_id] = time.monotonic() + REFRESH_S

    def _registry(self) -> Registry:
        return Registry(
            models=merge_models({name: self._listed[name] for name in self._providers if name in self._listed}),
            providers=[
                ProviderStatus(
                    api="inference",
                    provider_id=provider_id,
                    provider_type=provider.provider_type,
                    config=self._configs.get(provider_id, {}),
                    health=self._health.get(provider_id, {"status": "Not asked yet"}),
                )
                for provider_id, provider in self._providers.items()
            ],
        )


def _listed(model: RegisteredModel, provider_id: str) -> Model:
    """What the provider must have listed for this entry."""
    return Model(
        identifier=model.identifier,
        resource_id=model.resource_ids[provider_id],
        model_type=model.model_type,
        metadata=model.metadata,
    )


def merge_models(listed: dict[str, list[Model]]) -> list[RegisteredModel]:
    """One entry per identifier, with the instances that serve it in the order of the run config."""
    models: dict[str, RegisteredModel] = {}
    for provider_id, served in listed.items():
        for model in served:
            entry = models.setdefault(
                model.identifier,
                RegisteredModel(
                    identifier=model.identifier,
                    model_type=model.model_type,
                    provider_ids=[],
                    resource_ids={},
                    metadata=model.metadata,
                ),
            )
            entry.provider_ids.append(provider_id)
            entry.resource_ids[provider_id] = model.resource_id
    return list(models.values())
