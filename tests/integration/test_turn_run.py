"""Turns run by the real loop against a real store; the provider is the scripted one."""

from collections.abc import Iterator
from typing import Any, cast

import gevent
import orjson
import pytest
from logkit import delta
from redis.exceptions import ResponseError
from turnkit import Bench, turn_bench

from shared.errors import StoreError
from shared.events import StepStart
from shared.ids import TurnRef, new_token
from shared.status import TurnStatus
from worker import journal, refusals
from worker.interrupts import CancelAsked, Draining, Interrupts
from worker.turn import TurnRun, until_stored

Json = dict[str, Any]


@pytest.fixture
def bench(redis_url: str, key_prefix: str) -> Iterator[Bench]:
    with turn_bench(redis_url, key_prefix) as bench:
        yield bench


def test_a_turn_runs_to_its_answer(bench: Bench) -> None:
    ref = bench.submit("say this")
    bench.run(ref)
    turn = bench.turn(ref)
    assert turn["status"] == "completed"
    assert "say this" in turn["output_message"]["content"]
    assert turn["steps"][0]["usage"]["total_tokens"] > 0


def test_the_snapshot_is_what_the_log_tells(bench: Bench) -> None:
    ref = bench.submit("say this")
    bench.run(ref)
    row = bench.kit.reader.row(ref)
    assert row is not None and row.snapshot is not None
    assert orjson.loads(row.snapshot) == orjson.loads(orjson.dumps(bench.turn(ref)))


def test_the_next_turn_of_the_session_is_hinted_and_sees_the_first(bench: Bench) -> None:
    session = bench.kit.session()
    first = bench.kit.accept(session, text="say one", config=bench.config())
    second = bench.kit.accept(session, text="say two", config=bench.config())
    bench.run(first)
    assert bench.hints.sent == [second]
    turn = bench.claim(second)
    assert [past["input_messages"][0]["content"] for past in turn._history()] == ["say one"]
    turn.run()


def test_a_client_tool_pauses_the_turn_and_its_responses_bring_it_back(bench: Bench) -> None:
    ref = bench.submit("use look")
    bench.run(ref)
    paused = bench.turn(ref)
    assert paused["status"] == "awaiting_input"
    (call,) = paused["output_message"]["tool_calls"]
    assert call["arguments"] == {"at": "x", "depth": 3}
    assert call["arguments_json"] == '{"at":"x","depth":3}'
    assert paused["output_message"]["stop_reason"] == "end_of_message"

    bench.answer(ref, call, "seen")
    bench.run(ref)

    done = bench.turn(ref)
    assert [step["step_type"] for step in done["steps"]] == ["inference", "tool_execution", "inference"]
    assert done["output_message"]["content"] == "I have seen it."
    assert bench.kit.types(ref).count("turn_start") == 1, "a resume starts nothing anew"


def test_two_calls_in_one_reply_wait_together(bench: Bench) -> None:
    ref = bench.submit("use both")
    bench.run(ref)
    calls = bench.turn(ref)["output_message"]["tool_calls"]
    assert len({call["call_id"] for call in calls}) == 2


def test_an_unknown_tool_goes_back_to_the_model(bench: Bench) -> None:
    ref = bench.submit("use unknown")
    bench.run(ref)
    turn = bench.turn(ref)
    assert turn["status"] == "completed"
    assert turn["output_message"]["content"] == "I am sorry."


def test_at_the_limit_of_iterations_the_turn_ends_with_the_calls_in_its_message(bench: Bench) -> None:
    ref = bench.submit("use look", max_infer_iters=1)
    bench.run(ref)
    turn = bench.turn(ref)
    assert turn["status"] == "completed"
    assert turn["output_message"]["stop_reason"] == "end_of_turn"
    assert len(turn["output_message"]["tool_calls"]) == 1


def test_a_failing_provider_ends_the_turn_with_an_error_that_names_it(bench: Bench) -> None:
    ref = bench.submit("break")
    bench.run(ref)
    turn = bench.turn(ref)
    assert turn["status"] == "failed"
    assert turn["error"]["provider_id"] == "play"
    assert "out of order" in turn["error"]["message"]
    assert turn["output_message"]["content"] == ""


