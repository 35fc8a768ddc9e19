"""One process of the stack."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO

LONGEST_LINE = 64 * 1024
DRAIN_S = 0.5

# Holds the command back until it is told to go on, and ends where that never comes. A process's number is known
# only once it runs; this way nothing of the command runs before the watchdog has that number.
_HELD_BACK = ("/bin/sh", "-c", 'read -r go && exec "$@" </dev/null', "sh")


@dataclass(frozen=True, kw_only=True, slots=True)
class ChildSpec:
    """What to run under which name.

    `environ` is the process's whole environment. Stages start in rising order and stop in falling order;
    `grace_s` is the time between being asked to stop and being killed.
    """

    name: str
    command: tuple[str, ...]
    environ: Mapping[str, str] = field(repr=False)
    stage: int = 0
    grace_s: float = 3.0


class Child:
    """A started process in a process group of its own.

    `on_line(name, text)` gets what it writes, `on_exit(child)` is called once when it has ended; both come
    from other threads. Nothing of the command runs before `go`.
    """

    def __init__(
        self, spec: ChildSpec, *, on_line: Callable[[str, str], None], on_exit: Callable[["Child"], None]
    ) -> None:
        self.spec = spec
        self.started = time.monotonic()
        self._on_line = on_line
        self._on_exit = on_exit
        self._process = subprocess.Popen(
            (*_HELD_BACK, *spec.command),
            env=dict(spec.environ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
        self._pump = threading.Thread(target=self._relay, args=(self._process.stdout,), daemon=True)
        self._pump.start()
        threading.Thread(target=self._watch, daemon=True).start()

    @property
    def pid(self) -> int:
        """The process's number, and that of its group."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def go(self) -> None:
        """Let the command run."""
        stdin = self._process.stdin
        if stdin is None:
            return
        # Killed before it was let go: its end is reported like any other.
        with contextlib.suppress(BrokenPipeError):
            stdin.write(b"go\n")
            stdin.close()

    def terminate(self) -> None:
        """Ask the process to stop. It alone is asked: how its own children end is its business."""
        if self.alive:
            self._process.terminate()

    def kill(self) -> None:
        """End the whole group at once, also what the process itself left behind."""
        # macOS answers EPERM where only zombies are left.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def drain(self) -> None:
        """Wait, for a moment only, until what the ended process wrote has been passed on."""
        self._pump.join(DRAIN_S)

    def ending(self) -> str:
        """How it ended, for people."""
        code = self._process.returncode
        if code is None:
            return "still running"
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def _relay(self, output: IO[bytes]) -> None:
        with output:
            while line := output.readline(LONGEST_LINE):
                self._on_line(self.spec.name, line.decode(errors="replace").rstrip("\r\n"))

    def _watch(self) -> None:
        self._process.wait()
        self._on_exit(self)
