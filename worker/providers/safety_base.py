"""What all shields share: their listing, a time limit for each look, and the words of their errors."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import gevent

from shared.errors import ProviderError
from shared.runconfig.model import Name, Seconds, Section
from worker.providers.safety import Json, SafetyProvider, Shield, Violation

# What the user reads where the operator has not said it otherwise.
STANDARD_MESSAGE = "I'm sorry, but I can't help with that. Is there something else that I can do for you?"


class ShieldEntry(Section):
    """A shield in the config of its provider."""

    shield_id: Name


E = TypeVar("E", bound=ShieldEntry)
T = TypeVar("T")


def not_empty(items: tuple[T, ...]) -> tuple[T, ...]:
    """`items`, or ValueError where there are none. (A minimal length would also be missed where an item is wrong.)"""
    if not items:
        raise ValueError("needs at least one.")
    return items


def each_once(shields: tuple[E, ...]) -> tuple[E, ...]:
    """`shields`, or ValueError where two have the same name."""
    names = [shield.shield_id for shield in shields]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise ValueError(f"each shield_id once; {', '.join(doubled)} is there more than once.")
    return shields


class ShieldsConfig(Section):
    """What every provider of shields takes. `timeout_s` is how long one look may last, whatever happens in it."""

    timeout_s: Seconds = 10


class LimitedSafety(SafetyProvider):
    """A provider whose shields answer in time or not at all.

    Implementations supply `_look`, which may wait but not block (it runs in a greenlet), and `register_shield`.
    """

    def __init__(self, *, provider_id: str, shields: Sequence[Shield], timeout_s: float) -> None:
        self.provider_id = provider_id
        self._shields = tuple(shields)
        self._timeout_s = timeout_s

    def list_shields(self) -> list[Shield]:
        return list(self._shields)

    def run_shield(self, shield: Shield, messages: Sequence[Json]) -> Violation | None:
        with self._in_time(shield):
            return self._look(shield, messages)

    @contextmanager
    def _in_time(self, shield: Shield) -> Iterator[None]:
        """Raises ProviderError `shield_timeout` in the block once the time is up, wherever it waits."""
        limit = gevent.Timeout(self._timeout_s)
        limit.start()
        try:
            yield
        except gevent.Timeout as expired:
            if expired is not limit:
                raise
            raise self._too_slow(shield) from None
        finally:
            limit.close()

    @abstractmethod
    def _look(self, shield: Shield, messages: Sequence[Json]) -> Violation | None:
        """`run_shield` without its time limit."""

    def _too_slow(self, shield: Shield) -> ProviderError:
        problem = f"had no verdict of the shield '{shield.identifier}' within {self._timeout_s:g} s (`timeout_s`)."
        return self._error("shield_timeout", problem, retryable=True)

    def _unsupported(self, problem: str) -> ProviderError:
        return self._error("unsupported_parameter", problem)

    def _error(self, code: str, problem: str, **facts: Any) -> ProviderError:
        """`problem` continues the sentence that begins with the provider's name."""
        message = f"Provider '{self.provider_id}' {problem}"
        return ProviderError(message, provider_id=self.provider_id, code=code, **facts)