def test_a_model_that_nobody_serves_any_more_fails_the_turn_and_names_what_is_served(bench: Bench) -> None:
    ref = bench.submit("hello", model="gone")
    bench.run(ref)
    error = bench.turn(ref)["error"]
    assert error["code"] == "model_not_found"
    assert "scripted" in error["message"]


def test_a_cancel_in_mid_answer_ends_the_turn_as_canceled(bench: Bench) -> None:
    ref = bench.submit("slowly")
    turn = bench.claim(ref)
    running = gevent.spawn(turn.run)
    while "step_progress" not in bench.kit.types(ref):
        gevent.sleep(0.01)
    turn._interrupts.ask(CancelAsked())
    running.join()
    view = bench.turn(ref)
    assert view["status"] == "canceled"
    assert view["steps"][0]["completed_at"] is None


def test_a_drained_turn_goes_on_elsewhere_under_a_new_step(bench: Bench) -> None:
    ref = bench.submit("slowly")
    turn = bench.claim(ref)
    running = gevent.spawn(turn.run)
    while "step_progress" not in bench.kit.types(ref):
        gevent.sleep(0.01)
    turn._interrupts.ask(Draining())
    running.join()
    assert bench.hints.sent == [ref]

    bench.run(ref)

    types = bench.kit.types(ref)
    assert types.index("step_abandoned") == types.index("turn_recovered") + 1
    view = bench.turn(ref)
    assert view["status"] == "completed"
    assert view["attempts"] == 2
    assert view["output_message"]["content"] == "one two three four five"


def test_a_turn_that_is_asked_to_leave_ends_its_step_and_goes_on_elsewhere_with_the_next(bench: Bench) -> None:
    ref = bench.submit("book a seat", toolgroups=["seats"])
    turn = bench.claim(ref)
    bench.seats.during = turn._interrupts.ask_to_leave
    turn.run()
    assert bench.kit.types(ref)[-1] == "step_complete"
    assert bench.hints.sent == [ref]

    bench.run(ref)

    view = bench.turn(ref)
    assert [step["step_type"] for step in view["steps"]] == ["inference", "tool_execution", "inference"]
    assert (view["status"], view["attempts"], len(bench.seats.calls)) == ("completed", 2, 1)
    assert "step_abandoned" not in bench.kit.types(ref)


def test_a_turn_that_is_asked_to_leave_before_its_first_step_does_not_begin_it(bench: Bench) -> None:
    ref = bench.submit("say this")
    turn = bench.claim(ref)
    turn._interrupts.ask_to_leave()
    turn.run()
    assert bench.kit.types(ref) == ["turn_created", "turn_start"]
    assert bench.hints.sent == [ref]


def test_a_turn_that_was_answered_but_not_ended_is_only_ended(bench: Bench) -> None:
    ref = bench.submit("say this")
    owner = bench.claim(ref)
    owner._infer()
    owner.writer.settle()
    bench.tools.log.release(ref, token=owner.writer.token)
    bench.run(ref)
    assert bench.kit.types(ref).count("step_start") == 1


def test_an_owner_that_was_fenced_writes_nothing_more(bench: Bench) -> None:
    ref = bench.submit("slowly")
    stale = bench.claim(ref)
    bench.tools.log.release(ref, token=stale.writer.token)
    bench.run(ref)
    before = bench.kit.raw_events(ref)
    stale.run()
    assert bench.kit.raw_events(ref) == before


def test_deltas_that_wait_together_become_one_event(bench: Bench) -> None:
    ref = bench.submit("say this")
    turn = bench.claim(ref)
    turn.writer.emit(StepStart(step_type="inference", step_id="s", started_at=turn._stamps.next(), metadata={}))
    for text in ("one ", "two ", "three"):
        turn.writer.emit(delta("s", text))
    turn.writer.settle()
    assert bench.kit.types(ref)[-1] == "step_progress"
    assert bench.kit.types(ref).count("step_progress") == 1
    assert bench.turn(ref)["output_message"]["content"] == "one two three"
    turn.run()


