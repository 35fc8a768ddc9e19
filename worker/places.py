"""Which instance a request is sent to, and the wait for a place on it."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from gevent.event import Event as Signal

from shared.errors import ProviderError
from worker.circuit import Circuit
from worker.providers.inference import InferenceProvider


class NoPlace(ProviderError):
    """None of the instances had a place free in time."""


@dataclass(slots=True, eq=False)
class Instance:
    """A provider instance as this worker process uses it. `is_listed`: it answered when it was asked for its models."""

    provider: InferenceProvider
    circuit: Circuit = field(default_factory=Circuit)
    in_flight: int = 0
    last_sent: int = 0
    is_listed: bool = True

    @property
    def has_place(self) -> bool:
        limit = self.provider.max_concurrency
        return limit is None or self.in_flight < limit

    def is_healthy(self, now: float) -> bool:
        return self.is_listed and self.circuit.admits(now)


@dataclass(slots=True, eq=False)
class _Request:
    """One that wants a place; `instance` is where it has one, and `tries` whether it tries a half-open circuit."""

    instances: Sequence[Instance]
    granted: Signal = field(default_factory=Signal)
    instance: Instance | None = None
    tries: bool = False


def choose(instances: Sequence[Instance], now: float) -> Instance | None:
    """The healthy one with the fewest in flight; those that are not healthy only where no other is left.

    A full one is passed over. Among equals the one that was sent nothing for longest, then the first. None: all are
    full, so wait.
    """
    usable = [one for one in instances if one.is_healthy(now)]
    free = [one for one in usable or instances if one.has_place]
    if usable:
        return min(free, key=lambda one: (one.in_flight, one.last_sent), default=None)
    return min(free, key=lambda one: (one.circuit.due_in(now), one.in_flight, one.last_sent), default=None)


class Places:
    """Hands out places in the order in which they were asked for. For greenlets of one thread."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waiting: dict[_Request, None] = {}
        self._sent = 0

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @contextmanager
    def taken(self, instances: Sequence[Instance]) -> Iterator[Instance]:
        """A place on one of `instances` for the length of the block.

        Waits for one as long as the most patient of them says; then raises NoPlace.
        """
        request = _Request(instances)
        self._waiting[request] = None
        try:
            self.look_again()
            self._wait(request)
            if request.instance is None:
                raise _busy(instances)
            yield request.instance
        finally:
            # Also after an interrupt that came between the grant and this greenlet's turn to run.
            self._waiting.pop(request, None)
            self._leave(request)

    def look_again(self) -> None:
        """Give places to those who wait: one is free now, or an instance is well again."""
        now = self._clock()
        for request in list(self._waiting):
            chosen = choose(request.instances, now)
            if chosen is not None:
                del self._waiting[request]
                self._enter(request, chosen)

    def _wait(self, request: _Request) -> None:
        deadline = self._clock() + max(one.provider.place_timeout_s for one in request.instances)
        while request.instance is None:
            now = self._clock()
            if now >= deadline:
                return
            # Nothing but the time tells that an instance may be tried again.
            pauses = [one.circuit.due_in(now) for one in request.instances]
            request.granted.wait(min([deadline - now, *(pause for pause in pauses if pause > 0)]))
            if request.instance is None:
                self.look_again()

    def _enter(self, request: _Request, instance: Instance) -> None:
        self._sent += 1
        instance.in_flight += 1
        instance.last_sent = self._sent
        request.instance, request.tries = instance, instance.circuit.entered()
        request.granted.set()

    def _leave(self, request: _Request) -> None:
        if request.instance is not None:
            request.instance.in_flight -= 1
            if request.tries:
                request.instance.circuit.left()
            self.look_again()


def _busy(instances: Sequence[Instance]) -> NoPlace:
    names = " and ".join(f"'{one.provider.provider_id}'" for one in instances)
    wait_s = max(one.provider.place_timeout_s for one in instances)
    several = len(instances) > 1
    return NoPlace(
        f"Provider{'s' if several else ''} {names} had no place free for {wait_s:g} s (`place_timeout_s`): raise "
        "`max_concurrency`, add an instance, or run fewer turns at once.",
        provider_id="" if several else instances[0].provider.provider_id,
        code="provider_busy",
        retryable=True,
    )
