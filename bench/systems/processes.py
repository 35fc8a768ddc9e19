"""The processes of one run: started, watched over, measured, and all ended with the run."""

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from shared.cli.guard import Guard

START_S = 60.0
_FOREIGN = ("TURNSTONE_", "OPENAI_", "OLLAMA_", "REDIS_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """CPU seconds so far and memory in MB, by room. Resident memory counts what processes share once for each of
    them, proportional memory counts it once."""

    cpu_s: dict[str, float]
    rss_mb: dict[str, float]

    def cpu_since(self, before: "Usage") -> dict[str, float]:
        return {room: used - before.cpu_s.get(room, 0.0) for room, used in self.cpu_s.items()}


NOTHING = Usage(cpu_s={}, rss_mb={})


@dataclass(slots=True, kw_only=True)
class Started:
    """A process, the leader of a session of its own, and the room that its use is counted for."""

    room: str
    process: "subprocess.Popen[bytes]"
    log: Path

    def family(self) -> list[psutil.Process]:
        try:
            leader = psutil.Process(self.process.pid)
            return [leader, *leader.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def suspend(self) -> None:
        """SIGSTOP to it and all below it."""
        _signal(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        _signal(self.process.pid, signal.SIGCONT)

    def words(self) -> str:
        """The end of what it wrote."""
        return self.log.read_text(errors="replace")[-3000:]


class Processes:
    """Starts processes with `folder` for their logs. Use as a context manager: with it everything ends, and with this
    process too, however that ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: list[Started] = []
        self._families: list[tuple[str, psutil.Process]] = []

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._guard = Guard(on_exit=lambda seconds: None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # At once: what they hold is thrown away, and a graceful end would take longer than some measurements.
        families = [process for started in self._started for process in started.family()]
        for process in families:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for started in self._started:
            _signal(started.process.pid, signal.SIGKILL)
            started.process.wait()
            self._guard.remove(started.process.pid)
        self._guard.close()

    def start(
        self, room: str, command: Sequence[str], *, environ: Mapping[str, str] | None = None, stdout: int | None = None
    ) -> Started:
        """Start a command. Its output goes into a log; with `stdout`, what it prints goes there."""
        log = self.folder / f"{len(self._started)}-{room}.log"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
        with log.open("wb") as output:
            process = subprocess.Popen(
                list(command),
                cwd=self.folder,
                env={**inherited, "PYTHONUNBUFFERED": "1", **(environ or {})},
                stdin=subprocess.PIPE,
                stdout=output if stdout is None else stdout,
                stderr=output,
                start_new_session=True,
            )
        self._guard.add(process.pid, last=room == "store")
        started = Started(room=room, process=process, log=log)
        self._started.append(started)
        return started

    def usage(self, *, look_again: bool = True) -> Usage:
        """What all of them have used so far. To look again for the processes below them takes some ms: not during a
        load."""
        if look_again:
            self._families = [(started.room, process) for started in self._started for process in started.family()]
        cpu_s: dict[str, float] = {}
        rss_mb: dict[str, float] = {}
        for room, process in self._families:
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                cpu_s[room] = cpu_s.get(room, 0.0) + times.user + times.system
                rss_mb[room] = rss_mb.get(room, 0.0) + process.memory_info().rss / 2**20
        return Usage(cpu_s=cpu_s, rss_mb=rss_mb)

    def until(self, condition: Callable[[], bool], what: str, *, seconds: float = START_S) -> None:
        """Return once it holds. Raises RuntimeError where a process ends before, or it does not hold in time."""
        deadline = time.monotonic() + seconds
        while not condition():
            for started in self._started:
                if started.process.poll() is not None:
                    raise RuntimeError(f"the {started.room} ended:\n{started.words()}")
            if time.monotonic() > deadline:
                logs = "\n".join(f"{started.room}: {started.words()}" for started in self._started)
                raise RuntimeError(f"waited in vain until {what}. {logs}")
            time.sleep(0.1)


def free_port() -> int:
    """A loopback port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    """Whether something accepts connections there."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def get(url: str) -> str:
    """The body of a 200 answer; empty for anything else."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            answer: bytes = response.read()
            return answer.decode()
    except (urllib.error.URLError, OSError):
        return ""


def _signal(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)
