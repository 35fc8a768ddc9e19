"""What `durability` promises, on real stores: set up wrongly, away, and with a replica that is stopped."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from apikit import HELLO, Api, assert_problem, ref_of
from logkit import free_port, running_server
from redis import Redis
from rooms import Rooms
from stack_process import clean_environ, running_stack
from turnkit import Bench, turn_bench
from waiting import wait_for

from shared.cli.binaries import find_binary
from shared.cli.guard import Guard
from shared.cli.store import socket_path
from shared.errors import ConfigError, StoreError
from shared.ids import TurnRef
from shared.log.durability import StoreCheck
from shared.redis_client import connect
from shared.runconfig import FrontConfig
from worker.interrupts import CancelAsked

Json = dict[str, Any]

DEADLINE_S = 60.0
ALWAYS = ("--appendfsync", "always")
NO_LOG = ("--appendonly", "no")


@pytest.fixture
def store() -> Iterator[Callable[..., Redis]]:
    """Starts servers with options of the test's own, and gives a client for each."""
    open_ones: list[Any] = []

    def start(*options: str) -> Redis:
        server = running_server(find_binary(), *options)
        client = connect(server.__enter__())
        open_ones.append((server, client))
        return client

    yield start
    for server, client in reversed(open_ones):
        client.connection_pool.disconnect()
        server.__exit__(None, None, None)


# What is looked at


def test_a_store_that_answers_when_it_is_on_the_disk_is_fit_for_fsync(store: Callable[..., Redis]) -> None:
    StoreCheck(client=store(*ALWAYS), durability="fsync").require()


@pytest.mark.parametrize(
    ("options", "said"),
    [((), "appendfsync everysec"), ((*ALWAYS, *NO_LOG), "appendonly no"), (NO_LOG, "no and appendf")],
)
def test_any_other_store_is_refused_with_what_it_has_and_what_it_needs(
    store: Callable[..., Redis], options: tuple[str, ...], said: str
) -> None:
    with pytest.raises(ConfigError) as refusal:
        StoreCheck(client=store(*options), durability="fsync").require()

    assert said in refusal.value.message
    assert "needs a store with appendonly yes and appendfsync always" in refusal.value.message


@pytest.mark.parametrize("how", ["forbidden", "unknown"])
def test_a_store_that_does_not_show_its_configuration_is_refused_with_what_to_do(
    store: Callable[..., Redis], how: str
) -> None:
    client = store(*ALWAYS, *(("--rename-command", "CONFIG", "") if how == "unknown" else ()))
    if how == "forbidden":
        client.execute_command("ACL", "SETUSER", "default", "-config")

    with pytest.raises(ConfigError, match=r"refuses CONFIG GET.*\+config\|get.*replicated"):
        StoreCheck(client=client, durability="fsync").require()


def test_a_store_without_a_log_is_refused_for_replicated_and_one_with_a_log_is_not(
    store: Callable[..., Redis],
) -> None:
    with pytest.raises(ConfigError, match=r"WAITAOF.*appendonly yes"):
        StoreCheck(client=store(*NO_LOG), durability="replicated").require()

    StoreCheck(client=store(), durability="replicated").require()


def test_nothing_is_asked_where_nothing_is_promised_and_only_once_where_something_is(
    store: Callable[..., Redis],
) -> None:
    away = connect("redis://127.0.0.1:1/0")
    StoreCheck(client=away, durability="none").require()
    for durability in ("fsync", "replicated"):
        with pytest.raises(StoreError):
            StoreCheck(client=away, durability=durability).require()  # type: ignore[arg-type]

    client = store(*ALWAYS)
    check = StoreCheck(client=client, durability="fsync")
    check.require()
    client.config_set("appendfsync", "everysec")
    check.require()


# Rooms at their start


def rooms_on(folder: Path, durability: str, *store_options: str) -> Rooms:
    script = {"provider_id": "script", "provider_type": "inline::scripted", "config": {"models": ["scripted"]}}
    config = {"providers": {"inference": [script]}, "durability": durability}
    return Rooms(folder, config, store_options=store_options)


