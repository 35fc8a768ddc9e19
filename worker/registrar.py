"""Asks the providers what they serve and publishes it, with this worker's signs of life."""

import logging
from collections.abc import Iterable
from functools import partial
from typing import Protocol

import gevent
from gevent.event import Event as Signal

from shared.errors import ProviderError, StoreError
from shared.events import Json
from shared.registry import ProviderStatus, RegisteredModel, Registry, RegistryStore
from worker.outage import Outage
from worker.providers.inference import InferenceProvider, Model
from worker.vital import spawn_vital

logger = logging.getLogger(__name__)

REFRESH_S = 60.0
RETRY_S = 5.0
ALIVE_S = 5.0
_STORE_RETRY_S = 1.0


class OnModels(Protocol):
    """Hears what is served, and whether every provider has been asked."""

    def __call__(self, models: list[RegisteredModel], *, complete: bool) -> None: ...


class Registrar:
    """Lists models at start and every minute; a provider that is down is asked again every five seconds.

    Each provider by itself, so that none waits for another. A failed listing keeps the last one, also the one that
    a worker before this one has published. `configs` are the instances' configs without secrets.
    """

    def __init__(
        self,
        *,
        providers: dict[str, InferenceProvider],
        configs: dict[str, Json],
        store: RegistryStore,
        worker: str,
        on_models: OnModels,
    ) -> None:
        self._providers = providers
        self._configs = configs
        self._store = store
        self._worker = worker
        self._on_models = on_models
        self._listed: dict[str, list[Model]] = {}
        self._health: dict[str, Json] = {}
        self._news = Signal()
        self._outage = Outage("the registry waits")

    def run(self) -> None:
        """For the life of the worker."""
        self._remember()
        for provider_id in self._providers:
            spawn_vital(f"the listing of '{provider_id}'", partial(self._watch, provider_id))
        while True:
            try:
                self._publish()
                self._store.alive(self._worker)
                self._outage.passed()
            except StoreError as error:
                self._outage.failed(error)
                gevent.sleep(_STORE_RETRY_S)
            else:
                self._news.wait(ALIVE_S)

    def ask(self, provider_id: str) -> bool:
        """Ask one provider what it serves; whether it answered."""
        try:
            self._listed[provider_id] = self._providers[provider_id].list_models()
        except ProviderError as error:
            if self._health.get(provider_id, {}).get("message") != error.message:
                logger.warning("models of provider '%s' not listed: %s", provider_id, error)
            self._health[provider_id] = _failing(error.message)
        except Exception:
            # The boundary to a provider's code: the worker goes on with the others.
            logger.exception("models of provider '%s' not listed: unexpected fault", provider_id)
            self._health[provider_id] = _failing("An unexpected fault; the worker's log has the details.")
        else:
            self._health[provider_id] = {"status": "OK"}
        self._tell()
        return bool(self._health[provider_id]["status"] == "OK")

    def registry(self) -> Registry:
        """What is known now."""
        return Registry(
            models=merge_models((name, self._listed[name]) for name in self._providers if name in self._listed),
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

    def _watch(self, provider_id: str) -> None:
        while True:
            gevent.sleep(REFRESH_S if self.ask(provider_id) else RETRY_S)

    def _remember(self) -> None:
        """Begin with what a worker of the same run config has published, so that a start forgets nothing."""
        while True:
            try:
                known = self._store.read()
                break
            except StoreError as error:
                self._outage.failed(error)
                gevent.sleep(_STORE_RETRY_S)
        for model in known.models if known else []:
            for provider_id, resource_id in model.resource_ids.items():
                self._listed.setdefault(provider_id, []).append(
                    Model(
                        identifier=model.identifier,
                        resource_id=resource_id,
                        model_type=model.model_type,
                        metadata=model.metadata,
                    )
                )
        self._tell()

    def _tell(self) -> None:
        complete = self._health.keys() == self._providers.keys()
        self._on_models(self.registry().models, complete=complete)
        if complete:
            self._news.set()

    def _publish(self) -> None:
        if self._news.is_set():
            self._news.clear()
            try:
                self._store.publish(self.registry())
            except StoreError:
                self._news.set()
                raise


def _failing(message: str) -> Json:
    return {"status": "Error", "message": message}


def merge_models(listed: Iterable[tuple[str, list[Model]]]) -> list[RegisteredModel]:
    """One entry per identifier, with the instances that serve it in the order given."""
    models: dict[str, RegisteredModel] = {}
    for provider_id, served in listed:
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
            if provider_id not in entry.resource_ids:
                entry.provider_ids.append(provider_id)
                entry.resource_ids[provider_id] = model.resource_id
    return list(models.values())
