"""A store that loses the end of a log is given it again by the worker that wrote it, as if nothing had happened."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import gevent
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from logkit import LogKit, delta, fresh_prefix, opened, started, text_step
from losing import cut, lies
from turnkit import Bench, turn_bench

from shared.errors import TailMismatch
from shared.ids import TurnRef
from shared.log.blobs import INLINE_LIMIT
from worker.interrupts import Interrupts
from worker.journal import Journal, TurnWriter
from worker.turn import TurnRun

DEADLINE_S = 30.0


@pytest.fixture
def bench(redis_url: str, key_prefix: str) -> Iterator[Bench]:
    with turn_bench(redis_url, key_prefix) as bench:
        yield bench


@contextmanager
def writing(redis_url: str) -> Iterator[tuple[LogKit, TurnWriter]]:
    """The writer of a turn that has just been claimed."""
    with opened(redis_url, fresh_prefix()) as kit:
        journal = Journal(log=kit.log)
        journal.start()
        claim = kit.claim(kit.accept()).claim
        yield kit, journal.open(claim, kit.reader.state(claim.ref), Interrupts())
        journal.stop()


def settle(writer: TurnWriter) -> None:
    with gevent.Timeout(DEADLINE_S):
        writer.settle()


def ends(journal: Journal, token: str) -> list[tuple[int, int]]:
    """Where the log ended before each batch that is kept."""
    return [place.begin for place in journal.kept._of[token]]


def lose(bench: Bench, ref: TurnRef, run: TurnRun, *, batches: int = 1) -> None:
    """Have the store lose the last batches of a turn, or as many as there are."""
    run.writer.settle()
    last, private_last = ends(bench.tools.journal, run.writer.token)[-batches:][0]
    cut(bench.kit, ref, last=last, private_last=private_last)


Batches = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 2), st.one_of(st.none(), st.floats(0, 1))), min_size=1, max_size=12
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=Batches)
def test_whatever_end_the_store_falls_back_to_the_log_becomes_what_it_was(
    redis_url: str, batches: list[tuple[int, int, float | None]]
) -> None:
    with writing(redis_url) as (kit, writer):
        known, there = [(2, 1)], 0
        whole = lies(kit, writer.ref)
        for number, (events, notes, fall) in enumerate([*batches, (1, 0, None)]):
            if fall is not None:
                # Not beyond what an earlier fall has left, where nothing was written since.
                there = int(fall * there)
                last, private_last = known[there]
                cut(kit, writer.ref, last=last, private_last=private_last)
            if not events and not notes:
                continue
            if events:
                writer.emit(started(f"s{number}"))
            for piece in range(events - 1):
                writer.emit(delta(f"s{number}", f"text {piece}"))
            for note in range(notes):
                writer.note("call_intent", {"step_id": f"s{number}", "call_id": f"c{note}"})
            settle(writer)
            now = lies(kit, writer.ref)
            assert (now[0][: len(whole[0])], now[1][: len(whole[1])]) == whole
            whole = now
            known.append((writer._last, writer._private_last))
            there = len(known) - 1

        assert writer.state.as_turn() == kit.reader.state(writer.ref).as_turn()


def test_a_payload_that_lies_elsewhere_comes_back_with_its_event(redis_url: str) -> None:
    with writing(redis_url) as (kit, writer):
        for event in text_step("s1", "x" * (INLINE_LIMIT + 1)):
            writer.emit(event)
        settle(writer)
        before = lies(kit, writer.ref)
        kit.client.delete(kit.keys.turn(writer.ref).blobs)

        cut(kit, writer.ref, last=2, private_last=1)
        writer.emit(started("s2"))
        settle(writer)

        assert lies(kit, writer.ref)[0][:-1] == before[0]
        assert writer.state.as_turn() == kit.reader.state(writer.ref).as_turn()


def test_a_loss_in_the_middle_of_a_tool_call_is_made_good_and_nothing_is_called_twice(bench: Bench) -> None:
    ref = bench.submit("book a seat", toolgroups=["seats"])
    turn = bench.claim(ref)
    before: list[Any] = []

    def during() -> None:
        before.append(lies(bench.kit, ref))
        lose(bench, ref, turn, batches=2)

    bench.seats.during = during
    events: list[Any] = []
    after_append(bench, lambda: events.append(lies(bench.kit, ref)))
    turn.run()

    [(shown, private)] = before
    assert [name for name, _, _ in bench.seats.calls] == ["book"]
    assert lies(bench.kit, ref)[0][: len(shown)] == shown
    assert any(seen[1][: len(private)] == private for seen in events), "the private records came back too"
    assert (bench.turn(ref)["status"], bench.turn(ref)["attempts"]) == ("completed", 1)


def after_append(bench: Bench, look: Callable[[], None]) -> None:
    """Have `look` called after each batch that the turn's worker writes."""
    journal = cast(Any, bench.tools.journal)
    plain = journal._log.append_many

    def append_many(writes: Any) -> Any:
        results = plain(writes)
        look()
        return results

    journal._log.append_many = append_many


