"""A development stack as a process under test: started, read, signalled, and gone at the end of the test."""

import contextlib
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
from waiting import wait_for


class StackProcess:
    """A started `turnstone dev`; `output` grows as it writes."""

    def __init__(self, command: Sequence[str], *, folder: Path, environ: dict[str, str]) -> None:
        self.output = ""
        self._seen: dict[int, psutil.Process] = {}
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for_line(self, words: str, *, times: int = 1, seconds: float = 20.0) -> None:
        """Return when `words` have been written `times` times; fail if the stack ends before."""
        wait_for(
            lambda: self.output.count(words) >= times or self.process.poll() is not None,
            f"the stack writes {words!r} (it wrote:\n{self.output})",
            seconds=seconds,
        )
        self._reader.join(0.2)
        assert self.output.count(words) >= times, self.output
        self.note_processes()

    def note_processes(self) -> list[psutil.Process]:
        """Everything that the stack has running now; `wait_until_gone` will wait for all that was noted."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self.process.pid).children(recursive=True):
                self._seen[process.pid] = process
        return list(self._seen.values())

    def child(self, words: str) -> psutil.Process:
        """The running process of the stack whose command line has `words`, up to the end of a word, in it."""
        found = [process for process in self.note_processes() if f"{words} " in f"{command_of(process)} "]
        assert len(found) == 1, f"{words}: {found}"
        return found[0]

    def worker(self, queue: str = "turns") -> psutil.Process:
        """The running worker of a queue, of which there is one."""
        workers = [one for one in self.note_processes() if "-m worker " in f"{command_of(one)} "]
        found = [one for one in workers if one.environ()["TURNSTONE_QUEUE"] == queue]
        assert len(found) == 1, f"{queue}: {found}"
        return found[0]

    def stop(self, number: int = signal.SIGINT, *, seconds: float = 15.0) -> int:
        """Signal the stack, and return its exit code once it has ended."""
        self.note_processes()
        self.process.send_signal(number)
        code = self.process.wait(seconds)
        self._reader.join(seconds)
        return code

    def wait_until_gone(self, *, seconds: float = 15.0) -> None:
        """Return when none of the noted processes runs any more."""
        wait_for(
            lambda: not any(is_alive(process) for process in self._seen.values()),
            "no process of the stack is left",
            seconds=seconds,
        )

    def end(self) -> None:
        """Leave nothing behind, however the test went."""
        for process in [psutil.Process(self.process.pid)] if self.process.poll() is None else []:
            process.kill()
        self.process.wait()
        self.wait_until_gone()
        self._reader.join(5)
        if self.process.stdout is not None:
            self.process.stdout.close()

    def _read(self) -> None:
        if self.process.stdout is not None:
            for line in self.process.stdout:
                self.output += line


@contextmanager
def running_stack(
    command: Sequence[str], *, folder: Path, environ: dict[str, str] | None = None
) -> Iterator[StackProcess]:
    """A stack started by `command` in `folder`; it is ended with the block."""
    stack = StackProcess(command, folder=folder, environ=clean_environ(environ or {}))
    try:
        yield stack
    finally:
        stack.end()


def clean_environ(extra: dict[str, str]) -> dict[str, str]:
    """The environment without settings of Turnstone's and keys of providers, and with `extra`."""
    foreign = ("TURNSTONE_REDIS", "TURNSTONE_BROKER", "TURNSTONE_CONFIG", "TURNSTONE_PORT", "OPENAI_", "OLLAMA_")
    return {**{name: value for name, value in os.environ.items() if not name.startswith(foreign)}, **extra}


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_alive(process: psutil.Process) -> bool:
    """Whether the process runs; one that nobody has buried yet does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def command_of(process: psutil.Process) -> str:
    """The command line of a running process; empty for one that has ended."""
    try:
        return " ".join(process.cmdline()) if is_alive(process) else ""
    except psutil.NoSuchProcess:
        return ""


def gone(process: psutil.Process) -> Callable[[], bool]:
    """A condition: the process runs no more."""
    return lambda: not is_alive(process)
