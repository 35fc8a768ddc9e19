"""Sends requests to the instances that serve a model, and to the next one where one fails."""

import logging
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from typing import TypeVar, cast

import gevent

from shared.errors import ProviderError
from worker.failover import Failover, Verdict, judge
from worker.places import Instance, NoPlace, Places
from worker.providers.inference import InferenceProvider

T = TypeVar("T")

Ask = Callable[[InferenceProvider, str, bool], T]
"""Asks an instance, under its own name of the model; whether it may retry."""

Watcher = Callable[[str, bool], None]
"""Hears of an instance (its `provider_id`) that it is set aside, or is no more; and whether nobody is there."""

logger = logging.getLogger(__name__)


class Balancer:
    """Knows how many requests each instance has under way in this process, and how it is."""

    def __init__(
        self,
        *,
        providers: Mapping[str, InferenceProvider],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = gevent.sleep,
    ) -> None:
        self._instances = {provider_id: Instance(provider) for provider_id, provider in providers.items()}
        self._places = Places(clock=clock)
        self._clock = clock
        self._sleep = sleep
        self._watchers: list[Watcher] = []

    def stream(self, model: str, resource_ids: Mapping[str, str], ask: Ask[Iterator[T]]) -> Iterator[T]:
        """The answer of one of the instances in `resource_ids` (their own names of `model`, by `provider_id`).

        Before the first item the next one is tried where one fails; after it never. Leaving by any exception, and
        closing, gives the place back and closes the connection. Raises ProviderError.
        """
        instances = [self._instances[provider_id] for provider_id in resource_ids]
        failover = Failover(model=model, instances=instances, clock=self._clock)
        pause = 0.0
        while True:
            if pause:
                self._sleep(pause)
            try:
                with self._places.taken(failover.candidates) as instance:
                    asked = ask(instance.provider, resource_ids[instance.provider.provider_id], failover.is_alone)
                    begun = False
                    try:
                        with closing(cast(Generator[T], asked)) as items:
                            for item in items:
                                if not begun:
                                    begun = True
                                    self._answered(instance)
                                yield item
                        return
                    except ProviderError as error:
                        self._failed(instance, error)
                        if begun:
                            raise
                        pause = failover.pause_after(instance, error)
            except NoPlace as busy:
                raise failover.fault(busy) from None

    def call(self, model: str, resource_ids: Mapping[str, str], ask: Ask[T]) -> T:
        """As `stream`, for an answer that comes in one piece."""

        def once(provider: InferenceProvider, resource_id: str, may_retry: bool) -> Iterator[T]:
            yield ask(provider, resource_id, may_retry)

        with closing(cast(Generator[T], self.stream(model, resource_ids, once))) as items:
            return next(items)

    def listed(self, provider_id: str, *, answered: bool) -> None:
        """An instance was asked for its models. One that did not answer is passed over while another is well."""
        instance = self._instances[provider_id]
        recovered = answered and not instance.is_listed
        instance.is_listed = answered
        if recovered:
            self._places.look_again()

    def fault(self, provider_id: str) -> str | None:
        """Why an instance is set aside now, or None."""
        circuit = self._instances[provider_id].circuit
        return circuit.fault if circuit.is_open(self._clock()) else None

    def watch(self, watcher: Watcher) -> None:
        """Have `watcher` called whenever `fault` says something else of an instance."""
        self._watchers.append(watcher)

    def _answered(self, instance: Instance) -> None:
        if instance.circuit.fault:
            logger.info("provider '%s' answers again", instance.provider.provider_id)
            instance.circuit.passed()
            self._tell(instance)
            self._places.look_again()

    def _failed(self, instance: Instance, error: ProviderError) -> None:
        if judge(error) is not Verdict.ASIDE:
            return
        now = self._clock()
        is_new = not instance.circuit.is_open(now)
        instance.circuit.failed(now, error.message, retry_after=error.retry_after)
        if is_new:
            logger.warning("set aside for a while: %s", error)
            self._tell(instance, is_gone=error.code == "provider_unreachable")
            gevent.spawn(self._tell_of_the_end, instance)

    def _tell_of_the_end(self, instance: Instance) -> None:
        while pause := instance.circuit.due_in(self._clock()):
            gevent.sleep(pause)
        self._tell(instance)

    def _tell(self, instance: Instance, *, is_gone: bool = False) -> None:
        for watcher in self._watchers:
            watcher(instance.provider.provider_id, is_gone)