def losing_once(bench: Bench, ref: TurnRef, turn: TurnRun, name: str) -> list[Any]:
    """Have the store lose two batches right before an operation is called first; what lay there before."""
    before: list[Any] = []
    log = cast(Any, bench.tools.log)
    plain = getattr(log, name)

    def losing(*args: Any, **options: Any) -> Any:
        if not before:
            before.append(lies(bench.kit, ref))
            lose(bench, ref, turn, batches=2)
        return plain(*args, **options)

    setattr(log, name, losing)
    return before


def test_a_loss_right_before_the_end_is_made_good_and_the_turn_ends(bench: Bench) -> None:
    ref = bench.submit("slowly")
    turn = bench.claim(ref)
    before = losing_once(bench, ref, turn, "finish")

    turn.run()

    assert lies(bench.kit, ref)[0][:-1] == before[0][0]
    row = bench.kit.reader.row(ref)
    assert row is not None and row.snapshot is not None
    assert orjson.loads(row.snapshot) == orjson.loads(orjson.dumps(bench.turn(ref)))
    assert (bench.turn(ref)["status"], bench.turn(ref)["attempts"]) == ("completed", 1)


def test_a_loss_right_before_the_turn_rests_is_made_good_and_it_rests(bench: Bench) -> None:
    ref = bench.submit("use look")
    turn = bench.claim(ref)
    before = losing_once(bench, ref, turn, "pause")

    turn.run()

    assert lies(bench.kit, ref)[0][:-1] == before[0][0]
    assert bench.turn(ref)["status"] == "awaiting_input"
    bench.answer(ref, bench.turn(ref)["output_message"]["tool_calls"][0], "seen")
    bench.run(ref)
    assert bench.turn(ref)["output_message"]["content"] == "I have seen it."


def test_a_loss_right_before_a_turn_is_given_back_is_made_good_and_the_taker_over_pays_for_nothing(
    bench: Bench,
) -> None:
    ref = bench.submit("book a seat", toolgroups=["seats"])
    turn = bench.claim(ref)
    bench.seats.during = turn._interrupts.ask_to_leave
    losing_once(bench, ref, turn, "append")

    turn.run()
    assert bench.hints.sent == [ref]
    bench.run(ref)

    assert [name for name, _, _ in bench.seats.calls] == ["book"]
    assert [step["step_type"] for step in bench.turn(ref)["steps"]] == ["inference", "tool_execution", "inference"]
    assert "step_abandoned" not in bench.kit.types(ref)


def test_a_turn_that_is_not_kept_far_enough_is_given_up_and_ends_once_elsewhere(bench: Bench) -> None:
    ref = bench.submit("slowly")
    turn = bench.claim(ref)
    running = gevent.spawn(turn.run)
    with gevent.Timeout(DEADLINE_S):
        while bench.kit.types(ref).count("step_progress") < 2:
            gevent.sleep(0.01)
    bench.tools.journal.kept.drop(turn.writer.token)
    cut(bench.kit, ref, last=2, private_last=1)
    running.join(timeout=DEADLINE_S)

    assert isinstance(turn.writer._lost, TailMismatch)
    assert bench.kit.types(ref) == ["turn_created", "turn_start"]
    bench.tools.log.release(ref, token=turn.writer.token)  # as its lease lapses
    bench.run(ref)

    assert (bench.turn(ref)["status"], bench.turn(ref)["attempts"]) == ("completed", 2)
    assert bench.kit.types(ref).count("turn_complete") == 1


def test_what_a_turn_kept_is_forgotten_with_its_end(bench: Bench) -> None:
    for words in ("say this", "use look", "break"):
        bench.run(bench.submit(words))

    assert bench.tools.journal.kept.size == 0
