"""The reaper on a real store: what nobody looks after is hinted again, taken over, ended or cleared."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import gevent
import orjson
import pytest
from celery import Celery
from celery.contrib.testing.worker import start_worker
from logkit import MAX_ATTEMPTS, SECOND, LogKit, opened, text_step
from waiting import wait_for

from shared.errors import StoreError
from shared.hints import RUN_TURN, Hints, celery_app
from shared.ids import TurnRef
from shared.log.sessions import SWEEP_DELAY_S
from shared.log.turn_log import NotClaimable
from shared.queues import TURNS_QUEUE
from shared.settings import kombu_url
from worker.reaper import Reaper

Stream = list[tuple[bytes, dict[bytes, bytes]]]


class NotedHints(Hints):
    """Notes hints in place of a broker."""

    def __init__(self) -> None:
        super().__init__(app=Celery())
        self.sent: list[TurnRef] = []

    def send(self, ref: TurnRef) -> None:
        self.sent.append(ref)


class ClockedReaper(Reaper):
    """A reaper on the kit's clock, which looks at once and as often as the test says."""

    kit: LogKit

    def _now_us(self) -> int:
        return self.kit.now


@dataclass
class Bench:
    kit: LogKit
    hints: NotedHints

    def reaper(self, hints: Hints | None = None) -> ClockedReaper:
        kit = self.kit
        reaper = ClockedReaper(
            client=kit.client,
            keys=kit.keys,
            log=kit.log,
            reader=kit.reader,
            sessions=kit.sessions,
            hints=hints or self.hints,
            lease_s=15,
        )
        reaper.kit = kit
        return reaper

    def look(self, seconds: float = 0) -> list[TurnRef]:
        """The hints of a round, after some time has passed."""
        self.kit.pass_time(seconds)
        for shard in {ref.shard for ref in self.kit.seen}:
            self.kit.client.delete(self.kit.keys.shard(shard).reaper)
        before = len(self.hints.sent)
        self.reaper().look()
        return self.hints.sent[before:]


@pytest.fixture
def bench(redis_url: str, key_prefix: str) -> Iterator[Bench]:
    with opened(redis_url, key_prefix) as kit:
        yield Bench(kit, NotedHints())


@pytest.fixture
def app(redis_url: str, key_prefix: str) -> Iterator[Celery]:
    """A broker queue of the test's own."""
    app = celery_app(kombu_url(redis_url), prefix=key_prefix)
    yield app
    app.close()


def test_a_turn_that_nobody_claims_is_hinted_again_later_and_later(bench: Bench) -> None:
    ref = bench.kit.accept()

    assert bench.look() == [], "its own hint is still on the way"
    assert bench.look(1) == [ref]
    assert bench.look(0.5) == []
    assert bench.look(0.5) == [ref]
    assert bench.look(1) == []
    assert bench.look(1) == [ref]


def test_only_the_head_of_a_session_is_hinted(bench: Bench) -> None:
    session = bench.kit.session()
    head, _ = bench.kit.accept(session), bench.kit.accept(session, text="later")

    assert bench.look(5) == [head]


def test_a_hint_of_the_reaper_reaches_a_worker_through_the_broker(bench: Bench, app: Celery) -> None:
    ref = bench.kit.accept()
    bench.kit.pass_time(2)
    seen: list[str] = []
    arrived = threading.Event()

    @app.task(name=RUN_TURN)
    def run(member: str) -> None:
        seen.append(member)
        arrived.set()

    with start_worker(app, queues=[TURNS_QUEUE], perform_ping_check=False, pool="solo", shutdown_timeout=20):
        bench.reaper(Hints(app=app)).look()
        assert arrived.wait(20)

    assert seen == [ref.member]


def test_a_lapsed_lease_is_hinted_and_taken_over(bench: Bench) -> None:
    owner = bench.kit.running()
    owner.append(*text_step("s1"))

    assert bench.look(14) == []
    assert bench.look(2) == [owner.ref]
    bench.kit.claim(owner.ref)

    assert bench.kit.types(owner.ref)[-1] == "turn_recovered"
    assert owner.renew() == "LOST"


def test_a_turn_whose_workers_are_lost_again_and_again_fails_and_says_so(bench: Bench) -> None:
    session = bench.kit.session()
    ref, after = bench.kit.accept(session), bench.kit.accept(session, text="after")
    for _ in range(MAX_ATTEMPTS - 1):
        bench.kit.claim(ref)
        assert bench.look(16) == [ref]
    bench.kit.claim(ref)

    assert bench.look(16) == [after], "the next one of its session goes on"

    bench.look()
    row = bench.kit.reader.row(ref)
    assert row is not None and row.snapshot is not None
    assert orjson.loads(row.snapshot)["error"]["code"] == "max_attempts_exceeded"


