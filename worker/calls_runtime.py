"""Everything that a calls worker holds: it answers calls for which a client waits, and runs no turns."""

import logging
from functools import partial

import gevent
from celery import Celery
from kombu.exceptions import OperationalError

from shared.files import FileLimits, RedisFiles
from shared.hints import CALL
from shared.ids import DEFAULT_TENANT
from shared.log.keys import Keys
from shared.queues import CALLS_QUEUE
from shared.redis_client import connect
from shared.registrations import RegistrationStore
from shared.registry import RegistryStore
from shared.runconfig import RunConfig
from shared.settings import Settings
from worker.calls import CallServer
from worker.drain import Drain
from worker.fleet import build_fleet
from worker.operations import Operations
from worker.refresh import ToolRefresher
from worker.registrar import Registrar
from worker.vital import spawn_vital
from worker.watching import build_observer

_FAREWELL_S = 0.5

logger = logging.getLogger(__name__)


class CallsRuntime:
    """One per process. `start` before the first call, `run` per call, `begin_drain` at the end.

    Raises ConfigError for providers that cannot be built. It lists what providers serve for itself, and neither
    publishes it nor gives signs of life: turns wait for turn workers.
    """

    def __init__(self, *, settings: Settings, config: RunConfig, app: Celery) -> None:
        self.drain = Drain(grace_s=settings.drain_s)
        self._app = app
        client, keys = connect(settings.redis_url), Keys(settings.key_prefix)
        registrations = RegistrationStore(client=client, keys=keys)
        files = RedisFiles(client=client, keys=keys, limits=FileLimits.of(config.limits))
        self._fleet = build_fleet(config, registrations, observer=build_observer(settings), files=files)
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

    def start(self) -> None:
        spawn_vital("registrar", self._registrar.run)
        spawn_vital("beat", self._server.beat)
        spawn_vital("tools", self._refresher.run)

    def run(self, call_id: str) -> None:
        """Look at a call: answer it if it still waits for somebody, else forget the hint."""
        if self.drain.on:
            self.drain.give_back(partial(self._hint, call_id))
        else:
            self._server.run(call_id)

    def begin_drain(self) -> None:
        """Take no calls any more, answer those at work as far as the grace allows, and end the process."""
        self.drain.begin(self._leave)

    def _leave(self) -> None:
        self._server.drain(self.drain.grace_s)
        self.drain.settle()
        with gevent.Timeout(_FAREWELL_S, False):
            self._fleet.close()

    def _hint(self, call_id: str) -> None:
        try:
            self._app.send_task(CALL, args=(call_id,), queue=CALLS_QUEUE, retry=False)
        except (OperationalError, OSError) as error:
            logger.warning("a call is lost to the broker, and its client will ask again: %s", error)
