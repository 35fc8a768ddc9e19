"""gunicorn's settings: `gunicorn -c python:api.gunicorn_conf api.wsgi:app`."""

import os
import subprocess
import sys
from typing import Any

from api import metrics_files
from api.exposure import OPEN_TO_ALL, is_loopback
from shared import logs
from shared.errors import ConfigError
from shared.runconfig import load_front
from shared.settings import LogSettings, Settings

try:
    _settings = Settings.from_env()
    _log = LogSettings.from_env()
    # Read here for its errors alone: said once and in one sentence, before any process is started.
    _front = load_front(_settings.config_path, os.environ)
except ConfigError as error:
    sys.stderr.write(f"turnstone api: {error.message}\n")
    sys.exit(os.EX_CONFIG)
if _front.durability != "none":
    _checked = subprocess.run([sys.executable, "-m", "api.store_check"], check=False)
    if _checked.returncode == os.EX_CONFIG:
        sys.exit(os.EX_CONFIG)

_host = f"[{_settings.host}]" if ":" in _settings.host else _settings.host

bind = f"{_host}:{_settings.port}"
workers = _settings.api_processes
worker_class = "api.gunicorn_worker.ApiWorker"
worker_connections = 10_000  # a tail holds one for as long as it lasts
preload_app = False  # the gevent worker patches the standard library first, each process for itself
timeout = 60
graceful_timeout = 2  # tails end by themselves within it; the supervisor waits little longer
keepalive = 75  # longer than the idle time of usual load balancers, so that they are the ones to close
limit_request_line = 8190
control_socket_disable = True  # it would lie in the home folder, one for all stacks
logger_class = "api.gunicorn_log.ErrorLog"
errorlog = "-"
loglevel = _settings.log_level.lower()
logconfig_dict = logs.as_dict(_log)
logs.configure(_log)


def on_starting(server: Any) -> None:
    """Say loudly where everybody may use the service, and make room for what its processes count."""
    metrics_files.make()
    if not _front.api_keys and not is_loopback(_settings.host):
        server.log.critical(OPEN_TO_ALL, _settings.host)


def child_exit(server: Any, worker: Any) -> None:
    """A process has ended, however."""
    metrics_files.forget(worker.pid)


def on_exit(server: Any) -> None:
    metrics_files.remove()
