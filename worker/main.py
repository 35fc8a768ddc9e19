"""Starts a worker: run config, providers, Celery with its gevent pool."""

import os
import sys
import warnings
from functools import partial
from typing import Any

from celery import signals
from celery.platforms import SecurityWarning
from celery.worker.consumer import Consumer

from shared import logs
from shared.errors import ConfigError
from shared.hints import RUN_TURN, TURNS_QUEUE, celery_app
from shared.runconfig import load
from shared.settings import LogSettings, Settings
from worker.hint_request import request_class
from worker.providers.instances import build_inference
from worker.runtime import Runtime

BROKER_RETRY_S = 2


def main() -> None:
    """Run until SIGTERM. Exits with 78 (EX_CONFIG) and one line where the configuration is wrong."""
    try:
        settings = Settings.from_env()
        logs.configure(LogSettings.from_env())
        config = load(settings.config_path, os.environ)
        providers = build_inference(config)
    except ConfigError as error:
        sys.stderr.write(f"turnstone worker: {error}\n")
        sys.exit(os.EX_CONFIG)
    # Celery warns root against pickled messages; ours are JSON only.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    app = celery_app(settings.broker_url)
    app.conf.worker_consumer = _Consumer
    runtime = Runtime(settings=settings, config=config, providers=providers, app=app)
    app.task(name=RUN_TURN, Request=request_class(app))(runtime.run)
    _wire(runtime)
    app.worker_main(_arguments(settings))


class _Consumer(Consumer):  # type: ignore[misc]
    """Celery's, except that it looks for a broker that is away every two seconds, and not ever more rarely."""

    def ensure_connected(self, conn: Any) -> Any:
        conn.ensure_connection = partial(conn.ensure_connection, interval_start=BROKER_RETRY_S, interval_step=0)
        return super().ensure_connected(conn)


def _wire(runtime: Runtime) -> None:
    """Tie the runtime's life to Celery's. Strong references: Celery's signals hold weak ones by default."""
    signals.setup_logging.connect(lambda **_: None, weak=False)  # somebody listens: Celery leaves the logging alone
    signals.worker_ready.connect(lambda **_: runtime.start(), weak=False)
    signals.worker_shutting_down.connect(lambda **_: runtime.drain(), weak=False)


def _arguments(settings: Settings) -> list[str]:
    return [
        "--quiet",
        "worker",
        "--pool=gevent",
        f"--concurrency={settings.concurrency}",
        f"--queues={TURNS_QUEUE}",
        f"--hostname=turns-{os.getpid()}@%h",
        # Nobody reads them, and their queues outlive their workers.
        "--without-gossip",
        "--without-mingle",
        "--without-heartbeat",
    ]
