"""`turnstone dev`: the whole stack in one terminal, for development."""

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from shared.cli.binaries import find_binary
from shared.cli.claims import DataFolder, check_port
from shared.cli.console import Console
from shared.cli.health import HealthWatch, base_url, get
from shared.cli.stack import room_children, store_child
from shared.cli.store import LocalStore, describe_server
from shared.cli.supervisor import Supervisor
from shared.errors import ConfigError
from shared.settings import Settings, kombu_url

STORE_DEATHS = 3
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, kw_only=True, slots=True)
class DevOptions:
    """`data_dir` None stands for `.turnstone/<PORT>`. `with_parent`: stop when the starting process ends."""

    data_dir: Path | None = None
    with_parent: bool = False


def run_dev(settings: Settings, options: DevOptions) -> int:
    """Run the stack until it is asked to stop; the exit code. Raises ConfigError where it cannot start."""
    console = Console(sys.stdout)
    data_dir = options.data_dir or Path(".turnstone") / str(settings.port)
    with DataFolder(data_dir, port=settings.port) as folder:
        check_port(settings.host, settings.port)
        store = None if settings.redis_url else LocalStore(binary=find_binary(), data_dir=folder.path)
        found = str(store) if store is not None else describe_server(settings.redis_url)
        console.say(_findings(settings, found=found, data_dir=folder.path))
        _supervise(_with_store(settings, store), store, folder, console, _orphaned(options))
    return 0


def _with_store(settings: Settings, store: LocalStore | None) -> Settings:
    if store is None:
        return settings
    broker_url = settings.broker_url or kombu_url(store.url)
    return replace(settings, redis_url=store.url, broker_url=broker_url)


def _supervise(
    settings: Settings,
    store: LocalStore | None,
    folder: DataFolder,
    console: Console,
    orphaned: Callable[[], bool],
) -> None:
    supervisor = Supervisor(console=console, held=(folder.fd,))
    for number in STOP_SIGNALS:
        signal.signal(number, lambda *_: supervisor.request_stop())
    try:
        if store is not None and not _start_store(supervisor, store):
            return
        for child in room_children(settings, environ=os.environ):
            supervisor.start(child)
        with _health_watch(settings, console):
            supervisor.run_until(orphaned)
    finally:
        console.say("stopping: api, workers, store (Ctrl-C again kills them)")
        supervisor.stop()
        console.say("stopped")


def _start_store(supervisor: Supervisor, store: LocalStore) -> bool:
    """Whether the store answers; False where a stop was requested before. Raises ConfigError if it cannot."""
    store.prepare()
    supervisor.start(store_child(store, environ=os.environ))
    supervisor.run_until(lambda: store.answers() or supervisor.deaths("store") >= STORE_DEATHS)
    if supervisor.deaths("store") >= STORE_DEATHS:
        raise ConfigError(
            f"The store does not start; its own words are above. Its data are in {store.data_dir}. "
            "Move that folder away to begin with an empty one."
        )
    return not supervisor.stop_requested


def _orphaned(options: DevOptions) -> Callable[[], bool]:
    """Whether the process that started this one has ended, if that is to matter."""
    parent = os.getppid()
    return lambda: options.with_parent and os.getppid() != parent


def _findings(settings: Settings, *, found: str, data_dir: Path) -> str:
    config = settings.config_path or "none (no turnstone.yaml here; the scripted model and what the keys allow)"
    return f"config: {config}\nstore:  {found}\ndata:   {data_dir}"


def _health_watch(settings: Settings, console: Console) -> HealthWatch:
    return HealthWatch(
        settings,
        on_healthy=lambda: _welcome(settings, console),
        on_waiting=lambda answer: console.say(f"still waiting for {base_url(settings)}/v1/health: {answer}"),
    )


def _welcome(settings: Settings, console: Console) -> None:
    url = base_url(settings)
    console.say(f"ready: {url}  (its documentation: {url}/openapi/)")
    console.say("try, in another terminal:")
    console.raw(try_this(url, model=_a_model(settings)))


def _a_model(settings: Settings) -> str:
    """A model that is served, for the commands to try."""
    status, body = get(settings, "/v1/models")
    models = body.get("data") if status == 200 and isinstance(body, dict) else None
    return str(models[0].get("identifier", "scripted")) if models else "scripted"


def try_this(url: str, *, model: str) -> str:
    """Shell commands that take a new user from nothing to a streamed turn."""
    return f"""
  api={url}/v1
  post() {{ curl -sN -H 'Content-Type: application/json' "$api/$1" -d "$2"; }}
  field() {{ python3 -c "import json,sys; print(json.load(sys.stdin)['$1'])"; }}
  agent=$(post agents '{{"agent_config": {{"model": "{model}", "instructions": "Be brief."}}}}' | field agent_id)
  session=$(post agents/$agent/session '{{"session_name": "first"}}' | field session_id)
  turn='{{"messages": [{{"role": "user", "content": "Hello"}}], "stream": true}}'
  post agents/$agent/session/$session/turn "$turn"
"""
