"""Real worker processes on a real store and broker: signalled, killed, filled, and left without a store."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from fake_upstream import FakeUpstream, Stream, text
from logkit import LogKit, free_port, opened, running_server
from waiting import wait_for

from shared.cli.binaries import find_binary
from shared.cli.store import LocalStore
from shared.hints import Hints, celery_app
from shared.ids import TurnRef
from shared.queues import TURNS_QUEUE
from shared.settings import kombu_url

Json = dict[str, Any]

START_S = 30.0


@dataclass
class Worker:
    """A worker process and what it has written."""

    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def name(self) -> str:
        """As it stands in a turn's hash."""
        return f"{os.uname().nodename}:{self.process.pid}"

    def end(self, number: int, *, seconds: float = 20) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(seconds)

    def heartbeat(self) -> psutil.Process:
        [child] = psutil.Process(self.process.pid).children()
        return child


@dataclass
class Bench:
    kit: LogKit
    url: str
    folder: Path
    upstream: FakeUpstream
    workers: list[Worker] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.hints = Hints(app=celery_app(kombu_url(self.url), prefix=self.kit.prefix))
        self.log = self.kit.log_with(now_us=None)

    def worker(self, *, lease_s: float = 15, wait: bool = True, **environ: str) -> Worker:
        number = len(self.workers)
        variables = {"TURNSTONE_KEY_PREFIX": self.kit.prefix, **environ}
        worker = spawned(self.folder, f"worker{number}", self.url, self.upstream.url, lease_s=lease_s, **variables)
        self.workers.append(worker)
        if wait:
            self.until_alive(worker)
        return worker

    def until_alive(self, worker: Worker) -> None:
        def alive() -> bool:
            assert worker.process.poll() is None, worker.log.read_text()
            return self.kit.client.zscore(self.kit.keys.workers(TURNS_QUEUE), worker.name) is not None

        wait_for(alive, "the worker says that it is alive", seconds=START_S)

    def submit(self, words: str = "hello", *, hint: bool = True) -> TurnRef:
        """A turn of the session's own, and its hint."""
        # The kit's clock stands still; the store's time is what workers see.
        kit_now, self.kit.now = self.kit.now, int(time.time() * 1_000_000)
        config = {"model": "m", "instructions": "", "max_infer_iters": 3, "client_tools": []}
        ref = self.kit.accept(text=words, config=config)
        self.kit.now = kit_now
        if hint:
            self.hints.send(ref)
        return ref

    def until(self, ref: TurnRef, event_type: str, *, seconds: float = 20) -> None:
        wait_for(lambda: event_type in self.kit.types(ref), f"the turn has a {event_type}", seconds=seconds)

    def answer(self, ref: TurnRef) -> str:
        return str(self.kit.reader.state(ref).output_message()["content"])

    def end(self) -> None:
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.process.kill()
                worker.process.wait()


def spawned(folder: Path, name: str, url: str, provider_url: str, *, lease_s: float = 15, **environ: str) -> Worker:
    """A worker process that has just been started."""
    provider = {"provider_id": "up", "provider_type": "remote::openai", "config": {"url": provider_url}}
    config: Json = {"providers": {"inference": [provider]}, "turns": {"lease_s": lease_s}}
    file, log = folder / f"{name}.yaml", folder / f"{name}.log"
    file.write_text(json.dumps(config))  # JSON is YAML
    variables = {
        "PATH": os.environ["PATH"],
        "TURNSTONE_REDIS_URL": url,
        "TURNSTONE_CONFIG": str(file),
        **environ,
    }
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-m", "worker"], env=variables, stdout=output, stderr=output)
    return Worker(process, log)


@contextmanager
def benched(url: str, folder: Path, prefix: str) -> Iterator[Bench]:
    with FakeUpstream() as upstream, opened(url, prefix) as kit:
        bench = Bench(kit=kit, url=url, folder=folder, upstream=upstream)
        try:
            yield bench
        except BaseException:
            for worker in bench.workers:
                sys.stderr.write(worker.log.read_text())
            raise
        finally:
            bench.end()


@pytest.fixture
def bench(tmp_path: Path, key_prefix: str) -> Iterator[Bench]:
    # A server of the test's own: all key prefixes share the queue of hints.
    with running_server(find_binary()) as url, benched(url, tmp_path, key_prefix) as bench:
        yield bench


def slow(words: int = 100, **options: Any) -> Any:
    return text(*(f"w{n} " for n in range(words)), between_s=0.1, **options)