def test_a_turn_that_was_ended_in_a_script_gets_its_snapshot(bench: Bench) -> None:
    owner = bench.kit.running()
    owner.append(*text_step("s1", "what it said"))
    bench.kit.pass_time(16)
    bench.kit.log.cancel(owner.ref, reason="enough")
    assert bench.kit.unfolded(owner.ref)

    bench.look()

    row = bench.kit.reader.row(owner.ref)
    assert row is not None and row.snapshot is not None
    assert orjson.loads(row.snapshot) == orjson.loads(orjson.dumps(bench.kit.reader.state(owner.ref).as_turn()))
    assert not bench.kit.unfolded(owner.ref)


def test_a_client_that_never_answers_ends_its_turn(bench: Bench) -> None:
    ref = bench.kit.awaiting("c1")

    bench.look(599)
    assert bench.kit.status(ref) == "awaiting_input"
    bench.look(2)
    assert bench.kit.status(ref) == "failed"


def test_idle_sessions_are_removed_with_everything_of_theirs(bench: Bench) -> None:
    session = bench.kit.session(idle_ttl_s=100)
    bench.kit.claim(bench.kit.accept(session)).finish()

    bench.look(101)
    assert bench.kit.sessions.get(session) is None
    bench.look(SWEEP_DELAY_S + 1)

    left = [key for key in bench.kit.everything() if not key.endswith(":reaper")]
    assert left == []


def test_two_reapers_do_not_look_at_the_same_shard(bench: Bench) -> None:
    refs = {bench.kit.accept() for _ in range(30)}
    bench.kit.pass_time(2)

    rounds = [gevent.spawn(bench.reaper().look) for _ in range(4)]
    gevent.joinall(rounds, raise_error=True)

    assert sorted(ref.member for ref in bench.hints.sent) == sorted(ref.member for ref in refs)


def test_a_reaper_that_dies_with_a_lock_keeps_nobody_waiting(bench: Bench) -> None:
    ref = bench.kit.accept()
    bench.kit.pass_time(2)
    lock = bench.kit.keys.shard(ref.shard).reaper
    bench.kit.client.set(lock, "1", nx=True, px=200)

    bench.reaper().look()
    assert bench.hints.sent == []
    wait_for(lambda: not bench.kit.client.exists(lock), "the lock has run out")
    bench.reaper().look()

    assert bench.hints.sent == [ref]


def test_one_turn_that_cannot_be_read_keeps_no_other_waiting(bench: Bench) -> None:
    session = bench.kit.session()
    first, second = bench.kit.accept(session), bench.kit.accept(session, text="later")
    for ref in (second, first):
        bench.kit.log.cancel(ref, reason="enough")
    key = bench.kit.keys.turn(first).events
    readable = cast(Stream, bench.kit.client.xrange(key))
    newer = {b"t": b"turn_dreamt", b"v": b"99", b"p": b"{}"}
    rewrite(bench.kit, key, [(readable[0][0], newer), *readable[1:]])

    bench.look()

    assert bench.kit.unfolded(first)
    assert not bench.kit.unfolded(second)
    rewrite(bench.kit, key, readable)


def rewrite(kit: LogKit, key: str, entries: Stream) -> None:
    kit.client.delete(key)
    for entry_id, fields in entries:
        kit.client.xadd(key, cast(Any, fields), id=entry_id)


def test_after_the_store_was_away_lapsed_leases_get_one_lease_to_be_renewed(bench: Bench) -> None:
    owner = bench.kit.running()
    waiting = bench.kit.accept()
    bench.kit.pass_time(16)
    reaper = bench.reaper()
    looks = iter([StoreError("away"), None])
    plain = reaper.look

    def look() -> None:
        fault = next(looks, "over")
        if isinstance(fault, StoreError):
            raise fault
        if fault == "over":
            raise gevent.GreenletExit
        plain()

    reaper.look = look  # type: ignore[method-assign]
    gevent.spawn(reaper.run).join(timeout=20)

    assert bench.hints.sent == [waiting], "who waits for a worker is hinted; who has one may still be served"
    assert owner.renew() == "OK"
    with pytest.raises(NotClaimable):
        bench.kit.claim(owner.ref)
    assert (bench.kit.lease(owner.ref) or 0) > bench.kit.now + SECOND
