"""Runs shields: those of a touch point at once, each by the provider that has it."""

import logging
from collections.abc import Callable, Sequence
from contextvars import copy_context
from dataclasses import dataclass

import gevent

from shared.errors import ProviderError
from shared.events import Json
from worker.providers.safety import SafetyProvider, Shield

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServedShield:
    """A shield and the instance that runs it."""

    provider: SafetyProvider
    shield: Shield


class Shields:
    """Runs shields. `find` gives the one that a tenant knows by a name, or raises ProviderError."""

    def __init__(self, *, find: Callable[[str, str], ServedShield]) -> None:
        self._find = find

    def run(
        self, identifiers: Sequence[str], messages: Sequence[Json], *, tenant: str, on_error: str = "block"
    ) -> Json | None:
        """The first objection in the order of `identifiers`, as Llama Stack's `SafetyViolation`, or None.

        A shield that fails blocks (raises its ProviderError), or with `on_error: allow` lets pass.
        """
        # In this greenlet's context: what a shield logs is of the turn too.
        looks = [gevent.spawn(copy_context().run, self._look, tenant, one, messages) for one in identifiers]
        try:
            gevent.joinall(looks)
        finally:
            gevent.killall(looks)
        outcomes = [look.get() for look in looks]
        for outcome in outcomes:
            if isinstance(outcome, dict):
                return outcome
        failed = next((outcome for outcome in outcomes if isinstance(outcome, ProviderError)), None)
        if failed is not None and on_error == "block":
            raise failed
        return None

    def _look(self, tenant: str, identifier: str, messages: Sequence[Json]) -> Json | ProviderError | None:
        try:
            served = self._find(tenant, identifier)
            violation = served.provider.run_shield(served.shield, messages)
        except ProviderError as error:
            logger.warning("shield %s failed: %s", identifier, error)
            return error
        return None if violation is None else violation.as_json()