def test_a_worker_that_is_told_to_stop_at_once_gives_its_turn_back_and_another_goes_on(bench: Bench) -> None:
    bench.upstream.default = text("All ", "of ", "it.")
    bench.upstream.script(slow(end="hang"))
    first = bench.worker(TURNSTONE_DRAIN_S="0")
    ref = bench.submit()
    bench.until(ref, "step_progress")
    heartbeat = first.heartbeat()
    second = bench.worker()

    assert first.end(signal.SIGTERM) == 0, "it does not wait for the turn's end"
    bench.until(ref, "turn_complete", seconds=10)

    types = bench.kit.types(ref)
    assert types.index("step_abandoned") == types.index("turn_recovered") + 1
    assert bench.answer(ref) == "All of it."
    assert bench.kit.hash(ref)["worker"] == second.name
    assert "lapses" not in bench.kit.hash(ref), "a drain counts against nobody"
    assert not heartbeat.is_running()
    assert bench.kit.client.zscore(bench.kit.keys.workers(TURNS_QUEUE), first.name) is None
    bench.upstream.wait_for(lambda: bench.upstream.hangups >= 1)


@pytest.mark.parametrize("silent", [False, True], ids=["in mid-answer", "before the first token"])
def test_a_cancel_closes_the_connection_to_the_provider_at_once(bench: Bench, silent: bool) -> None:
    bench.upstream.script(text("never", hang_before_head=True) if silent else slow(end="hang"))
    bench.worker()
    ref = bench.submit()
    bench.until(ref, "step_start" if silent else "step_progress")
    bench.upstream.wait_for(lambda: len(bench.upstream.requests) >= 2)  # the listing and the chat
    assert bench.upstream.hangups == 0

    assert bench.log.cancel(ref, reason="enough")[0] == "asked"
    # By the notice: the next renewal may be five seconds away.
    bench.upstream.wait_for(lambda: bench.upstream.hangups == 1, deadline_s=2)
    bench.until(ref, "turn_canceled")

    assert bench.kit.status(ref) == "canceled"


def test_a_worker_that_is_killed_is_followed_by_another_when_its_lease_is_over(bench: Bench) -> None:
    bench.upstream.default = text("All ", "of ", "it.")
    bench.upstream.script(slow(end="hang"))
    first = bench.worker(lease_s=2)
    ref = bench.submit()
    bench.until(ref, "step_progress")
    second = bench.worker(lease_s=2)

    first.end(signal.SIGKILL)
    bench.until(ref, "turn_complete", seconds=30)

    assert bench.kit.hash(ref)["worker"] == second.name
    assert bench.answer(ref) == "All of it."
    assert bench.kit.reader.state(ref).attempts == 2


def test_a_silent_turn_keeps_its_lease(bench: Bench) -> None:
    bench.upstream.script(text("Late.", first_s=5))
    bench.worker(lease_s=1)
    bench.worker(lease_s=1)
    ref = bench.submit()

    bench.until(ref, "turn_complete")

    assert bench.kit.reader.state(ref).attempts == 1
    assert bench.answer(ref) == "Late."


def test_two_hundred_slow_turns_run_side_by_side_in_one_process(bench: Bench) -> None:
    bench.upstream.default = text(*(f"w{n} " for n in range(10)), between_s=0.2)
    bench.worker()

    refs = [bench.submit(f"turn {number}") for number in range(200)]
    for ref in refs:
        bench.until(ref, "turn_complete", seconds=40)

    assert {bench.kit.reader.state(ref).attempts for ref in refs} == {1}
    assert {bench.answer(ref) for ref in refs} == {"".join(f"w{n} " for n in range(10))}


def test_connections_to_a_provider_are_used_again(bench: Bench) -> None:
    bench.worker()
    session = [bench.submit(f"turn {number}", hint=False) for number in range(5)]

    for ref in session:
        bench.hints.send(ref)
        bench.until(ref, "turn_complete")

    assert bench.upstream.connections == 1


def test_a_full_worker_leaves_turns_to_another(bench: Bench) -> None:
    bench.upstream.default = slow(end="hang")
    full = bench.worker(TURNSTONE_CONCURRENCY="2", TURNSTONE_DRAIN_S="1")
    held = [bench.submit(f"held {number}") for number in range(2)]
    for ref in held:
        bench.until(ref, "step_progress")
    bench.upstream.default = text("Done.")
    waiting = [bench.submit(f"waiting {number}") for number in range(3)]

    bench.worker()
    for ref in waiting:
        bench.until(ref, "turn_complete", seconds=30)

    assert [bench.kit.hash(ref)["worker"] for ref in held] == [full.name] * 2
    assert full.end(signal.SIGTERM) == 0, "also with a hint that waits for a free place"


def test_a_turn_that_is_claimed_before_the_first_listing_waits_for_it(bench: Bench) -> None:
    listing = json.dumps({"object": "list", "data": bench.upstream.models}).encode()
    reply = Stream(pieces=[listing], first_s=3, content_type="application/json")
    bench.upstream.models_reply = reply  # type: ignore[assignment]
    ref = bench.submit()

    worker = bench.worker(wait=False)
    bench.until(ref, "turn_start", seconds=START_S)
    assert [request.path for request in bench.upstream.requests] == ["/v1/models"]
    bench.until(ref, "turn_complete")

    assert bench.answer(ref) == "Hello world"
    bench.until_alive(worker)


