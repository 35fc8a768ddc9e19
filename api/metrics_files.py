"""The folder in which the API's processes keep their numbers, so that whichever is asked can add them up.

For gunicorn's parent process: imports nothing that gevent would have to patch first.
"""

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO

_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"  # the library's own, read by it in each process
_PREFIX = "turnstone-metrics-"
_LOCK = "lock"
_held: list[IO[bytes]] = []


def make() -> None:
    """A new folder, before the first process is started. Those that killed servers left behind go."""
    for old in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_LOCK}"):
        with suppress(OSError), old.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(old.parent)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    os.environ[_VARIABLE] = str(folder)
    # Held by this process and those that it starts, until the last of them has ended.
    made = (folder / "new").open("wb")
    fcntl.flock(made, fcntl.LOCK_EX)
    _held.append(made)
    (folder / "new").rename(folder / _LOCK)


def is_made() -> bool:
    """Whether this process is one of several that add up."""
    return _VARIABLE in os.environ


def filled() -> list[str]:
    """The files that hold numbers. One that a process has only just begun is empty, and the library trips over it."""
    files = []
    for file in Path(os.environ[_VARIABLE]).glob("*.db"):
        with suppress(FileNotFoundError):
            if file.stat().st_size:
                files.append(str(file))
    return files


def forget(pid: int) -> None:
    """What a process that has ended was doing is over; what it has counted stays."""
    if is_made():
        from prometheus_client import multiprocess

        multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]


def remove() -> None:
    """The last process has ended."""
    if is_made():
        shutil.rmtree(os.environ.pop(_VARIABLE), ignore_errors=True)
