"""The heartbeat with its real child process, in a real parent that a test can block and kill."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any, cast

import psutil
import pytest
from logkit import LogKit, opened
from waiting import wait_for

from shared.ids import TurnRef
from shared.log.turn_log import Claim
from worker.heartbeat import Heartbeat
from worker.heartbeat_process import Leases

# Holds the turns that it is told of and prints what it hears. SIGUSR1 blocks all of it, hub included, in C.
PARENT = """
import signal, sys, time
import gevent
from shared.ids import TurnRef
from worker.heartbeat import Heartbeat

url, prefix, lease_s, block_s, *held = sys.argv[1:]

def say(*words):
    print(*words, flush=True)

def block(*_):
    time.sleep(float(block_s))
    say("woke")

signal.signal(signal.SIGUSR1, block)
heartbeat = Heartbeat(
    redis_url=url, key_prefix=prefix, lease_s=float(lease_s), on_notice=lambda member, what: say(what, member)
)
heartbeat.start()
for member, token in zip(held[::2], held[1::2]):
    heartbeat.hold(TurnRef.parse(member), token)
while True:
    gevent.sleep(0.02)
    if heartbeat.pid:
        say("child", heartbeat.pid)
"""


@dataclass
class Parent:
    process: "subprocess.Popen[str]"
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with cast(IO[str], self.process.stdout) as lines:
            for line in lines:
                self.lines.append(line.strip())

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()

    def child(self, *, other_than: int = 0) -> int:
        """The pid of its heartbeat process."""
        wait_for(lambda: self._child() not in (None, other_than), "the heartbeat process has started")
        return cast(int, self._child())

    def _child(self) -> int | None:
        pids = [int(line.split()[1]) for line in self.lines if line.startswith("child")]
        return pids[-1] if pids else None

    def wait_for_line(self, line: str, times: int = 1) -> None:
        wait_for(lambda: self.lines.count(line) >= times, f"the parent says '{line}'")

    def block(self) -> None:
        self.process.send_signal(signal.SIGUSR1)


@dataclass
class Bench:
    kit: LogKit
    url: str

    def claim(self, lease_s: float) -> Claim:
        log = self.kit.log_with(now_us=None, lease_s=lease_s)
        return log.claim(self.kit.accept(), token=os.urandom(8).hex(), worker="w")

    @contextmanager
    def parent(self, *claims: Claim, lease_s: float, block_s: float = 0) -> Iterator[Parent]:
        held = [word for claim in claims for word in (claim.ref.member, claim.token)]
        command = [sys.executable, "-c", PARENT, self.url, self.kit.prefix, str(lease_s), str(block_s), *held]
        parent = Parent(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        try:
            yield parent
        finally:
            parent.end()

    def left_s(self, ref: TurnRef) -> float:
        """How long the turn's lease still lasts."""
        seconds, micros = cast(tuple[int, int], self.kit.client.time())
        return (cast(int, self.kit.lease(ref)) - seconds * 1_000_000 - micros) / 1_000_000

    def renewed(self, ref: TurnRef, *, times: int = 1) -> None:
        """Return once the lease has been extended so often."""
        for _ in range(times):
            before = self.kit.lease(ref)
            wait_for(lambda before=before: self.kit.lease(ref) != before, "the lease is renewed")  # type: ignore[misc]


@pytest.fixture
def bench(redis_url: str, key_prefix: str) -> Iterator[Bench]:
    with opened(redis_url, key_prefix) as kit:
        yield Bench(kit, redis_url)


def test_leases_are_renewed_before_they_end(bench: Bench) -> None:
    claims = [bench.claim(lease_s=2) for _ in range(3)]

    with bench.parent(*claims, lease_s=2):
        bench.renewed(claims[0].ref, times=4)
        for claim in claims:
            assert bench.left_s(claim.ref) > 0


def test_a_parent_whose_hub_is_blocked_loses_its_leases(bench: Bench) -> None:
    claim = bench.claim(lease_s=1.5)

    with bench.parent(claim, lease_s=1.5, block_s=6) as parent:
        bench.renewed(claim.ref, times=2)
        parent.block()
        wait_for(lambda: bench.left_s(claim.ref) < 0, "the lease has lapsed")

        assert "woke" not in parent.lines


def test_a_parent_that_stalls_for_a_second_keeps_them(bench: Bench) -> None:
    claim = bench.claim(lease_s=3)
    left = []

    with bench.parent(claim, lease_s=3, block_s=1) as parent:
        bench.renewed(claim.ref)
        parent.block()
        wait_for(lambda: bool(left.append(bench.left_s(claim.ref)) or "woke" in parent.lines), "the stall is over")
        bench.renewed(claim.ref)

    assert min(left) > 0


def test_the_parent_hears_of_a_turn_that_it_has_lost(bench: Bench) -> None:
    claim = bench.claim(lease_s=1.5)

    with bench.parent(claim, lease_s=1.5) as parent:
        bench.renewed(claim.ref)
        bench.kit.log.release(claim.ref, token=claim.token)

        parent.wait_for_line(f"lost {claim.ref.member}")


def test_the_parent_hears_of_a_cancel_whose_notice_it_missed(bench: Bench) -> None:
    claim = bench.claim(lease_s=1.5)
    bench.kit.log_with(now_us=None).cancel(claim.ref, reason="enough")

    with bench.parent(claim, lease_s=1.5) as parent:
        parent.wait_for_line(f"cancel {claim.ref.member}")


def test_a_heartbeat_process_that_is_killed_is_replaced_and_told_of_all_turns(bench: Bench) -> None:
    claims = [bench.claim(lease_s=2) for _ in range(3)]

    with bench.parent(*claims, lease_s=2) as parent:
        first = parent.child()
        os.kill(first, signal.SIGKILL)
        parent.child(other_than=first)
        for claim in claims:
            bench.renewed(claim.ref, times=2)
            assert bench.left_s(claim.ref) > 0


def test_the_heartbeat_process_ends_with_a_parent_that_is_killed(bench: Bench) -> None:
    claim = bench.claim(lease_s=1.5)

    with bench.parent(claim, lease_s=1.5) as parent:
        child = psutil.Process(parent.child())
        bench.renewed(claim.ref)
        parent.process.kill()
        wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "the child has ended")
        wait_for(lambda: bench.left_s(claim.ref) < 0, "the lease has lapsed")


def test_the_heartbeat_process_of_a_parent_that_died_at_once_ends_without_a_word() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "worker.heartbeat_process"], input=b"", capture_output=True, timeout=60, check=False
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_notice_about_an_earlier_claim_does_not_touch_the_present_one() -> None:
    heard: list[Any] = []
    ref = TurnRef("default", "sess_01_a", "turn_01_a")
    heartbeat = Heartbeat(redis_url="", key_prefix="", lease_s=15, on_notice=lambda *notice: heard.append(notice))

    heartbeat.hold(ref, "old")
    heartbeat.drop(ref)
    heartbeat.hold(ref, "new")
    heartbeat._heard("lost", ref.member, "old")
    heartbeat._heard("cancel", ref.member, "new")

    assert heard == [(ref.member, "cancel")]


def test_an_answer_about_an_earlier_claim_does_not_end_the_renewing_of_the_present_one() -> None:
    leases = Leases()
    member = "default/sess_01_a/turn_01_a"
    leases._held[member] = "new"

    leases.forget(member, "old")
    assert [token for _, token in leases.to_renew(60)] == ["new"]
    leases.forget(member, "new")
    assert leases.to_renew(60) == []
