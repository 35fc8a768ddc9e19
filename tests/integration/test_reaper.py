"""The reaper on a real store: what nobody looks after is hinted again, taken over, ended or cleared."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import gevent
import orjson
import pytest
from celery import Celery
from celery.contrib.testing.worker import start_worker
from logkit import MAX_ATTEMPTS, SECOND, LogKit, opened, running_server, text_step
from waiting import wait_for

from shared.cli.binaries import find_binary
from shared.errors import StoreError
from shared.hints import RUN_TURN, Hints, celery_app
from shared.ids import TurnRef, new_turn_id
from shared.log.sessions import SWEEP_DELAY_S
from shared.log.turn_log import NotClaimable, Terms
from shared.queues import TURNS_QUEUE
from shared.settings import kombu_url
from worker.reaper import INTERVAL_S, Reaper

Stream = list[tuple[bytes, dict[bytes, bytes]]]


class NotedHints(Hints):
    """Notes hints in place of a broker."""

    def __init__(self) -> None:
        super().__init__(app=Celery())
        self.sent: list[TurnRef] = []

    def send(self, ref: TurnRef) -> None:
        self.sent.append(ref)


@dataclass
class Bench:
    kit: LogKit
    hints: NotedHints

    def reaper(self, hints: Hints | None = None) -> Reaper:
        """A reaper on the kit's clock, as it stands now."""
        kit = self.kit
        return Reaper(
            client=kit.client,
            keys=kit.keys,
            log=kit.log,
            reader=kit.reader,
            sessions=kit.sessions,
            hints=hints or self.hints,
            lease_s=15,
            now_us=kit.now,
        )

    def look(self, seconds: float = 0) -> list[TurnRef]:
        """The hints of a round, after some time has passed."""
        self.kit.pass_time(seconds)
        self.kit.client.delete(self.kit.keys.reaper)
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


def test_one_reaper_at_a_time_looks_and_the_others_leave_it_to_that_one(bench: Bench) -> None:
    refs = {bench.kit.accept() for _ in range(30)}
    bench.kit.pass_time(2)

    rounds = [gevent.spawn(bench.reaper().look) for _ in range(4)]
    gevent.joinall(rounds, raise_error=True)

    assert sorted(ref.member for ref in bench.hints.sent) == sorted(ref.member for ref in refs)


def test_a_reaper_that_dies_or_hangs_with_the_lock_keeps_nobody_waiting(bench: Bench) -> None:
    first, other = bench.reaper(), bench.reaper()
    first.look()
    ref = bench.kit.accept()
    bench.kit.pass_time(2)
    lock = bench.kit.keys.reaper

    later = bench.reaper()
    later.look()
    other.look()
    assert bench.hints.sent == []
    assert 0 < cast(int, bench.kit.client.pttl(lock)) < INTERVAL_S * 1000
    wait_for(lambda: not bench.kit.client.exists(lock), "the lock has run out")
    later.look()

    assert bench.hints.sent == [ref]


def test_a_reaper_holds_on_to_its_lock_from_round_to_round(bench: Bench) -> None:
    reaper, other = bench.reaper(), bench.reaper()

    for _ in range(3):
        bench.kit.client.pexpire(bench.kit.keys.reaper, 300_000)
        reaper.look()
        ours = bench.kit.client.get(bench.kit.keys.reaper)
        other.look()

        assert bench.kit.client.get(bench.kit.keys.reaper) == ours
        assert cast(int, bench.kit.client.pttl(bench.kit.keys.reaper)) <= INTERVAL_S * 1000


def test_more_overdue_turns_than_one_look_names_are_worked_off_one_look_after_the_other(bench: Bench) -> None:
    session = bench.kit.session()
    refs = [bench.kit.accept() for _ in range(20)]
    shard = bench.kit.keys.shard(session.shard)
    gone = [TurnRef(session.tenant, session.session_id, new_turn_id(session.session_id)) for _ in range(450)]
    bench.kit.client.zadd(shard.due, {ref.member: 1 for ref in gone})
    bench.kit.pass_time(2)
    reaper = bench.reaper()

    assert [reaper.look() for _ in range(4)] == [True, True, False, False]

    assert sorted(ref.member for ref in bench.hints.sent) == sorted(ref.member for ref in refs)
    assert bench.kit.client.zcard(shard.due) == len([ref for ref in refs if ref.shard == session.shard])