def test_rooms_do_not_start_on_a_store_that_is_less_safe_than_they_promise(tmp_path: Path) -> None:
    with rooms_on(tmp_path, "fsync") as rooms:
        for room in (rooms.worker(), rooms.api()):
            assert room.wait() == os.EX_CONFIG
            lines = [line for line in room.written().splitlines() if line.strip()]
            assert len(lines) == 1, room.written()
            assert "durability: fsync needs a store with" in lines[0]


def submitted(url: str) -> int:
    """The status that a turn in a session of its own gets."""
    with httpx.Client(base_url=f"{url}/v1", timeout=DEADLINE_S) as http:
        agent = http.post("/agents", json={"agent_config": {"model": "scripted", "instructions": ""}})
        if agent.status_code != 200:
            return agent.status_code
        path = f"/agents/{agent.json()['agent_id']}/session"
        session = http.post(path, json={"session_name": "one"}).json()["session_id"]
        return http.post(f"{path}/{session}/turn", json=HELLO).status_code


def test_rooms_that_start_before_their_store_look_at_it_before_the_first_turn(tmp_path: Path) -> None:
    with rooms_on(tmp_path, "fsync", *ALWAYS) as rooms:
        rooms.kill_store()
        api, worker = rooms.api(), rooms.worker()
        rooms.until(lambda: "durability is not checked yet" in worker.written(), "the worker says what it waits for")
        rooms.until(lambda: "Listening at" in api.written(), "the API listens")
        assert "durability is not checked yet" in api.written()
        assert submitted(api.url) == 503

        rooms.start_store()
        rooms.until_healthy()

        assert submitted(api.url) == 202
        assert worker.alive


def test_a_worker_that_finds_out_later_that_its_store_is_less_safe_ends(tmp_path: Path) -> None:
    with rooms_on(tmp_path, "fsync") as rooms:
        rooms.kill_store()
        worker = rooms.worker()
        rooms.until(lambda: "durability is not checked yet" in worker.written(), "the worker says what it waits for")

        rooms.start_store()

        assert worker.wait() == os.EX_CONFIG
        assert "durability: fsync needs a store with" in worker.written()


def test_an_api_that_finds_its_store_less_safe_accepts_nothing_until_it_is_mended(
    store: Callable[..., Redis], key_prefix: str
) -> None:
    client = store()
    api = api_on(client, key_prefix, "fsync")
    session = api.session()

    answer = api.post(f"{session}/turn", HELLO, Idempotency_Key="k")
    assert_problem(answer, 503, "store_not_durable")
    assert int(answer.headers["Retry-After"]) >= 1
    client.config_set("appendfsync", "always")

    assert api.post(f"{session}/turn", HELLO, Idempotency_Key="k").status_code == 202
    api.services.tails.close()


# A development stack


def dev_command(folder: Path, durability: str) -> list[str]:
    config = folder / "turnstone.yaml"
    config.write_text(f"durability: {durability}\n")
    data = str(folder / "data")
    return [
        sys.executable,
        "-m",
        "shared.cli.main",
        "dev",
        "--port",
        str(free_port()),
        "--config",
        str(config),
        "--data",
        data,
    ]


def test_a_development_stack_starts_a_store_that_is_as_safe_as_it_promises(tmp_path: Path) -> None:
    with running_stack(dev_command(tmp_path, "fsync"), folder=tmp_path) as stack:
        stack.wait_for_line("started api", seconds=DEADLINE_S)
        with Redis(unix_socket_path=str(socket_path(tmp_path / "data"))) as client:
            StoreCheck(client=client, durability="fsync").require()


def test_a_development_stack_says_that_its_own_store_has_no_replica(tmp_path: Path) -> None:
    ended = subprocess.run(
        dev_command(tmp_path, "replicated"),
        cwd=tmp_path,
        env=clean_environ({}),
        capture_output=True,
        timeout=DEADLINE_S,
    )

    assert ended.returncode == 2
    assert b"needs a store with replicas" in ended.stderr
    assert b"started" not in ended.stdout


