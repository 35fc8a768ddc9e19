"""What a child process that works for a worker gives up, and how it ends with it. Only Linux has all of it."""

import ctypes
import os
import resource
import signal
import sys
from contextlib import suppress

_NICENESS = 5  # turns come first
_PR_SET_PDEATHSIG = 1


def confine(*, max_memory_bytes: int, parent: int) -> None:
    """Give up what the work does not need. `max_memory_bytes` is the address space; `parent` a process id."""
    # The parent's signals reach its whole process group; this process ends with its input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (max_memory_bytes, max_memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(_NICENESS)
    if sys.platform == "linux":
        # With the parent's main thread, in which gevent starts processes. It may have ended before.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(0)
        with suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
            score.write("1000")  # a machine that is short of memory takes this one first
