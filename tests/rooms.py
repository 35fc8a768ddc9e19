"""Single rooms as processes of a test's own: any number of API processes and workers, each to be killed alone.

`turnstone dev` replaces what dies; here nothing happens that the test does not do itself.

    with Rooms(tmp_path, scripted(*RULES, turns={"lease_s": 3})) as rooms:
        api, one, two = rooms.api(), rooms.worker(), rooms.worker()
        rooms.until_healthy()               # the API answers, each worker has been heard of
        httpx.post(f"{api.url}/v1/agents", …)
        one.kill()                          # SIGKILL to this process alone; its children find out by themselves
        two.pause(); two.go_on()            # SIGSTOP, SIGCONT
        two.terminate(); two.wait()         # SIGTERM, the exit code
        rooms.kill_store(); rooms.start_store()     # the same data, the same port
        rooms.store()                       # a redis-py client

`worker`, `calls_worker` and `api` take `launcher` (a command in place of `python -m worker` or of gunicorn's), `cwd`
and `pythonpath` (to run the code of another checkout), and `environ` for one process; `Rooms` takes `environ` for all,
`store_options` for the server, and `redis_url` and `broker_url` for rooms that reach the store by another way (a proxy,
a broker of its own). Both URLs may be set later: processes started from then on have them.

Each process writes into a file of its own in the folder. Where the block fails their ends are shown. With the block
everything ends, also what lost its parent, and so it does where the test's own process is killed.
"""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import redis
from stack_process import clean_environ, free_port, is_alive

from shared.cli.binaries import find_binary
from shared.cli.guard import Guard
from shared.cli.stack import API_COMMAND, WORKER_COMMAND
from shared.log.keys import Keys
from shared.queues import CALLS_QUEUE, QUEUES, TURNS_QUEUE

Json = dict[str, Any]

DEADLINE_S = 60.0
_TAIL = 3000  # characters of each log that are shown