def test_a_development_stack_looks_at_a_store_that_it_is_given(store: Callable[..., Redis], tmp_path: Path) -> None:
    environ = clean_environ({"TURNSTONE_REDIS_URL": url_of(store())})

    ended = subprocess.run(
        dev_command(tmp_path, "fsync"), cwd=tmp_path, env=environ, capture_output=True, timeout=DEADLINE_S
    )

    assert ended.returncode == 2
    assert b"it has appendfsync everysec" in ended.stderr


# Replicated


def url_of(client: Redis) -> str:
    return f"unix://{client.connection_pool.connection_kwargs['path']}"


def api_on(client: Redis, prefix: str, durability: str) -> Api:
    return Api.on(url_of(client), prefix, FrontConfig(durability=durability))  # type: ignore[arg-type]


@dataclass
class Replica:
    """A server that follows another one, and can be stopped."""

    process: "subprocess.Popen[bytes]"

    def pause(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@contextmanager
def replica_of(primary: Redis, port: int) -> Iterator[Replica]:
    folder = Path(tempfile.mkdtemp(prefix="ts-"))
    command = [str(find_binary().path), "--port", str(free_port()), "--bind", "127.0.0.1", "--dir", str(folder)]
    command += ["--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--replicaof", "127.0.0.1", str(port)]
    with (folder / "replica.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            process_group=0,
        )
    guard = Guard(on_exit=lambda _: None)
    guard.add(process.pid, last=True)
    try:
        wait_for(lambda: confirms(primary), "the replica confirms", seconds=DEADLINE_S)
        yield Replica(process)
    finally:
        process.kill()
        process.wait()
        guard.remove(process.pid)
        guard.close()
        shutil.rmtree(folder)


def confirms(primary: Redis) -> bool:
    """Whether a write is on two disks within a second."""
    pipe = primary.pipeline(transaction=False)
    pipe.set("written-to-be-confirmed", 1)
    pipe.waitaof(1, 1, 1000)
    return pipe.execute()[1] == [1, 1]


@pytest.fixture
def pair(store: Callable[..., Redis]) -> Iterator[tuple[Redis, Replica]]:
    """A primary and its replica."""
    port = free_port()
    primary = store("--port", str(port), "--bind", "127.0.0.1", "--repl-diskless-sync-delay", "0")
    with replica_of(primary, port) as replica:
        yield primary, replica


def test_a_turn_is_accepted_when_a_replica_has_it_and_else_found_again_by_its_key(
    pair: tuple[Redis, Replica], key_prefix: str
) -> None:
    primary, replica = pair
    api = api_on(primary, key_prefix, "replicated")
    sent: list[TurnRef] = []
    api.services.hints.send = sent.append  # type: ignore[method-assign]
    session = api.session()
    assert api.post(f"{session}/turn", HELLO).status_code == 202

    replica.pause()
    body = {"messages": [{"role": "user", "content": "is it safe?"}], "multitask_strategy": "interrupt"}
    answers = [api.post(f"{session}/turn", body, Idempotency_Key="k") for _ in range(2)]
    answers.append(api.post(f"{session}/turn", body, x_stainless_retry_count="1"))
    hinted = len(sent)
    replica.go_on()
    wait_for(lambda: confirms(primary), "the replica confirms again", seconds=DEADLINE_S)
    confirmed = api.post(f"{session}/turn", body, Idempotency_Key="k")

    problems = [assert_problem(answer, 503, "not_replicated") for answer in answers]
    [turn_id] = {problem["error"]["turn_id"] for problem in problems}
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in answers)
    assert hinted == 2, "workers are told before anybody waits for the replica"
    assert confirmed.status_code == 202
    assert confirmed.headers["Location"].endswith(f"/turn/{turn_id}")
    assert confirmed.headers["Idempotent-Replayed"] == "true"
    assert len(api.client.get(session).json["turns"]) == 2
    api.services.tails.close()


def test_a_store_without_any_replica_accepts_nothing_for_sure(store: Callable[..., Redis], key_prefix: str) -> None:
    api = api_on(store(), key_prefix, "replicated")

    answer = api.post(f"{api.session()}/turn", HELLO)

    assert_problem(answer, 503, "not_replicated")
    api.services.tails.close()


