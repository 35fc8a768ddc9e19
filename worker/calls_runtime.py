"""Everything that a calls worker holds: it answers calls for which a client waits, and runs no turns."""

import logging
import os

import gevent
from celery import Celery

from shared.ids import DEFAULT_TENANT
from shared.log.keys import Keys
from shared.redis_client import connect
from shared.registrations import RegistrationStore
from shared.registry import RegistryStore
from shared.runconfig import RunConfig
from shared.settings import Settings
from worker.calls import CallServer
from worker.fleet import build_fleet
from worker.operations import Operations
from worker.refresh import ToolRefresher
from worker.registrar import Registrar
from worker.vital import spawn_vital
from worker.watching import build_observer

_DRAIN_S = 2.5
_FAREWELL_S = 0.5


class CallsRuntime:
    """One per process. `start` before the first call, `run` per call, `drain` at the end.

    Raises ConfigError for providers that cannot be built. It lists what providers serve for itself, and neither
    publishes it nor gives signs of life: turns wait for turn workers.
    """

    def __init__(self, *, settings: Settings, config: RunConfig, app: Celery) -> None:
        client, keys = connect(settings.redis_url), Keys(settings.key_prefix)
        registrations = RegistrationStore(client=client, keys=keys)
        self._fleet = build_fleet(config, registrations, observer=build_observer(settings))
        self._registrar = Registrar(
            sources=self._fleet.sources,
            store=RegistryStore(client=client, keys=keys, digest=config.digest),
            worker=None,
            on_registry=self._fleet.catalog.update,
        )
        self._fleet.router.balancer.watch(self._registrar.look_again)
        tenants = dict.fromkeys((DEFAULT_TENANT, *(key.tenant for key in config.api_keys)))
        self._refresher = ToolRefresher(catalog=self._fleet.catalog, registrations=registrations, tenants=tenants)
        operations = Operations(fleet=self._fleet, registrations=registrations)
        self._server = CallServer(client=client, keys=keys, operations=operations.table())
        self.run = self._server.run

    def start(self) -> None:
        spawn_vital("registrar", self._registrar.run)
        spawn_vital("beat", self._server.beat)
        spawn_vital("tools", self._refresher.run)

    def drain(self) -> None:
        """Take no calls any more, answer those at work as far as time allows, and end the process."""
        gevent.spawn(self._leave)

    def _leave(self) -> None:
        """Not through Celery's own shutdown, which sits out a poll of two seconds; it has nothing to save for us."""
        try:
            self._server.drain(_DRAIN_S)
            with gevent.Timeout(_FAREWELL_S, False):
                self._fleet.close()
        finally:
            logging.shutdown()
            os._exit(0)
