"""`turnstone dev` as a process, with its real store and dummy rooms: what a user types, kills and reads."""

import signal
import socket
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import redis
from old_server import old_redis
from stack_process import StackProcess, free_port, running_stack
from waiting import wait_for

DUMMY = Path(__file__).with_name("dummy_dev.py")


def dev(
    folder: Path, port: int, *flags: str, environ: dict[str, str] | None = None
) -> AbstractContextManager[StackProcess]:
    command = [sys.executable, str(DUMMY), "dev", "--port", str(port), *flags]
    return running_stack(command, folder=folder, environ=environ)


def store_of(folder: Path, port: int) -> "redis.Redis":
    return redis.Redis.from_url(f"unix://{folder}/.turnstone/{port}/store.sock")


def test_it_says_what_it_found_and_started_and_what_to_try(tmp_path: Path) -> None:
    port = free_port()
    with dev(tmp_path, port, "--workers", "2") as stack:
        stack.wait_for_line(f"ready: http://127.0.0.1:{port}")
        stack.wait_for_line("agents/$agent/session/$session/turn")
        assert stack.stop() == 0

    assert "config:    none" in stack.output
    assert "providers: scripted (inline::scripted)" in stack.output
    assert "store:     Valkey" in stack.output
    assert f"data:      {tmp_path}/.turnstone/{port}" in stack.output
    for name in ("store", "worker-1", "worker-2", "calls", "memory", "api"):
        assert f"started {name} (pid " in stack.output
    assert f"worker-1  | working for unix://{tmp_path}/.turnstone/{port}/store.sock" in stack.output
    assert f"api=http://127.0.0.1:{port}/v1" in stack.output
    assert '"model": "dummy"' in stack.output


def test_ctrl_c_and_sigterm_stop_everything_in_order(tmp_path: Path) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        with dev(tmp_path, free_port()) as stack:
            stack.wait_for_line("ready:")
            assert stack.stop(number, seconds=10) == 0
            stack.wait_until_gone(seconds=1)
        ended = [line.split()[2] for line in stack.output.splitlines() if " ended: " in line]
        # All kinds of workers are told to stop at the same time.
        assert [ended[0], sorted(ended[1:4]), *ended[4:]] == ["api", ["calls", "memory", "worker-1"], "store"]


def test_nothing_survives_a_sigkill_of_the_supervisor(tmp_path: Path) -> None:
    with dev(tmp_path, free_port()) as stack:
        stack.wait_for_line("ready:")
        noted = stack.note_processes()
        assert len(noted) >= 5  # store, API, worker, the worker's own, watchdog

        stack.process.kill()
        stack.wait_until_gone()


def test_a_killed_watchdog_is_replaced_by_one_that_does_its_work(tmp_path: Path) -> None:
    with dev(tmp_path, free_port()) as stack:
        stack.wait_for_line("ready:")
        first = stack.child("shared.cli.watchdog")

        first.kill()
        stack.wait_for_line("started watchdog (pid")
        assert stack.child("shared.cli.watchdog") != first

        stack.process.kill()
        stack.wait_until_gone()


def test_a_stack_can_follow_one_that_was_killed_and_finds_its_data(tmp_path: Path) -> None:
    port = free_port()
    with dev(tmp_path, port) as stack:
        stack.wait_for_line("ready:")
        with store_of(tmp_path, port) as client:
            client.set("kept", "yes")
        stack.process.kill()

        with dev(tmp_path, port) as next_stack:
            next_stack.wait_for_line("ready:")
            with store_of(tmp_path, port) as client:
                assert client.get("kept") == b"yes"


def test_data_survive_ctrl_c(tmp_path: Path) -> None:
    port = free_port()
    with dev(tmp_path, port) as stack:
        stack.wait_for_line("ready:")
        with store_of(tmp_path, port) as client:
            client.set("kept", "yes")
        assert stack.stop() == 0

    with dev(tmp_path, port) as stack:
        stack.wait_for_line("ready:")
        with store_of(tmp_path, port) as client:
            assert client.get("kept") == b"yes"