def test_a_store_that_goes_away_before_it_has_confirmed_leaves_the_turn_to_be_found(
    pair: tuple[Redis, Replica], key_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    primary, _ = pair
    api = api_on(primary, key_prefix, "replicated")
    session, plain = api.session(), api.services.log.confirm

    def broken(ref: TurnRef) -> bool:
        raise StoreError("The store does not confirm a write: it is away")

    monkeypatch.setattr(api.services.log, "confirm", broken)
    problem = assert_problem(api.post(f"{session}/turn", HELLO, Idempotency_Key="k"), 503, "not_replicated")
    monkeypatch.setattr(api.services.log, "confirm", plain)

    again = api.post(f"{session}/turn", HELLO, Idempotency_Key="k")
    assert (again.status_code, again.json["turn_id"]) == (202, problem["error"]["turn_id"])
    api.services.tails.close()


def test_answers_of_client_tools_are_confirmed_as_turns_are(pair: tuple[Redis, Replica], key_prefix: str) -> None:
    primary, replica = pair
    api = api_on(primary, key_prefix, "replicated")
    turn = api.turn()
    api.worker(turn).ask("c1")
    body = {"tool_responses": [{"call_id": "c1", "tool_name": "add", "content": "42"}]}

    replica.pause()
    problem = assert_problem(api.post(f"{turn}/resume", body), 503, "not_replicated")
    replica.go_on()
    wait_for(lambda: confirms(primary), "the replica confirms again", seconds=DEADLINE_S)

    assert problem["error"]["turn_id"] == ref_of(turn).turn_id
    assert api.post(f"{turn}/resume", body).status_code == 202
    api.services.tails.close()


# A worker's intents


@pytest.fixture
def bench(pair: tuple[Redis, Replica], key_prefix: str) -> Iterator[Bench]:
    """A worker's parts, with a log that asks the replica."""
    primary, replica = pair
    with turn_bench(url_of(primary), key_prefix) as bench:
        log = bench.kit.log_with(now_us=None, durability="replicated")
        yield replace(bench, tools=replace(bench.tools, log=log))
        replica.go_on()


def at_confirm(bench: Bench, monkeypatch: pytest.MonkeyPatch, act: Callable[[int], object]) -> list[list[Json]]:
    """Have something happen before each confirmation; what had been called by then."""
    plain, calls = bench.tools.log.confirm, []

    def confirm(ref: TurnRef) -> bool:
        calls.append(list(bench.seats.calls))
        act(len(calls))
        return plain(ref)

    monkeypatch.setattr(bench.tools.log, "confirm", confirm)
    return calls


def test_a_call_that_must_not_be_repeated_waits_until_its_intent_is_on_two_machines(
    pair: tuple[Redis, Replica], bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, replica = pair
    made = at_confirm(bench, monkeypatch, lambda number: replica.go_on() if number == 2 else None)
    replica.pause()

    turn = bench.run(bench.submit("book it", toolgroups=["seats"]))

    assert len(made) >= 2, "the first one was refused"
    assert all(calls == [] for calls in made), "nothing was called before it was confirmed"
    assert [name for name, _, _ in bench.seats.calls] == ["book"]
    assert bench.kit.status(turn.ref) == "completed"


def test_a_call_that_may_be_repeated_waits_for_nobody(
    pair: tuple[Redis, Replica], bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, replica = pair
    asked = at_confirm(bench, monkeypatch, lambda _: None)
    replica.pause()

    bench.run(bench.submit("read twice", toolgroups=["seats"]))

    assert asked == []
    assert bench.seats.calls


def test_a_turn_that_waits_for_the_replica_can_be_canceled_and_calls_nothing(
    pair: tuple[Redis, Replica], bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, replica = pair
    turn = bench.claim(bench.submit("book it", toolgroups=["seats"]))
    at_confirm(bench, monkeypatch, lambda _: turn._interrupts.ask(CancelAsked()))
    replica.pause()

    turn.run()

    assert bench.seats.calls == []
    assert bench.kit.status(turn.ref) == "canceled"
