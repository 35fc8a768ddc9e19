"""What a stack has to have for itself: its data folder and its port."""

import fcntl
import os
import socket
import time
from pathlib import Path
from types import TracebackType

from shared.cli.store import make_private
from shared.errors import ConfigError

# A supervisor that was killed leaves a watchdog, which holds the folder until all has ended: at most two rounds
# of asking and killing, three seconds each.
WATCHDOG_S = 20.0
POLL_S = 0.1


class DataFolder:
    """The folder of one stack's data, locked for as long as anything of the stack runs.

    Two locks: `supervisor` is held by the supervisor alone and says that it lives; `lock`, whose descriptor
    is `fd`, lasts until the last process that inherited it has ended.
    """

    def __init__(self, path: Path, *, port: int) -> None:
        self.path = path.resolve()
        self.fd = -1
        self._port = port
        self._supervisor_fd = -1

    def __enter__(self) -> "DataFolder":
        """Take the folder. Raises ConfigError where another stack has it."""
        make_private(self.path)
        self._supervisor_fd = _open(self.path / "supervisor")
        self.fd = _open(self.path / "lock")
        try:
            self._take()
        except ConfigError:
            self._close()
            raise
        os.ftruncate(self._supervisor_fd, 0)
        os.pwrite(self._supervisor_fd, str(os.getpid()).encode(), 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _take(self) -> None:
        if not _try_lock(self._supervisor_fd):
            pid = os.pread(self._supervisor_fd, 32, 0).decode(errors="replace")
            raise ConfigError(
                f"The data folder {self.path} is in use by another 'turnstone dev' (pid {pid}). Stop that one "
                f"with: kill {pid}. Or start a second stack beside it: make run PORT={self._port + 1}"
            )
        deadline = time.monotonic() + WATCHDOG_S
        while not _try_lock(self.fd):
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"Processes of an earlier stack still use the data folder {self.path}. "
                    f"See which: lsof {self.path / 'lock'}"
                )
            time.sleep(POLL_S)

    def _close(self) -> None:
        os.close(self._supervisor_fd)
        os.close(self.fd)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
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