def test_what_cannot_be_dealt_with_is_not_asked_for_again_at_once(bench: Bench) -> None:
    session = bench.kit.session()
    bench.kit.client.zadd(bench.kit.keys.shard(session.shard).due, {f"no member {number}": 1 for number in range(250)})

    assert bench.reaper().look() is False


def test_a_turn_past_its_deadline_ends_whoever_runs_it(bench: Bench) -> None:
    session = bench.kit.session()
    ref, after = bench.kit.accept(session, terms=Terms(deadline_s=5)), bench.kit.accept(session, text="after")
    bench.kit.claim(ref)

    assert bench.look(4) == []
    assert bench.look(2) == [after], "the next one of its session goes on"

    assert bench.kit.status(ref) == "failed"


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


def test_one_turn_whose_keys_hold_something_else_keeps_no_other_waiting(bench: Bench) -> None:
    broken, other = bench.kit.accept(), bench.kit.accept()
    key = bench.kit.keys.turn(broken).turn
    kept = cast(bytes, bench.kit.client.dump(key))
    bench.kit.client.delete(key)
    bench.kit.client.set(key, "something else")

    assert bench.look(2) == [other]

    bench.kit.client.restore(key, 0, kept, replace=True)


def rewrite(kit: LogKit, key: str, entries: Stream) -> None:
    kit.client.delete(key)
    for entry_id, fields in entries:
        kit.client.xadd(key, cast(Any, fields), id=entry_id)


class Outage:
    """Has a reaper meet a fault of the store in its first round, and end after its second."""

    def __init__(self, reaper: Reaper, fault: Callable[[], object], end: Callable[[], object]) -> None:
        self._look, self._fault, self._end = reaper.look, fault, end
        self._rounds = 0
        reaper.look = self.look  # type: ignore[method-assign]
        gevent.spawn(reaper.run).join(timeout=60)
        assert self._rounds == 3

    def look(self) -> bool:
        self._rounds += 1
        if self._rounds == 1:
            self._fault()
            try:
                return self._look()
            finally:
                self._end()
        if self._rounds == 2:
            return self._look()
        raise gevent.GreenletExit


def check_leniency(bench: Bench, outage: Callable[[Reaper], object]) -> None:
    """After it, who waits for a worker is hinted, and who has one is left to it."""
    owner = bench.kit.running()
    waiting = bench.kit.accept()
    bench.kit.pass_time(16)

    outage(bench.reaper())

    assert bench.hints.sent == [waiting], "who waits for a worker is hinted; who has one may still be served"
    assert owner.renew() == "OK"
    with pytest.raises(NotClaimable):
        bench.kit.claim(owner.ref)
    assert (bench.kit.lease(owner.ref) or 0) > bench.kit.now + SECOND


def test_after_the_store_was_away_lapsed_leases_get_one_lease_to_be_renewed(bench: Bench) -> None:
    def away() -> None:
        raise StoreError("away")

    check_leniency(bench, lambda reaper: Outage(reaper, away, lambda: None))


@pytest.mark.parametrize("leads", [True, False], ids=["it has the lock", "another reaper has it"])
def test_so_they_do_after_the_store_was_full(key_prefix: str, leads: bool) -> None:
    with running_server(find_binary()) as url, opened(url, key_prefix) as kit:
        bench = Bench(kit, NotedHints())
        lock, leader = kit.keys.reaper, bench.reaper()

        def fill() -> None:
            if not leads:
                assert leader.look() is False
                bench.hints.sent.clear()
                kit.client.persist(lock)
            kit.client.config_set("maxmemory", 1)

        def clear() -> None:
            kit.client.config_set("maxmemory", 0)
            kit.client.delete(lock)

        check_leniency(bench, lambda reaper: Outage(reaper, fill, clear))
