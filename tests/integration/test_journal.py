"""The journal on a real store: what turns emit is in their logs, once and in order, whatever the round trips do."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import gevent
import pytest
from gevent.event import Event as Signal
from logkit import LogKit, delta, opened, started, text_step
from redis.exceptions import OutOfMemoryError, ReadOnlyError, ResponseError

from shared.errors import Fenced, LogError, StoreError, TailMismatch
from shared.events import StepStart, decode
from shared.fold import TurnState
from shared.ids import TurnRef
from shared.log.blobs import INLINE_LIMIT
from shared.log.turn_log import TurnLog, Write, Written
from worker import journal, refusals
from worker.interrupts import CancelAsked, Interrupts, LeaseLost
from worker.journal import Journal, TurnWriter

DEADLINE_S = 10.0


@dataclass
class FaultyLog:
    """A log whose round trips go wrong as the test says: `away` before, `lost` after the store has written.

    `gate` lets a test hold a round trip in flight.
    """

    log: TurnLog
    faults: list[str] = field(default_factory=list)
    batches: list[list[Write]] = field(default_factory=list)
    refused: set[TurnRef] = field(default_factory=set)
    refusal: ResponseError = field(default_factory=lambda: OutOfMemoryError("used memory > 'maxmemory'"))
    gate: Signal = field(default_factory=Signal)

    def append_many(self, writes: Sequence[Write]) -> list[Written | LogError | StoreError]:
        self.batches.append(list(writes))
        self.gate.wait()
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "away":
            raise StoreError("the store is away")
        results = [self._refuse() if one.ref in self.refused else self._append(one) for one in writes]
        if fault == "lost":
            raise StoreError("the reply was lost")
        return results

    def _refuse(self) -> StoreError:
        error = StoreError(str(self.refusal))
        error.__cause__ = self.refusal
        return error

    def _append(self, write: Write) -> Written | LogError | StoreError:
        return self.log.append_many([write])[0]


@dataclass
class Bench:
    kit: LogKit
    log: FaultyLog
    journal: Journal

    def writer(self, ref: TurnRef | None = None) -> TurnWriter:
        """The writer of a turn that has just been claimed."""
        claim = self.kit.claim(ref or self.kit.accept()).claim
        return self.journal.open(claim, self.kit.reader.state(claim.ref), Interrupts())

    def texts(self, ref: TurnRef) -> list[str]:
        """The text of each delta in the log."""
        events = [decode(entry) for entry in self.kit.reader.all_entries(ref)]
        return [cast(Any, event).delta["text"] for event in events if event.event_type == "step_progress"]


@pytest.fixture
def bench(redis_url: str, key_prefix: str) -> Iterator[Bench]:
    with opened(redis_url, key_prefix) as kit:
        log = FaultyLog(kit.log)
        log.gate.set()
        journal = Journal(log=cast(TurnLog, log))
        journal.start()
        yield Bench(kit, log, journal)
        journal.stop()


def until(condition: Any) -> None:
    """Let greenlets run until the condition holds."""
    with gevent.Timeout(DEADLINE_S):
        while not condition():
            gevent.sleep(0.005)


def settle(writer: TurnWriter) -> None:
    with gevent.Timeout(DEADLINE_S):
        writer.settle()


def asked(writer: TurnWriter) -> type | None:
    """What the turn's interrupts have heard."""
    return type(writer._interrupts._asked) if writer._interrupts._asked else None


def same(one: TurnState, other: TurnState) -> bool:
    return one.as_turn() == other.as_turn()