@dataclass(kw_only=True)
class Room:
    """One started process, the leader of a session of its own. `port` is where an API or a store listens."""

    name: str
    kind: str
    process: "subprocess.Popen[bytes]"
    log: Path
    port: int = 0
    _children: dict[int, psutil.Process] = field(default_factory=dict)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def worker_name(self) -> str:
        """What a worker is called in the store: in the hash of a turn that it owns, and among the workers."""
        return f"{os.uname().nodename}:{self.pid}"

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def children(self) -> list[psutil.Process]:
        """The processes below it that run now; they are ended with the block even where they outlive it."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.pid).children(recursive=True):
                self._children[child.pid] = child
        return [child for child in self._children.values() if is_alive(child)]

    def heartbeat(self) -> psutil.Process | None:
        """The child that renews a worker's leases; None where there is none just now."""
        for child in self.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if "worker.heartbeat_process" in child.cmdline():
                    return child
        return None

    def kill(self) -> None:
        """SIGKILL to the process alone, and bury it."""
        self.children()
        self.process.kill()
        self.process.wait()

    def kill_all(self) -> None:
        """SIGKILL to the process and everything below it, and bury it: how one kills a gunicorn with its processes."""
        children = self.children()
        self.process.kill()
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()  # psutil makes sure that the number is still the child's
        self.process.wait()

    def pause(self) -> None:
        """SIGSTOP to the process alone."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)

    def terminate(self) -> None:
        """SIGTERM to the process alone."""
        self.children()
        self.process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float = DEADLINE_S) -> int:
        """The exit code, once it has ended."""
        return self.process.wait(seconds)

    def written(self) -> str:
        return self.log.read_text(errors="replace")


class Rooms:
    """Rooms and a store for them, with `folder` for everything that they write. See the module."""

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any] | None = None,
        *,
        store_options: Sequence[str] = (),
        redis_url: str | None = None,
        broker_url: str | None = None,
        environ: Mapping[str, str] | None = None,
        key_prefix: str = "ts",
    ) -> None:
        self.folder = folder
        self.store_port = free_port()
        self.store_url = f"redis://127.0.0.1:{self.store_port}/0"
        self.redis_url = redis_url or self.store_url
        self.broker_url = broker_url
        self.key_prefix = key_prefix
        self.config_path = folder / "turnstone.yaml"
        self.rooms: list[Room] = []
        self._config = config
        self._store_options = tuple(store_options)
        self._environ = dict(environ or {})
        self._store: Room | None = None
        self._guard: Guard | None = None

    def __enter__(self) -> Self:
        for part in (self.folder, self.folder / "data", self.folder / "tmp"):
            part.mkdir(parents=True, exist_ok=True)
        if self._config is not None:
            self.config_path.write_text(json.dumps(self._config))  # JSON is YAML
        self._guard = Guard(on_exit=lambda _: None)
        try:
            self.start_store()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if kind is not None and kind is not KeyboardInterrupt:
            sys.stderr.write(self.logs())

    def close(self) -> None:
        """End everything that was started, the store last."""
        for room in sorted(self.rooms, key=lambda room: room.kind == "store"):
            with contextlib.suppress(ProcessLookupError):
                room.go_on()
            if room.alive or room.children():
                room.kill_all()
            if room.process.stdin is not None:
                room.process.stdin.close()
            if self._guard is not None:
                self._guard.remove(room.pid)
        if self._guard is not None:
            self._guard.close()
            self._guard = None

    def worker(self, name: str | None = None, *, queue: str = TURNS_QUEUE, **options: Any) -> Room:
        """Start a worker for turns. `options`: launcher, cwd, pythonpath, environ."""
        name = name or f"worker-{self._count('worker') + 1}"
        return self._room(name, "worker", WORKER_COMMAND, {"TURNSTONE_QUEUE": queue}, **options)

    def calls_worker(self, name: str | None = None, **options: Any) -> Room:
        """Start a worker for calls, for which clients wait (registering, direct inference)."""
        return self.worker(name or f"calls-{self._count('worker') + 1}", queue=CALLS_QUEUE, **options)

    def api(self, name: str | None = None, *, processes: int = 1, port: int | None = None, **options: Any) -> Room:
        """Start a gunicorn with so many processes, on a port of its own or on `port` (which it may have had before)."""
        port = port or free_port()
        role = {"TURNSTONE_PORT": str(port), "TURNSTONE_API_PROCESSES": str(processes)}
        room = self._room(name or f"api-{self._count('api') + 1}", "api", API_COMMAND, role, **options)
        room.port = port
        return room

    def helper(self, name: str, arguments: Sequence[str]) -> Room:
        """Start a Python script of the test's own (a fake, a proxy); its standard input is a pipe."""
        return self._start(name, "helper", [sys.executable, *arguments], os.environ, self.folder, stdin=subprocess.PIPE)

    def start_store(self) -> Room:
        """Start the store on the folder's data, and return when it answers."""
        options = ["--port", str(self.store_port), "--bind", "127.0.0.1", "--dir", str(self.folder / "data")]
        options += ["--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--daemonize", "no"]
        options += ["--maxmemory-policy", "noeviction", "--loglevel", "warning"]
        command = [str(find_binary().path), *options, *self._store_options]
        # In a locale that is not installed it would refuse to start.
        self._store = self._start("store", "store", command, {**os.environ, "LC_ALL": "C"}, self.folder)
        self._store.port = self.store_port
        self.until(self._store_answers, "the store answers")
        return self._store

    def kill_store(self) -> None:
        """SIGKILL the store."""
        if self._store is not None:
            self._store.kill()

    @property
    def store_room(self) -> Room:
        """The store's process."""
        assert self._store is not None, "the store has not been started"
        return self._store

    def store(self) -> "redis.Redis":
        """A client of the store itself, past any proxy; use it as a context manager."""
        return redis.Redis.from_url(self.store_url, socket_timeout=5)

    def until_healthy(self, *rooms: Room, seconds: float = DEADLINE_S) -> None:
        """Return once these rooms (default: all that run) serve: an API says that it is healthy, and a worker has
        given a sign of life."""
        chosen = rooms or tuple(room for room in self.rooms if room.alive)
        for room in chosen:
            self.until(lambda room=room: self._serves(room), f"{room.name} serves", seconds=seconds)  # type: ignore[misc]

    def is_known(self, worker: Room) -> bool:
        """Whether the worker has given a sign of life."""
        try:
            with self.store() as client:
                return any(
                    client.zscore(key, worker.worker_name) is not None
                    for key in map(Keys(self.key_prefix).workers, QUEUES)
                )
        except redis.RedisError:
            return False

    def until(self, condition: Callable[[], bool], what: str, *, seconds: float = DEADLINE_S) -> None:
        """Return once `condition` holds. Raises TimeoutError, which names `what`."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {seconds:.0f} s in vain until {what}")
            time.sleep(0.05)

    def logs(self) -> str:
        """The ends of all logs that have something in them."""
        files = sorted(self.folder.glob("*.log"))
        return "".join(
            f"--- {file.name}\n{text[-_TAIL:]}\n" for file in files if (text := file.read_text(errors="replace"))
        )

    def _serves(self, room: Room) -> bool:
        if not room.alive:
            raise RuntimeError(f"{room.name} ended with {room.process.returncode}:\n{room.written()[-_TAIL:]}")
        if room.kind == "worker":
            return self.is_known(room)
        return room.kind != "api" or is_healthy(room.port)

    def _room(
        self,
        name: str,
        kind: str,
        command: Sequence[str],
        role: Mapping[str, str],
        *,
        launcher: Sequence[str] | None = None,
        cwd: Path | None = None,
        pythonpath: str | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Room:
        env = clean_environ({
            "TURNSTONE_REDIS_URL": self.redis_url,
            "TURNSTONE_BROKER_URL": self.broker_url or self.redis_url,
            "TURNSTONE_CONFIG": str(self.config_path) if self.config_path.exists() else "",
            "TURNSTONE_KEY_PREFIX": self.key_prefix,
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(self.folder / "tmp"),
            **({"PYTHONPATH": pythonpath} if pythonpath else {}),
            **self._environ,
            **role,
            **(environ or {}),
        })  # fmt: skip
        return self._start(name, kind, launcher or command, env, cwd or self.folder)

    def _start(
        self,
        name: str,
        kind: str,
        command: Sequence[str],
        environ: Mapping[str, str],
        cwd: Path,
        *,
        stdin: int = subprocess.DEVNULL,
    ) -> Room:
        log = self.folder / f"{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                list(command),
                env=dict(environ),
                cwd=cwd,
                stdin=stdin,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        room = Room(name=name, kind=kind, process=process, log=log)
        self.rooms.append(room)
        if self._guard is not None:
            self._guard.add(process.pid, last=kind == "store")
        return room

    def _count(self, kind: str) -> int:
        return sum(room.kind == kind for room in self.rooms)

    def _store_answers(self) -> bool:
        if not self.store_room.alive:
            raise RuntimeError(f"the store ended:\n{self.store_room.written()[-_TAIL:]}")
        try:
            with self.store() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


def is_healthy(port: int) -> bool:
    """Whether the API on `port` answers, with its store and a worker there."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/v1/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
