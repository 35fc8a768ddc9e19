"""Asks the providers what they serve and publishes it, with this worker's signs of life."""

import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from typing import Protocol

import gevent
from gevent.event import Event as Signal

from shared.errors import ProviderError, StoreError
from shared.events import Json
from shared.queues import TURNS_QUEUE
from shared.registry import ProviderStatus, RegisteredModel, Registry, RegistryStore
from worker.outage import Outage
from worker.providers.inference import Model
from worker.sources import Listing, Source
from worker.vital import spawn_vital

logger = logging.getLogger(__name__)

REFRESH_S = 60.0
RETRY_S = 5.0
ALIVE_S = 5.0
_STORE_RETRY_S = 1.0
APIS = frozenset({"inference", "safety", "memory", "tool_runtime"})


class OnRegistry(Protocol):
    """Hears what is served, and of which APIs all providers have been asked."""

    def __call__(self, registry: Registry, *, asked: Collection[str]) -> None: ...


class Registrar:
    """Lists what providers serve at start and every minute; one that is down is asked again every five seconds, and
    one that requests have found to be gone at once.

    Each provider by itself, so that none waits for another. A failed listing keeps the last one, also the one that
    a worker before this one has published. `worker` is the name under which it says that it is alive, as one that
    serves `queue`; who serves turns publishes what it learns, and without a name it keeps that for itself.
    """

    def __init__(
        self,
        *,
        sources: Sequence[Source],
        store: RegistryStore,
        worker: str | None,
        on_registry: OnRegistry,
        queue: str = TURNS_QUEUE,
    ) -> None:
        self._sources = {source.provider_id: source for source in sources}
        self._store = store
        self._worker = worker
        self._queue = queue
        self._on_registry = on_registry
        self._listed: dict[str, Listing] = {}
        self._health: dict[str, Json] = {}
        self._wanted = {provider_id: Signal() for provider_id in self._sources}
        self._news = Signal()
        self._outage = Outage("the registry waits")

    def run(self) -> None:
        """For the life of the worker."""
        self._remember()
        for provider_id in self._sources:
            spawn_vital(f"the listing of '{provider_id}'", partial(self._watch, provider_id))
        if self._worker is None:
            return  # nobody needs to know of it; the listings go on by themselves
        while True:
            try:
                self._publish()
                self._store.alive(self._worker, queue=self._queue)
                self._outage.passed()
            except StoreError as error:
                self._outage.failed(error)
                gevent.sleep(_STORE_RETRY_S)
            else:
                self._news.wait(ALIVE_S)

    def ask(self, provider_id: str) -> bool:
        """Ask one provider what it serves; whether all is well with it."""
        try:
            listing = self._sources[provider_id].ask()
        except ProviderError as error:
            self._note(provider_id, error.message)
        except Exception:
            # The boundary to a provider's code: the worker goes on with the others.
            logger.exception("provider '%s' not listed: unexpected fault", provider_id)
            self._health[provider_id] = _failing("An unexpected fault; the worker's log has the details.")
        else:
            self._listed[provider_id] = listing
            self._note(provider_id, listing.problem)
        self._tell()
        return bool(self._health[provider_id]["status"] == "OK")

    def registry(self) -> Registry:
        """What is known now."""
        there = [(source, self._listed.get(source.provider_id, Listing())) for source in self._sources.values()]
        shields = {shield.identifier: shield for _, listing in reversed(there) for shield in listing.shields}
        groups = {group.identifier: group for _, listing in reversed(there) for group in listing.toolgroups}
        banks = {bank.identifier: bank for _, listing in reversed(there) for bank in listing.memory_banks}
        return Registry(
            models=merge_models((source.provider_id, listing.models) for source, listing in there),
            shields=sorted(shields.values(), key=lambda shield: shield.identifier),
            toolgroups=sorted(groups.values(), key=lambda group: group.identifier),
            memory_banks=sorted(banks.values(), key=lambda bank: bank.identifier),
            providers=[
                ProviderStatus(
                    api=source.api,
                    provider_id=source.provider_id,
                    provider_type=source.provider_type,
                    config=source.config,
                    health=self._health_of(source),
                )
                for source, _ in there
            ],
        )

    def look_again(self, provider_id: str, is_gone: bool) -> None:
        """Publish soon how the provider is: requests have found it changed. One that `is_gone` is asked at once.

        One that is there is not: llama-cpp-python's server breaks off its answers when it is asked for its models.
        """
        if is_gone:
            self._wanted[provider_id].set()
        if self._health.keys() == self._sources.keys():
            self._news.set()

    def _health_of(self, source: Source) -> Json:
        fault = source.fault()
        if fault is not None:
            return _failing(fault)
        return self._health.get(source.provider_id, {"status": "Not asked yet"})

    def _note(self, provider_id: str, problem: str | None) -> None:
        """The provider's health, and a line in the log where it is new that something is wrong."""
        if problem is None:
            self._health[provider_id] = {"status": "OK"}
            return
        if self._health.get(provider_id, {}).get("message") != problem:
            logger.warning("provider '%s': %s", provider_id, problem)
        self._health[provider_id] = _failing(problem)

    def _watch(self, provider_id: str) -> None:
        wanted = self._wanted[provider_id]
        while True:
            wanted.clear()
            wanted.wait(REFRESH_S if self.ask(provider_id) else RETRY_S)

    def _remember(self) -> None:
        """Begin with what a worker of the same run config has published, so that a start forgets nothing."""
        while True:
            try:
                known = self._store.read()
                break
            except StoreError as error:
                self._outage.failed(error)
                gevent.sleep(_STORE_RETRY_S)
        if known is not None:
            self._listed = {
                source: listing for source, listing in _by_provider(known).items() if source in self._sources
            }
        self._tell()

    def _tell(self) -> None:
        unasked = {source.api for source in self._sources.values() if source.provider_id not in self._health}
        self._on_registry(self.registry(), asked=APIS - unasked)
        if not unasked:
            self._news.set()

    def _publish(self) -> None:
        if self._news.is_set():
            self._news.clear()
            if self._queue != TURNS_QUEUE:
                return
            try:
                self._store.publish(self.registry())
            except StoreError:
                self._news.set()
                raise


def _failing(message: str) -> Json:
    return {"status": "Error", "message": message}


def _by_provider(known: Registry) -> dict[str, Listing]:
    """A published registry as the listings that it was made of."""
    listings: dict[str, Listing] = defaultdict(Listing)
    for model in known.models:
        for provider_id, resource_id in model.resource_ids.items():
            listings[provider_id].models.append(
                Model(
                    identifier=model.identifier,
                    resource_id=resource_id,
                    model_type=model.model_type,
                    metadata=model.metadata,
                )
            )
    for shield in known.shields:
        listings[shield.provider_id].shields.append(shield)
    for group in known.toolgroups:
        listings[group.provider_id].toolgroups.append(group)
    for bank in known.memory_banks:
        listings[bank.provider_id].memory_banks.append(bank)
    return listings


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