def test_text_that_goes_on_waits_for_what_cannot_wait(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_PACE_S", 10**9)
    one, other = bench.writer(), bench.writer()
    one.emit(started("s1"))
    one.emit(delta("s1", "first"))
    settle(one)

    one.emit(delta("s1", " second"))
    one.emit(delta("s1", " third"))
    gevent.sleep(0.05)
    waiting = bench.texts(one.ref)
    other.emit(started("s1"))
    other.emit(delta("s1", "first"))
    settle(one)

    assert waiting == ["first"]
    assert bench.texts(one.ref) == ["first", " second third"]


def test_the_start_of_a_reply_waits_for_its_first_token(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_PACE_S", 10**9)
    writer = bench.writer()

    writer.emit(started("s1"))
    gevent.sleep(0.05)
    early = list(bench.log.batches)
    writer.emit(delta("s1", "first"))
    settle(writer)

    assert early == []
    assert [event.event_type for event in bench.log.batches[0][0].events] == ["step_start", "step_progress"]


@pytest.mark.parametrize("what", ["step", "note"])
def test_what_follows_text_does_not_wait(bench: Bench, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.setattr(journal, "_PACE_S", 10**9)
    writer = bench.writer()
    writer.emit(started("s1"))
    writer.emit(delta("s1", "first"))
    settle(writer)

    writer.emit(delta("s1", " second"))
    if what == "step":
        writer.emit(text_step("s1")[-1])
    else:
        writer.note("call_intent", {"step_id": "s1", "call_id": "c1"})
    settle(writer)

    assert bench.texts(writer.ref) == ["first", " second"]


def test_text_that_comes_while_a_batch_is_on_its_way_waits_as_well(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "_PACE_S", 0.2)
    writer = bench.writer()
    bench.log.gate.clear()
    writer.emit(started("s1"))
    writer.emit(delta("s1", "first"))
    until(lambda: bench.log.batches)
    writer.emit(delta("s1", " second"))
    bench.log.gate.set()
    until(lambda: bench.texts(writer.ref) == ["first"])

    writer.emit(delta("s1", " third"))
    settle(writer)

    assert bench.texts(writer.ref) == ["first", " second third"]


def test_what_is_emitted_is_in_the_log_in_its_order(bench: Bench) -> None:
    writer = bench.writer()

    for event in text_step("s1"):
        writer.emit(event)
    settle(writer)

    assert bench.kit.types(writer.ref)[2:] == ["step_start", "step_progress", "step_complete"]
    assert same(writer.state, bench.kit.reader.state(writer.ref))


def test_the_first_event_leaves_at_once_and_what_comes_while_it_is_under_way_gathers(bench: Bench) -> None:
    writer = bench.writer()
    bench.log.gate.clear()

    writer.emit(started())
    until(lambda: bench.log.batches)
    for text in ("one ", "two ", "three"):
        writer.emit(delta("s1", text))
    bench.log.gate.set()
    settle(writer)

    assert [len(batch[0].events) for batch in bench.log.batches] == [1, 1]
    assert bench.texts(writer.ref) == ["one two three"]


def test_many_turns_share_a_round_trip(bench: Bench) -> None:
    writers = [bench.writer() for _ in range(50)]

    for writer in writers:
        writer.emit(started())
    for writer in writers:
        settle(writer)

    assert [len(batch) for batch in bench.log.batches] == [50]


def test_a_batch_whose_reply_was_lost_is_in_the_log_once(bench: Bench) -> None:
    writer = bench.writer()
    bench.log.faults = ["lost", "lost"]

    for event in text_step("s1"):
        writer.emit(event)
    settle(writer)
    writer.emit(started("s2"))
    settle(writer)

    assert bench.kit.types(writer.ref)[2:] == ["step_start", "step_progress", "step_complete", "step_start"]


def test_events_wait_for_a_store_that_is_away_and_what_was_sent_is_never_changed(bench: Bench) -> None:
    writer = bench.writer()
    writer.emit(started())
    settle(writer)
    bench.log.faults = ["away", "lost", "away", "away"]

    writer.emit(delta("s1", "one "))
    until(lambda: len(bench.log.batches) > 2)
    writer.emit(delta("s1", "two "))
    writer.emit(delta("s1", "three"))
    settle(writer)

    assert bench.texts(writer.ref) == ["one ", "two three"]
    assert same(writer.state, bench.kit.reader.state(writer.ref))


def test_a_turn_that_has_another_owner_writes_nothing_more_and_hears_of_it_at_once(bench: Bench) -> None:
    writer = bench.writer()
    bench.kit.log.release(writer.ref, token=writer.token)
    other = bench.kit.claim(writer.ref)
    before = bench.kit.raw_events(other.ref)

    writer.emit(started())

    with pytest.raises(Fenced):
        settle(writer)
    with pytest.raises(Fenced):
        writer.emit(delta())
    assert bench.kit.raw_events(other.ref) == before
    assert asked(writer) is LeaseLost


def test_a_lease_that_was_lost_while_the_store_was_away_is_found_out_when_it_is_back(bench: Bench) -> None:
    writer = bench.writer()
    bench.log.faults = ["away"] * 3
    writer.emit(started())
    until(lambda: len(bench.log.batches) > 1)
    bench.kit.log.release(writer.ref, token=writer.token)
    other = bench.kit.claim(writer.ref)
    other.append(*text_step("s9"))

    with pytest.raises(Fenced):
        settle(writer)

    assert bench.kit.types(writer.ref)[-3:] == ["step_start", "step_progress", "step_complete"]


def test_a_log_that_is_shorter_than_what_is_kept_is_not_written_on(bench: Bench) -> None:
    writer = bench.writer()
    for event in text_step("s1"):
        writer.emit(event)
    settle(writer)
    bench.journal.kept.drop(writer.token)
    bench.kit.client.hset(bench.kit.keys.turn(writer.ref).turn, "last", 2)

    writer.emit(started("s2"))

    with pytest.raises(TailMismatch):
        settle(writer)
    bench.kit.client.hset(bench.kit.keys.turn(writer.ref).turn, "last", 5)  # as the kit's last check wants it


def test_a_cancel_comes_with_the_reply_to_the_next_write(bench: Bench) -> None:
    writer = bench.writer()
    bench.kit.log.cancel(writer.ref, reason="enough")

    writer.emit(started())
    settle(writer)

    assert asked(writer) is CancelAsked


def test_what_the_store_refuses_of_one_turn_does_not_hold_up_the_others(bench: Bench) -> None:
    refused, other = bench.writer(), bench.writer()
    bench.log.refused = {refused.ref}

    refused.emit(started())
    for event in text_step("s1"):
        other.emit(event)
    settle(other)
    for _ in range(20):
        other.emit(started("s2"))
        refused.emit(delta())
        settle(other)
    tries = sum(write.ref == refused.ref for batch in bench.log.batches for write in batch)
    bench.log.refused = set()
    settle(refused)

    assert tries <= 2, "it was asked again with every batch of the others"
    assert bench.kit.types(refused.ref)[2:] == ["step_start", "step_progress"]


@pytest.mark.parametrize(
    ("refusal", "is_lost"),
    [
        (ResponseError("user_script:12: no such thing"), True),
        (ResponseError("WRONGTYPE Operation against a key"), True),
        (OutOfMemoryError("used memory > 'maxmemory'"), False),
        (ReadOnlyError("You can't write against a read only replica."), False),
        (ResponseError("MISCONF Errors writing to the AOF file: No space left on device"), False),
        (ResponseError("NOREPLICAS Not enough good replicas to write."), False),
    ],
    ids=lambda value: str(value).partition(" ")[0],
)
def test_what_waiting_does_not_cure_is_not_waited_for_for_ever(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, refusal: ResponseError, is_lost: bool
) -> None:
    monkeypatch.setattr(refusals, "ODD_TRIES", 2)
    monkeypatch.setattr(journal, "_RETRY_S", (0.01,))
    writer = bench.writer()
    bench.log.refused, bench.log.refusal = {writer.ref}, refusal

    writer.emit(started())
    until(lambda: writer.unwritable is not None or len(bench.log.batches) > 5)

    assert (writer.unwritable is not None) is is_lost
    assert (asked(writer) is LeaseLost) is is_lost
    bench.log.refused = set()


def test_large_values_go_their_own_way_and_come_back(bench: Bench) -> None:
    writer = bench.writer()
    large = "x" * (INLINE_LIMIT + 1)
    bench.log.faults = ["lost"]

    for event in text_step("s1", large):
        writer.emit(event)
    settle(writer)

    assert bench.texts(writer.ref) == [large]


def test_an_event_that_cannot_be_written_fails_where_it_is_emitted(bench: Bench) -> None:
    writer, other = bench.writer(), bench.writer()

    with pytest.raises(TypeError):
        writer.emit(delta("s1", "half a \ud83d"))
    for one in (writer, other):
        one.emit(started())
        settle(one)

    assert same(writer.state, bench.kit.reader.state(writer.ref))


def test_the_last_write_begins_where_the_batch_in_flight_ends(bench: Bench) -> None:
    writer = bench.writer()
    bench.log.gate.clear()
    for event in text_step("s1"):
        writer.emit(event)
    gevent.spawn_later(0.01, bench.log.gate.set)

    with gevent.Timeout(DEADLINE_S):
        write = writer.last_write(started("s2"))

    assert write.last == 5
    assert same(writer.state, bench.kit.reader.state(writer.ref)), "what a script may refuse is not in the state"


def test_a_journal_that_breaks_ends_its_process() -> None:
    script = """
import gevent
from worker.interrupts import Interrupts
from worker.journal import Journal

class Broken:
    def append_many(self, writes):
        raise RuntimeError("broken")

class Writer:
    def begin(self):
        return "a batch"

journal = Journal(log=Broken())
journal.start()
journal.wake(Writer())
gevent.sleep(30)
"""
    done = subprocess.run([sys.executable, "-c", script], timeout=30, capture_output=True, text=True, check=False)

    assert done.returncode == 70
    assert "journal failed" in done.stderr


def test_deltas_of_two_steps_are_never_one_event(bench: Bench) -> None:
    writer = bench.writer()
    bench.log.gate.clear()
    writer.emit(StepStart(step_type="inference", step_id="s1", started_at="2026-01-01T00:00:00Z", metadata={}))
    until(lambda: bench.log.batches)
    writer.emit(delta("s1", "one"))
    writer.emit(delta("s2", "two"))
    bench.log.gate.set()
    settle(writer)

    assert bench.texts(writer.ref) == ["one", "two"]