def test_a_worker_that_loses_its_connections_to_the_store_goes_on_where_it_was(bench: Bench) -> None:
    bench.upstream.default = slow(20)
    bench.worker()
    ref = bench.submit()
    bench.until(ref, "step_progress")

    for _ in range(5):
        before = len(bench.kit.types(ref))
        bench.kit.client.client_kill_filter(skipme=True)
        wait_for(lambda before=before: len(bench.kit.types(ref)) > before, "the turn goes on")  # type: ignore[misc]
    bench.until(ref, "turn_complete")

    assert bench.kit.reader.state(ref).attempts == 1
    assert bench.answer(ref) == "".join(f"w{n} " for n in range(20))


class MortalStore(LocalStore):
    """A store that a test kills and starts again with its data."""

    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        self.prepare()
        nowhere = subprocess.DEVNULL
        self.process = subprocess.Popen(
            self.command(), cwd=self.data_dir, env=self.environ(os.environ), stdout=nowhere, stderr=nowhere
        )
        wait_for(self.answers, "the store answers")

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()


@pytest.fixture
def store() -> Iterator[MortalStore]:
    # Not pytest's own folders: their names grow past what a socket's address holds.
    store = MortalStore(binary=find_binary(), data_dir=Path(tempfile.mkdtemp(prefix="ts-")))
    store.start()
    yield store
    store.kill()
    shutil.rmtree(store.data_dir)


def test_a_store_that_is_away_for_longer_than_a_lease_costs_no_turn_its_worker(
    store: MortalStore, tmp_path: Path, key_prefix: str
) -> None:
    with benched(store.url, tmp_path, key_prefix) as bench:
        bench.upstream.default = lambda request: (
            slow(60) if "talk" in request.json["messages"][-1]["content"] else text("Late.", first_s=6)
        )
        for _ in range(2):
            bench.worker(lease_s=2)
        talking = [bench.submit(f"talk {number}") for number in range(10)]
        silent = [bench.submit(f"wait {number}") for number in range(5)]
        for ref in talking:
            bench.until(ref, "step_progress")
        for ref in silent:
            bench.until(ref, "step_start")
        leases = [bench.kit.lease(ref) or 0 for ref in talking + silent]

        store.kill()
        wait_for(lambda: time.time() * 1_000_000 > max(leases) + 500_000, "every lease has ended")
        store.start()
        for ref in talking + silent:
            bench.until(ref, "turn_complete")

        assert {bench.kit.reader.state(ref).attempts for ref in talking + silent} == {1}
        assert {bench.answer(ref) for ref in talking} == {"".join(f"w{n} " for n in range(60))}
        assert {bench.answer(ref) for ref in silent} == {"Late."}


def test_a_worker_that_is_stopped_past_its_lease_comes_back_to_a_turn_that_is_not_its_own(bench: Bench) -> None:
    bench.upstream.default = text("All ", "of ", "it.")
    bench.upstream.script(slow(60))
    first = bench.worker(lease_s=1.5)
    ref = bench.submit()
    bench.until(ref, "step_progress")
    second = bench.worker(lease_s=1.5)

    first.process.send_signal(signal.SIGSTOP)
    bench.until(ref, "turn_complete", seconds=30)
    log = bench.kit.raw_events(ref)
    first.process.send_signal(signal.SIGCONT)
    bench.upstream.wait_for(lambda: bench.upstream.hangups == 1)

    assert bench.kit.raw_events(ref) == log
    assert bench.kit.hash(ref)["worker"] == second.name
    again = bench.submit()
    bench.until(again, "turn_complete")
    assert first.process.poll() is None


def test_a_worker_starts_before_its_store_and_its_broker(tmp_path: Path, key_prefix: str) -> None:
    port = free_port()
    with FakeUpstream() as upstream:
        url = f"redis://127.0.0.1:{port}/0"
        worker = spawned(tmp_path, "early", url, upstream.url, TURNSTONE_KEY_PREFIX=key_prefix)
    try:
        wait_for(lambda: "Cannot connect" in worker.log.read_text(), "the worker has tried", seconds=START_S)
        with (
            running_server(find_binary(), "--port", str(port), "--bind", "127.0.0.1") as own,
            benched(own, tmp_path, key_prefix) as bench,
        ):
            bench.until_alive(worker)
    finally:
        worker.process.kill()
        worker.process.wait()


def test_a_wrong_config_is_said_in_one_line(tmp_path: Path) -> None:
    worker = spawned(tmp_path, "wrong", "redis://127.0.0.1:1/0", "no url")

    assert worker.process.wait(START_S) == os.EX_CONFIG
    assert len(worker.log.read_text().splitlines()) == 1
