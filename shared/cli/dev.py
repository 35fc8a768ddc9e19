"""`turnstone dev`: the whole stack in one terminal, for development."""

import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from shared.cli.binaries import find_binary
from shared.cli.claims import DataFolder, check_port
from shared.cli.console import Console
from shared.cli.health import HealthWatch, base_url
from shared.cli.stack import room_children, store_child
from shared.cli.store import LocalStore, connect, describe_server
from shared.cli.supervisor import Supervisor
from shared.cli.welcome import a_model, findings, try_this
from shared.errors import ConfigError, StoreError
from shared.log.durability import StoreCheck
from shared.runconfig import MEMORY_PATH, Durability, load
from shared.settings import Settings, kombu_url

STORE_DEATHS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class DevOptions:
    """`data_dir` None stands for `.turnstone/<PORT>`. `with_parent`: stop when the starting process ends."""

    data_dir: Path | None = None
    with_parent: bool = False


def run_dev(settings: Settings, options: DevOptions) -> int:
    """Run the stack until it is asked to stop; the exit code. Raises ConfigError where it cannot start."""
    orphaned = _orphaned() if options.with_parent else lambda: False
    console = Console(sys.stdout)
    config = load(settings.config_path, os.environ)
    data_dir = options.data_dir or Path(".turnstone") / str(settings.port)
    with DataFolder(data_dir, port=settings.port) as folder:
        check_port(settings.host, settings.port)
        store = None if settings.redis_url else _own_store(folder.path, config.durability)
        found = _checked(settings.redis_url, config.durability) if store is None else str(store)
        console.say(findings(settings, config, store=found, data_dir=folder.path))
        supervisor = Supervisor(console=console, held=(folder.fd,))
        _stop_on_signals(supervisor)
        key = config.api_keys[0].key.get_secret_value() if config.api_keys else None
        DevStack(
            settings=settings,
            store=store,
            supervisor=supervisor,
            console=console,
            api_key=key,
            environ={MEMORY_PATH: str(folder.path / "memory.sqlite3"), **os.environ},
            memory=bool(config.providers.memory),
        ).run(orphaned)
    return 0


def _own_store(data_dir: Path, durability: Durability) -> LocalStore:
    if durability == "replicated":
        raise ConfigError(
            "durability: replicated needs a store with replicas, and the one that 'turnstone dev' starts has none. Set"
            " TURNSTONE_REDIS_URL to a primary with replicas, or choose durability: fsync."
        )
    return LocalStore(binary=find_binary(), data_dir=data_dir, fsync=durability == "fsync")


def _checked(url: str, durability: Durability) -> str:
    """Name and version of the running server at `url`, once it has been found fit."""
    name = describe_server(url)
    try:
        with connect(url) as client:
            StoreCheck(client=client, durability=durability).require()
    except StoreError as error:
        raise ConfigError(error.message) from error
    return name


class DevStack:
    """The stack under a supervisor, from the first process started to the last one ended.

    `api_key` is one that its API takes, or None where it wants none; `environ` is what its processes inherit; `memory`:
    documents can be inserted.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        store: LocalStore | None,
        supervisor: Supervisor,
        console: Console,
        api_key: str | None,
        environ: Mapping[str, str],
        memory: bool,
    ) -> None:
        self._settings = settings if store is None else settings_for(settings, store)
        self._store = store
        self._supervisor = supervisor
        self._console = console
        self._api_key = api_key
        self._environ = environ
        self._memory = memory

    def run(self, orphaned: Callable[[], bool]) -> None:
        """Return, with nothing left running, when a stop was requested or `orphaned` holds.

        Raises ConfigError where the store does not start.
        """
        try:
            if self._store is None or self._start_store(self._store):
                self._run_rooms(orphaned)
        finally:
            self._console.say("stopping: api, workers, store (Ctrl-C again kills them)")
            self._supervisor.stop()
            self._console.say("stopped")

    def _start_store(self, store: LocalStore) -> bool:
        """Whether the store answers; False where a stop was requested before it did."""
        store.prepare()
        self._supervisor.start(store_child(store, environ=os.environ))
        self._supervisor.run_until(lambda: store.answers() or self._store_keeps_dying())
        if self._store_keeps_dying():
            raise ConfigError(
                f"The store does not start; its own words are above. Its data are in {store.data_dir}. "
                "Move that folder away to begin with an empty one."
            )
        return not self._supervisor.stop_requested

    def _store_keeps_dying(self) -> bool:
        return self._supervisor.deaths("store") >= STORE_DEATHS

    def _run_rooms(self, orphaned: Callable[[], bool]) -> None:
        for child in room_children(self._settings, environ=self._environ, memory=self._memory):
            self._supervisor.start(child)
        with HealthWatch(self._settings, on_healthy=self._welcome, on_waiting=self._still_waiting):
            self._supervisor.run_until(orphaned)

    def _welcome(self) -> None:
        url = base_url(self._settings)
        self._console.say(f"ready: {url}  (its documentation: {url}/openapi/)")
        self._console.say("try, in another terminal:")
        model = a_model(self._settings, api_key=self._api_key)
        self._console.raw(try_this(self._settings, model=model, locked=self._api_key is not None))

    def _still_waiting(self, answer: str) -> None:
        self._console.say(f"still waiting for {base_url(self._settings)}/v1/health: {answer}")


def settings_for(settings: Settings, store: LocalStore) -> Settings:
    """`settings` with the store that was started, which is the broker too unless another one is given."""
    return replace(settings, redis_url=store.url, broker_url=settings.broker_url or kombu_url(store.url))


def _stop_on_signals(supervisor: Supervisor) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: supervisor.request_stop())
    # nohup's wish is that the end of the terminal should not matter.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: supervisor.request_stop())


def _orphaned() -> Callable[[], bool]:
    """A condition: the process that started this one has ended."""
    parent = os.getppid()
    return lambda: os.getppid() != parent
