"""The folder in which the API's processes keep their numbers, so that whichever is asked can add them up.

For gunicorn's parent process: imports nothing that gevent would have to patch first.
"""

import os
import shutil
import tempfile

_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"  # the library's own, read by it in each process


def make() -> None:
    """A new folder, before the first process is started."""
    os.environ[_VARIABLE] = tempfile.mkdtemp(prefix="turnstone-metrics-")


def is_made() -> bool:
    """Whether this process is one of several that add up."""
    return _VARIABLE in os.environ


def forget(pid: int) -> None:
    """What a process that has ended was doing is over; what it has counted stays."""
    if is_made():
        from prometheus_client import multiprocess

        multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]


def remove() -> None:
    """The last process has ended."""
    if is_made():
        shutil.rmtree(os.environ.pop(_VARIABLE), ignore_errors=True)