def test_a_killed_store_is_started_again_with_its_data(tmp_path: Path) -> None:
    port = free_port()
    with dev(tmp_path, port) as stack, store_of(tmp_path, port) as client:
        stack.wait_for_line("ready:")
        client.set("kept", "yes")

        stack.child("valkey-server").kill()
        stack.wait_for_line("started store (pid", times=2)

        wait_for(lambda: answers(client), "the store is back")
        assert client.get("kept") == b"yes"


def answers(client: "redis.Redis") -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


def test_two_stacks_run_side_by_side(tmp_path: Path) -> None:
    one, other = free_port(), free_port()
    with dev(tmp_path, one) as first, dev(tmp_path, other) as second:
        first.wait_for_line("ready:")
        second.wait_for_line("ready:")
        with store_of(tmp_path, one) as client, store_of(tmp_path, other) as other_client:
            client.set("mine", "1")
            assert other_client.get("mine") is None


def test_a_second_stack_on_the_same_port_is_told_of_the_first(tmp_path: Path) -> None:
    port = free_port()
    with dev(tmp_path, port) as first:
        first.wait_for_line("ready:")
        with dev(tmp_path, port) as second:
            assert second.process.wait(10) == 2
            second.wait_for_line(f"is in use by another 'turnstone dev' (pid {first.process.pid})")
        assert first.process.poll() is None


def test_a_taken_port_is_refused_with_the_commands_that_help(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with dev(tmp_path, port) as stack:
            assert stack.process.wait(10) == 2
            stack.wait_for_line("make run PORT=")

    assert f"Port {port} on 127.0.0.1 cannot be used" in stack.output
    assert f"lsof -nP -iTCP:{port} -sTCP:LISTEN" in stack.output


def test_a_mistake_in_the_run_config_is_told_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "turnstone.yaml").write_text("providers: 3\n")
    with dev(tmp_path, free_port()) as stack:
        assert stack.process.wait(10) == 2
        stack.wait_for_line("turnstone.yaml, line 1")

    assert "started" not in stack.output


def test_a_store_that_cannot_read_its_data_is_given_up_with_a_hint(tmp_path: Path) -> None:
    port = free_port()
    data = tmp_path / ".turnstone" / str(port) / "appendonlydir"
    data.mkdir(parents=True)
    (data / "appendonly.aof.manifest").write_text("nonsense\n")
    with dev(tmp_path, port) as stack:
        assert stack.process.wait(20) == 2
        stack.wait_for_line("Move that folder away")

    assert "store     | " in stack.output


def test_a_given_store_is_used_and_left_running(tmp_path: Path, redis_url: str) -> None:
    with dev(tmp_path, free_port(), environ={"TURNSTONE_REDIS_URL": redis_url}) as stack:
        stack.wait_for_line("ready:")
        stack.wait_for_line(f"working for {redis_url}")  # it may be ready by what others left in that store
        assert stack.stop() == 0

    assert "started store" not in stack.output
    with redis.Redis.from_url(redis_url) as client:
        assert client.ping()


def test_a_given_store_that_is_too_old_is_refused(tmp_path: Path) -> None:
    with old_redis("7.0.15") as url, dev(tmp_path, free_port(), environ={"TURNSTONE_REDIS_URL": url}) as stack:
        assert stack.process.wait(10) == 2
        stack.wait_for_line("is Redis 7.0.15. Turnstone needs Redis 7.2 or later, or Valkey.")


def test_a_given_store_that_does_not_answer_is_named_without_its_password(tmp_path: Path) -> None:
    url = f"redis://:hidden@127.0.0.1:{free_port()}/0"
    with dev(tmp_path, free_port(), environ={"TURNSTONE_REDIS_URL": url}) as stack:
        assert stack.process.wait(10) == 2
        stack.wait_for_line("does not answer")

    assert "redis://:***@127.0.0.1" in stack.output
    assert "hidden" not in stack.output


def test_it_stops_with_the_process_that_started_it_if_told_to(tmp_path: Path) -> None:
    command = [sys.executable, str(DUMMY), "dev", "--with-parent", "--port", str(free_port())]
    program = f"import subprocess; subprocess.run({command!r})"
    with running_stack([sys.executable, "-c", program], folder=tmp_path) as starter:
        starter.wait_for_line("ready:")
        starter.process.kill()
        starter.wait_until_gone()
