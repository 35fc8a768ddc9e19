"""What a stack has to have for itself: its data folder and its port."""

import fcntl
import os
import socket
import time
from pathlib import Path
from types import TracebackType

from shared.cli.store import make_private
from shared.errors import ConfigError

# A supervisor that was killed leaves a watchdog, which holds the folder until all has ended: at most
# two rounds of asking and killing.
WATCHDOG_S = 15.0
POLL_S = 0.1


class DataFolder:
    """The folder of one stack's data, locked for as long as anything of the stack runs.

    `fd` is the lock: it lasts until every process that inherited it has ended.
    """

    def __init__(self, path: Path, *, port: int) -> None:
        self.path = path.resolve()
        self._port = port
        self.fd = -1

    def __enter__(self) -> "DataFolder":
        """Take the folder. Raises ConfigError where another stack has it."""
        make_private(self.path)
        self.fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._lock()
        except ConfigError:
            os.close(self.fd)
            raise
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, str(os.getpid()).encode(), 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.fd)

    def _lock(self) -> None:
        deadline = time.monotonic() + WATCHDOG_S
        while not self._try_lock():
            holder = self._holder()
            # Held by a living supervisor: no use in waiting.
            if is_running(holder) or time.monotonic() > deadline:
                raise ConfigError(_in_use(self.path, holder, self._port))
            time.sleep(POLL_S)

    def _try_lock(self) -> bool:
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _holder(self) -> int:
        text = os.pread(self.fd, 32, 0).decode(errors="replace")
        return int(text) if text.isdigit() else 0


def is_running(pid: int) -> bool:
    """Whether there is a process of this number."""
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def check_port(host: str, port: int) -> None:
    """Raise ConfigError, with the commands that help, where nothing can listen on `host`:`port`."""
    error = bind_error(host, port)
    if error is not None:
        raise ConfigError(
            f"Port {port} on {host} cannot be used: {error}. "
            f"Start on another one: make run PORT={free_port_after(host, port)}. "
            f"See who holds it: lsof -nP -iTCP:{port} -sTCP:LISTEN"
        )


def bind_error(host: str, port: int) -> str | None:
    """Why nothing can listen there, or None where it can."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As the server will: connections of an earlier run that linger do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return (error.strerror or str(error)).lower()
    return None


def free_port_after(host: str, port: int) -> int:
    """The next higher port that is free, as a suggestion."""
    following = range(port + 1, min(port + 100, 65536))
    return next((other for other in following if bind_error(host, other) is None), 18321)


def _in_use(path: Path, holder: int, port: int) -> str:
    return (
        f"The data folder {path} is in use by another 'turnstone dev' (pid {holder}). "
        f"Stop that one with: kill {holder}. Or start a second stack beside it: make run PORT={port + 1}"
    )
