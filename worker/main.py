"""Starts a worker: run config, providers, Celery with its gevent pool."""

import os
import sys
import warnings
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from celery import Celery, signals
from celery.apps import worker as celery_worker
from celery.platforms import SecurityWarning

from shared import garbage, logs
from shared.errors import ConfigError
from shared.hints import CALL, RUN_TURN, celery_app
from shared.queues import CALLS_QUEUE, MEMORY_QUEUE, TURNS_QUEUE
from shared.runconfig import RunConfig, load
from shared.runconfig.secrets import secret_values
from shared.settings import LogSettings, Settings
from worker.calls_runtime import CallsRuntime
from worker.drain import Drain
from worker.draining_consumer import DrainingConsumer
from worker.hint_strategy import STRATEGY
from worker.runtime import Runtime


def main() -> None:
    """Run until SIGTERM. Exits with 78 (EX_CONFIG) and one line where the configuration is wrong."""
    try:
        settings = Settings.from_env()
        logs.configure(LogSettings.from_env())
        config = load(settings.config_path, os.environ)
        logs.conceal(secret_values([config.model_dump(), settings.redis_url, settings.broker_url]))
        app = celery_app(settings.broker_url, prefix=settings.key_prefix)
        room = ROOMS[settings.queue]
        runtime = room.runtime(settings=settings, config=config, app=app)
    except ConfigError as error:
        sys.stderr.write(f"turnstone worker: {error}\n")
        sys.exit(os.EX_CONFIG)
    # Celery warns root against pickled messages; ours are JSON only.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    app.conf.worker_consumer = partial(DrainingConsumer, drain=runtime.drain)
    # It announces its end on standard output, in a form of its own.
    celery_worker.safe_say = lambda *_: None
    app.task(name=room.task, Strategy=STRATEGY)(runtime.run)
    _wire(runtime)
    garbage.settle()
    app.worker_main(_arguments(settings))


class Room(Protocol):
    """What a worker process does, from its start to its drain."""

    drain: Drain

    def start(self) -> None: ...

    def run(self, hint: str, /) -> None: ...

    def begin_drain(self) -> None: ...


class MakeRoom(Protocol):
    """Makes what a worker process does. Raises ConfigError."""

    def __call__(self, *, settings: Settings, config: RunConfig, app: Celery) -> Room: ...


@dataclass(frozen=True, slots=True)
class Served:
    """What serves a queue: the task that its messages name, and what runs it."""

    task: str
    runtime: MakeRoom


ROOMS = {
    TURNS_QUEUE: Served(RUN_TURN, Runtime),
    CALLS_QUEUE: Served(CALL, CallsRuntime),
    MEMORY_QUEUE: Served(RUN_TURN, Runtime),
}


def _wire(runtime: Room) -> None:
    """Tie the runtime's life to Celery's. Strong references: Celery's signals hold weak ones by default."""
    signals.setup_logging.connect(lambda **_: None, weak=False)  # somebody listens: Celery leaves the logging alone
    signals.worker_ready.connect(lambda **_: runtime.start(), weak=False)
    signals.worker_shutting_down.connect(lambda **_: runtime.begin_drain(), weak=False)


def _arguments(settings: Settings) -> list[str]:
    return [
        "--quiet",
        "worker",
        "--pool=gevent",
        f"--concurrency={settings.concurrency}",
        f"--queues={settings.queue}",
        f"--hostname={settings.queue}-{os.getpid()}@%h",
        # Nobody reads them, and their queues outlive their workers.
        "--without-gossip",
        "--without-mingle",
        "--without-heartbeat",
    ]
