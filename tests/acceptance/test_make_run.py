"""The commands that a user types first: the stack comes up, says so, and leaves nothing behind."""

import json
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from stack_process import StackProcess, clean_environ, free_port, gone, running_stack
from waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]
TURNSTONE = str(Path(sys.executable).with_name("turnstone"))
START_S = 60.0


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def stack(tmp_path: Path, port: int) -> Iterator[StackProcess]:
    """A stack that has said that it is ready."""
    with running_stack([TURNSTONE, "dev", "--port", str(port)], folder=tmp_path) as running:
        running.wait_for_line("agents/$agent/session/$session/turn", seconds=START_S)
        yield running


def health(port: int) -> dict[str, object]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/health", timeout=5) as reply:
        found: dict[str, object] = json.load(reply)
    return found


def suggested_commands(output: str) -> str:
    """What the stack tells its user to try."""
    lines = output.splitlines()
    first = next(number for number, line in enumerate(lines) if line.lstrip().startswith("api=http"))
    return "\n".join(line for line in lines[first:] if re.match(r"  \S", line))


def test_the_stack_becomes_healthy_and_ctrl_c_leaves_nothing(stack: StackProcess, port: int) -> None:
    assert health(port)["status"] == "OK"

    assert stack.stop(signal.SIGINT, seconds=12) == 0

    stack.wait_until_gone(seconds=2)


def do_as_suggested(stack: StackProcess) -> str:
    """What the suggested commands write."""
    commands = suggested_commands(stack.output)
    done = subprocess.run(["bash", "-c", commands], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done
    return done.stdout


def test_what_it_tells_the_user_to_try_streams_a_turn(stack: StackProcess) -> None:
    written = do_as_suggested(stack)

    assert '"turn_start"' in written
    assert '"turn_complete"' in written


def test_after_a_worker_was_killed_another_one_runs_the_turns(stack: StackProcess) -> None:
    worker = stack.worker()

    worker.kill()
    stack.wait_for_line("started worker-1 (pid", times=2)

    assert f"worker-1 (pid {worker.pid}) ended: killed by SIGKILL" in stack.output
    assert '"turn_complete"' in do_as_suggested(stack)


def test_nothing_of_the_real_stack_survives_a_sigkill(stack: StackProcess) -> None:
    assert len(stack.note_processes()) >= 4  # store, worker, API, watchdog

    stack.process.kill()

    stack.wait_until_gone(seconds=20)


def test_make_run_starts_the_stack_and_stops_it_with_make(tmp_path: Path, port: int) -> None:
    if Path(sys.prefix) != ROOT / ".venv" or not (ROOT / ".venv" / ".run").exists():
        pytest.skip("make run would set up another virtual environment than the one of this test run")
    command = ["make", "-C", str(ROOT), "run", f"PORT={port}", f"DATA={tmp_path}"]
    with running_stack(command, folder=tmp_path, environ=clean_environ({})) as make:
        make.wait_for_line("ready:", seconds=START_S)
        supervisor = make.child("turnstone dev")

        make.process.send_signal(signal.SIGTERM)

        wait_for(gone(supervisor), "the supervisor has ended")
        make.wait_until_gone(seconds=12)
