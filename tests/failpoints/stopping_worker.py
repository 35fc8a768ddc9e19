"""A worker for insert jobs that stops itself (SIGSTOP) right before it puts documents into a bank, once for each time
that the point is armed. In place of `python -m worker`. A file `went_on` tells that it has put them since."""

from gevent import monkey

monkey.patch_all()

import os  # noqa: E402
import signal  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from points import FOLDER  # noqa: E402

from worker.main import main  # noqa: E402
from worker.providers.memory_sqlite import SqliteMemory  # noqa: E402

POINT, WENT_ON = "before_the_put", "went_on"


def plant() -> None:
    """Patch the method."""
    put, file = SqliteMemory.put, Path(os.environ[FOLDER]) / POINT

    def patched(self: SqliteMemory, *args: Any, **options: Any) -> None:
        stops = file.exists()
        if stops:
            file.unlink()
            os.kill(os.getpid(), signal.SIGSTOP)
        try:
            put(self, *args, **options)
        finally:
            if stops:
                file.with_name(WENT_ON).touch()

    SqliteMemory.put = patched  # type: ignore[method-assign]


if __name__ == "__main__":
    plant()
    main()