def snapshot(bench: Bench, ref: TurnRef) -> Json:
    row = bench.kit.reader.row(ref)
    assert row is not None and row.snapshot is not None
    return cast(Json, orjson.loads(row.snapshot))


def test_a_cancel_that_comes_before_the_pause_ends_the_turn_as_its_log_tells_it(bench: Bench) -> None:
    ref = bench.submit("use look")
    turn = bench.claim(ref)
    turn._infer()
    turn.writer.settle()
    bench.tools.log.cancel(ref, reason="enough")
    turn.run()
    assert bench.kit.types(ref)[-2:] == ["step_start", "turn_canceled"]
    assert snapshot(bench, ref) == orjson.loads(orjson.dumps(bench.turn(ref)))


def test_a_cancel_that_comes_while_the_end_is_written_decides_how_it_ended(bench: Bench) -> None:
    ref = bench.submit("say this")
    turn = bench.claim(ref)
    turn._infer()
    turn.writer.settle()
    bench.tools.log.cancel(ref, reason="enough")
    turn._interrupts.ask(CancelAsked())
    turn._interrupts.ask(Draining())
    turn._end(TurnStatus.COMPLETED, turn._completed())
    gevent.sleep(0)
    assert bench.kit.types(ref)[-1] == "turn_canceled"
    assert bench.kit.unfolded(ref)


def test_a_turn_waits_for_a_store_that_cannot_be_read_now(bench: Bench) -> None:
    session = bench.kit.session()
    bench.run(bench.kit.accept(session, text="say one", config=bench.config()))
    ref = bench.kit.accept(session, text="say two", config=bench.config())
    turn = bench.claim(ref)
    plain, faults = bench.tools.history.before, [StoreError("away")] * 2

    def before(*args: Any) -> list[Json]:
        if faults:
            raise faults.pop()
        return plain(*args)

    bench.tools.history.before = before  # type: ignore[method-assign]
    turn.run()
    assert bench.turn(ref)["status"] == "completed"
    assert bench.turn(ref)["attempts"] == 1


def test_while_the_store_is_away_a_drain_does_not_wait_for_it(bench: Bench) -> None:
    interrupts = Interrupts()
    interrupts.ask(Draining())

    def read() -> None:
        raise StoreError("away")

    with pytest.raises(Draining):
        until_stored(read, interrupts)


def test_a_claim_whose_reply_was_lost_starts_the_turn_when_its_log_says(bench: Bench) -> None:
    ref = bench.submit("say this")
    token, at = new_token(), "2026-01-01T00:00:05.000000Z"
    for _ in range(2):
        claim = bench.tools.log.claim(ref, token=token, worker="w", claimed_at=at)
    TurnRun(claim=claim, tools=bench.tools, interrupts=Interrupts()).run()
    assert snapshot(bench, ref) == orjson.loads(orjson.dumps(bench.turn(ref)))


def test_an_answer_that_is_larger_than_an_entry_is_read_back_whole(bench: Bench) -> None:
    words = "word " * 20_000
    ref = bench.submit(words)
    bench.run(ref)
    assert bench.turn(ref)["output_message"]["content"].strip() == words.strip()
    assert snapshot(bench, ref) == orjson.loads(orjson.dumps(bench.turn(ref)))


def test_a_turn_whose_writes_the_store_never_takes_fails_and_says_so(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "ODD_TRIES", 2)
    monkeypatch.setattr(journal, "_RETRY_S", (0.01,))
    session = bench.kit.session()
    ref = bench.kit.accept(session, text="book a seat", config=bench.config(toolgroups=["seats"]))
    following = bench.kit.accept(session, text="say this", config=bench.config())
    turn = bench.claim(ref)
    refusal = StoreError("The store refused a write.")
    refusal.__cause__ = ResponseError("user_script:12: no such thing")
    monkeypatch.setattr(bench.tools.journal._log, "append_many", lambda writes: [refusal] * len(writes))

    turn.run()

    assert bench.seats.calls == []
    assert bench.kit.types(ref)[-1] == "turn_failed"
    assert bench.hints.sent == [following]
    assert bench.turn(ref)["error"]["code"] == "store_refused"
