"""The supervisor with dummy children: restarts, the order of stopping, and its watchdog."""

import io
import os
import signal
import sys
import threading
from collections.abc import Iterator

import psutil
import pytest
from stack_process import gone, is_alive
from waiting import wait_for

from shared.cli.child import ChildSpec
from shared.cli.console import Console
from shared.cli.supervisor import SAME_REQUEST_S, Supervisor

WAITS = "import time; print('running', flush=True); time.sleep(600)"
IGNORES = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {WAITS}"
EXITS = "raise SystemExit(3)"
FORKS = (
    "import subprocess, sys, time; "
    "print('grandchild', subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']).pid, flush=True); "
    "time.sleep(600)"
)


class Stack:
    """A supervisor in this process, and what it has written."""

    def __init__(self) -> None:
        self._stream = io.StringIO()
        self.supervisor = Supervisor(console=Console(self._stream))

    @property
    def output(self) -> str:
        return self._stream.getvalue()

    def start(self, name: str, program: str, *, stage: int = 1, grace_s: float = 5.0) -> None:
        command = (sys.executable, "-c", program)
        self.supervisor.start(ChildSpec(name=name, command=command, environ=os.environ, stage=stage, grace_s=grace_s))

    def run_until_written(self, words: str, *, times: int = 1) -> None:
        assert self.supervisor.run_until(lambda: self.output.count(words) >= times)

    def pid_of(self, name: str) -> int:
        """The pid in the latest line about a start of `name`."""
        line = next(line for line in reversed(self.output.splitlines()) if f"started {name} (pid" in line)
        return int(line.partition("(pid ")[2].partition(")")[0])

    def written_number(self, word: str) -> int:
        """The number that a child wrote after `word`."""
        return int(self.output.rpartition(f"| {word} ")[2].split()[0])


@pytest.fixture
def stack() -> Iterator[Stack]:
    running = Stack()
    yield running
    running.supervisor.request_stop()
    running.supervisor.stop()


def test_a_killed_child_is_started_again_and_its_name_pid_and_signal_are_written(stack: Stack) -> None:
    stack.start("worker-1", WAITS)
    stack.run_until_written("| running")
    first = stack.pid_of("worker-1")

    os.kill(first, signal.SIGKILL)
    stack.run_until_written("| running", times=2)

    assert f"worker-1 (pid {first}) ended: killed by SIGKILL" in stack.output
    assert stack.pid_of("worker-1") != first


def test_a_child_that_keeps_dying_is_started_again_ever_later(stack: Stack) -> None:
    stack.start("api", EXITS)

    stack.run_until_written("ended: exit code 3", times=3)

    delays = [line.partition("starting api again ")[2] for line in stack.output.splitlines()]
    assert [delay for delay in delays if delay] == ["now", "in 0.5 s", "in 1 s"]


def test_what_a_dead_child_left_behind_is_ended_before_its_restart(stack: Stack) -> None:
    stack.start("worker-1", FORKS)
    stack.run_until_written("| grandchild")
    grandchild = psutil.Process(stack.written_number("grandchild"))

    os.kill(stack.pid_of("worker-1"), signal.SIGKILL)
    stack.run_until_written("| grandchild", times=2)

    wait_for(gone(grandchild), "the grandchild is gone")


def test_stages_stop_in_falling_order(stack: Stack) -> None:
    for stage, name in enumerate(["store", "worker-1", "api"]):
        stack.start(name, WAITS, stage=stage)
    stack.run_until_written("| running", times=3)

    stack.supervisor.stop()

    ended = [line.split()[2] for line in stack.output.splitlines() if " ended: " in line]
    assert ended == ["api", "worker-1", "store"]
    assert "starting" not in stack.output


def test_a_child_that_does_not_stop_when_asked_is_killed_after_its_grace(stack: Stack) -> None:
    stack.start("worker-1", IGNORES, grace_s=0.3)
    stack.run_until_written("| running")
    pid = stack.pid_of("worker-1")

    stack.supervisor.stop()

    assert f"worker-1 (pid {pid}) takes too long; killing it" in stack.output
    assert not psutil.pid_exists(pid)


def test_a_second_request_to_stop_kills_what_is_still_stopping(stack: Stack) -> None:
    stack.start("worker-1", IGNORES, grace_s=100.0)
    stack.run_until_written("| running")
    child = psutil.Process(stack.pid_of("worker-1"))
    stack.supervisor.request_stop()

    again = threading.Timer(SAME_REQUEST_S * 2, stack.supervisor.request_stop)
    again.start()
    stack.supervisor.stop()

    assert not is_alive(child)
    assert "killed by SIGKILL" in stack.output
    again.join()


def test_a_request_to_stop_ends_the_running(stack: Stack) -> None:
    stack.start("worker-1", WAITS)
    stack.supervisor.request_stop()

    assert stack.supervisor.run_until(lambda: False) is False
