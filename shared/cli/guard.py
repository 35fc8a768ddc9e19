"""The supervisor's hold on its watchdog: nothing that it started outlives it."""

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence

WATCHDOG = (sys.executable, "-m", "shared.cli.watchdog")


class Guard:
    """Keeps one watchdog running, and tells it which process groups there are.

    `held` are file descriptors that the watchdog keeps open: a lock on one of them lasts until everything
    has ended. `on_exit` is called, from another thread, when the watchdog
    ends, with the seconds that it lived.
    """

    def __init__(self, *, on_exit: Callable[[float], None], held: Sequence[int] = ()) -> None:
        self._on_exit = on_exit
        self._held = tuple(held)
        self._groups: dict[int, bool] = {}
        self._process = self._start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def add(self, group: int, *, last: bool) -> None:
        """Watch over `group`; once this returns, the watchdog will hear of it whatever happens here."""
        self._groups[group] = last
        self._tell(f"+ {group} {int(last)}")

    def remove(self, group: int) -> None:
        """`group` has ended: its number may be given to strangers now."""
        self._groups.pop(group, None)
        self._tell(f"- {group}")

    def revive(self) -> None:
        """Start another watchdog in place of one that has ended, and tell it all that it has to know."""
        self._process = self._start()
        for group, last in self._groups.items():
            self._tell(f"+ {group} {int(last)}")

    def close(self) -> None:
        """Let the watchdog go, and return when it has ended; it ends the groups that are still there."""
        stdin = self._process.stdin
        if stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                stdin.close()
        self._process.wait()

    def _start(self) -> "subprocess.Popen[bytes]":
        # A session of its own: neither Ctrl-C nor the end of the terminal may take it along.
        process = subprocess.Popen(
            WATCHDOG, stdin=subprocess.PIPE, bufsize=0, start_new_session=True, pass_fds=self._held
        )
        threading.Thread(target=self._watch, args=(process,), daemon=True).start()
        return process

    def _watch(self, process: "subprocess.Popen[bytes]") -> None:
        started = time.monotonic()
        process.wait()
        self._on_exit(time.monotonic() - started)

    def _tell(self, line: str) -> None:
        if self._process.stdin is None:
            return
        # A broken pipe is a watchdog that has just ended: the next one is told everything.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{line}\n".encode())
