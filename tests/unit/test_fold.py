"""The reducer: any prefix of a log is a turn, and taking events in one by one gives what folding them gives."""

from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_stack_client.types.agents import Turn

from shared import events as ev
from shared.errors import SchemaTooNew
from shared.events import SCHEMA_VERSION, Entry, Event, Json, PrivateEntry
from shared.fold import CONFIG_RECORD, TurnState, fold
from shared.status import TERMINAL, TurnStatus

TERMINAL_STATUS = {"turn_complete": "completed", "turn_failed": "failed", "turn_canceled": "canceled"}


def at(second: int) -> str:
    return f"2026-01-01T00:{second // 60:02d}:{second % 60:02d}.000000Z"


CREATED = ev.TurnCreated(
    turn_id="turn_01_a",
    session_id="sess_01_a",
    agent_id="agent_a",
    input_messages=[{"role": "user", "content": "hello"}],
    documents=[],
    created_at=at(0),
)
START = ev.TurnStart(turn_id="turn_01_a", attempt=1, started_at=at(1))
COMPLETE = ev.TurnComplete(turn_id="turn_01_a", completed_at=at(50))
FAILED = ev.TurnFailed(turn_id="turn_01_a", error={"code": "c", "message": "m"}, completed_at=at(50))
CANCELED = ev.TurnCanceled(turn_id="turn_01_a", reason="no", completed_at=at(50))


def entries(*events: Event) -> list[Entry]:
    return [Entry(seq, 7, event.event_type, SCHEMA_VERSION, event.encode()) for seq, event in enumerate(events, 1)]


def folded(*events: Event) -> TurnState:
    return fold(entries(*events))


def begin(step_id: str, step_type: str = "inference", second: int = 2) -> ev.StepStart:
    return ev.StepStart(step_type=step_type, step_id=step_id, started_at=at(second), metadata={})


def text(step_id: str, content: str) -> ev.StepProgress:
    return ev.StepProgress(step_type="inference", step_id=step_id, delta={"type": "text", "text": content})


def call(call_id: str) -> Json:
    return {"call_id": call_id, "tool_name": "look", "arguments": {"n": 1}, "arguments_json": '{"n":1}'}


def response(call_id: str) -> Json:
    return {"call_id": call_id, "tool_name": "look", "content": "seen", "metadata": None}


def call_delta(step_id: str, tool_call: Any, parse_status: str) -> ev.StepProgress:
    delta = {"type": "tool_call", "tool_call": tool_call, "parse_status": parse_status}
    return ev.StepProgress(step_type="inference", step_id=step_id, delta=delta)


def end(step_id: str, step_type: str = "inference", second: int = 3, **details: Any) -> ev.StepComplete:
    shapes: dict[str, Json] = {
        "inference": {"model_response": answer("whole")},
        "tool_execution": {"tool_calls": [call("c1")], "tool_responses": [response("c1")]},
        "shield_call": {"violation": None},
        "memory_retrieval": {"vector_db_ids": "bank", "inserted_context": "found"},
    }
    step = {
        "step_type": step_type,
        "step_id": step_id,
        "turn_id": "turn_01_a",
        "started_at": at(second - 1),
        "completed_at": at(second),
        **shapes[step_type],
        **details,
    }
    return ev.StepComplete(step_type=step_type, step_id=step_id, step_details=step)


def answer(content: str, *calls: Json) -> Json:
    stop_reason = "end_of_message" if calls else "end_of_turn"
    return {"role": "assistant", "content": content, "stop_reason": stop_reason, "tool_calls": list(calls)}


def awaiting(*call_ids: str) -> ev.TurnAwaitingInput:
    return ev.TurnAwaitingInput(turn_id="turn_01_a", tool_calls=[call(call_id) for call_id in call_ids])


def resumed(*call_ids: str, second: int = 20) -> ev.TurnResumed:
    responses = [response(call_id) for call_id in call_ids]
    return ev.TurnResumed(turn_id="turn_01_a", tool_responses=responses, resumed_at=at(second))


# Any log that the scripts and a worker can write


@st.composite
def logs(draw: st.DrawFn) -> list[Event]:
    """A whole log: steps of all kinds, lost and replaced owners, pauses, and one of the three ends."""
    log: list[Event] = [CREATED]
    if draw(st.booleans()):
        log.append(START)
        for number in range(draw(st.integers(0, 5))):
            log += draw(st.sampled_from(CHAPTERS))(f"s{number}", number + 2)
        if draw(st.booleans()):
            log += [begin("open", draw(st.sampled_from(STEP_TYPES))), text("open", "half")]
    log += draw(st.sampled_from([[], [COMPLETE], [FAILED], [CANCELED]]))
    return log


def test_attachments_are_those_of_finished_calls_of_server_tools() -> None:
    def told(call_id: str, file_id: str) -> Json:
        file = {"file_id": file_id, "mime_type": "image/png", "filename": "a.png", "bytes": 1}
        return {**response(call_id), "metadata": {"attachments": [file]}}

    responses = [told("server", "file_1"), told("client", "file_2")]
    answered = ev.TurnResumed(turn_id="t", tool_responses=[told("client", "file_2")], resumed_at=at(4))
    story = [CREATED, START, begin("s1", "tool_execution"), awaiting("client"), answered]

    assert folded(*story).as_turn()["output_attachments"] == []
    finished = folded(*story, end("s1", "tool_execution", tool_responses=responses)).as_turn()
    expected = {"content": {"uri": "/v1/files/file_1/content"}, "mime_type": "image/png"}
    assert finished["output_attachments"] == [expected]


@pytest.mark.parametrize("named", [None, "file_1", [1], [{}], [{"file_id": 1, "mime_type": "a/b"}]])
def test_what_a_log_of_an_older_release_names_otherwise_is_no_attachment(named: Any) -> None:
    told = {**response("c1"), "metadata": {"attachments": named}}
    done = end("s1", "tool_execution", tool_responses=[told])
    assert folded(CREATED, START, begin("s1", "tool_execution"), done).as_turn()["output_attachments"] == []


STEP_TYPES = ["inference", "tool_execution", "shield_call", "memory_retrieval"]


def recovered(attempt: int) -> ev.TurnRecovered:
    return ev.TurnRecovered(turn_id="turn_01_a", attempt=attempt, recovered_at=at(attempt + 5))


def abandoned(step_id: str) -> ev.StepAbandoned:
    return ev.StepAbandoned(step_type="inference", step_id=step_id, reason="lost")


CHAPTERS: list[Callable[[str, int], list[Event]]] = [
    lambda step, n: [begin(step), text(step, "a"), text(step, "b"), end(step)],
    lambda step, n: [begin(step), call_delta(step, call("c1"), "succeeded"), end(step)],
    lambda step, n: [begin(step, "tool_execution"), end(step, "tool_execution")],
    lambda step, n: [begin(step, "shield_call"), end(step, "shield_call")],
    lambda step, n: [begin(step, "memory_retrieval"), end(step, "memory_retrieval")],
    lambda step, n: [begin(step), text(step, "lost"), recovered(n), abandoned(step)],
    lambda step, n: [recovered(n)],
    lambda step, n: [
        begin(step),
        text(step, "bad"),
        ev.OutputRetracted(step_id=step, reason="shield"),
        text(step, "good"),
        end(step),
    ],
    lambda step, n: [
        begin(step, "tool_execution"),
        awaiting("c1", "c2"),
        resumed("c1", "c2"),
        end(step, "tool_execution"),
    ],
]


@settings(max_examples=60, deadline=None)
@given(logs())
def test_any_prefix_of_a_log_is_a_valid_turn(log: list[Event]) -> None:
    for length in range(1, len(log) + 1):
        turn = folded(*log[:length]).as_turn()
        Turn.model_validate(orjson.loads(orjson.dumps(turn)))
        assert turn["turn_id"] == "turn_01_a"
        assert turn["created_at"] == at(0)
        assert turn["started_at"]


@settings(max_examples=60, deadline=None)
@given(logs())
def test_events_taken_in_one_by_one_give_what_folding_the_log_gives(log: list[Event]) -> None:
    state = TurnState()
    for length, event in enumerate(log, 1):
        state.apply(event)
        assert state == folded(*log[:length])
        assert state.as_turn() == folded(*log[:length]).as_turn()


@settings(max_examples=60, deadline=None)
@given(logs())
def test_the_status_is_terminal_exactly_after_the_terminal_event(log: list[Event]) -> None:
    for length in range(1, len(log) + 1):
        state, last = folded(*log[:length]), log[length - 1].event_type
        assert (state.status in TERMINAL) == (last in TERMINAL_STATUS)
        assert (state.completed_at is not None) == (last in TERMINAL_STATUS)
        if last in TERMINAL_STATUS:
            assert state.status == TERMINAL_STATUS[last]
            assert state.open_step is None
            assert state.pending_calls == []


@settings(max_examples=60, deadline=None)
@given(logs())
def test_finished_steps_only_ever_grow_and_the_last_time_never_falls(log: list[Event]) -> None:
    steps: list[Json] = []
    last_time = ""
    for length in range(1, len(log) + 1):
        state = folded(*log[:length])
        assert state.steps[: len(steps)] == steps
        assert state.last_time >= last_time
        steps, last_time = state.steps, state.last_time


@settings(max_examples=30, deadline=None)
@given(logs())
def test_reading_a_turn_does_not_change_its_state(log: list[Event]) -> None:
    state = folded(*log)

    first = orjson.dumps(state.as_turn())

    assert orjson.dumps(state.as_turn()) == first
    assert state == folded(*log)


# Single stories


def test_a_queued_turn_shows_its_input_and_no_answer_yet() -> None:
    turn = folded(CREATED).as_turn()

    assert (turn["status"], turn["attempts"], turn["steps"]) == ("queued", 0, [])
    assert turn["input_messages"] == [{"role": "user", "content": "hello"}]
    assert turn["output_message"]["content"] == ""
    assert (turn["started_at"], turn["completed_at"]) == (at(0), None)


def test_a_running_turn_shows_what_has_come_of_its_step() -> None:
    turn = folded(CREATED, START, begin("s1"), text("s1", "Hel"), text("s1", "lo")).as_turn()

    assert turn["status"] == "in_progress"
    [step] = turn["steps"]
    assert (step["step_id"], step["completed_at"], step["started_at"]) == ("s1", None, at(2))
    assert step["model_response"]["content"] == turn["output_message"]["content"] == "Hello"


def test_a_finished_turn_shows_its_last_answer() -> None:
    last = end("s3", model_response=answer("the answer"))

    turn = folded(CREATED, START, begin("s1"), end("s1"), begin("s3"), text("s3", "draft"), last, COMPLETE).as_turn()

    assert (turn["status"], turn["completed_at"]) == ("completed", at(50))
    assert turn["output_message"] == answer("the answer")
    assert [step["step_id"] for step in turn["steps"]] == ["s1", "s3"]
    assert "error" not in turn


def test_the_calls_of_an_unfinished_step_are_those_that_came_whole() -> None:
    turn = folded(
        CREATED,
        START,
        begin("s1"),
        call_delta("s1", "", "started"),
        call_delta("s1", '{"n', "in_progress"),
        call_delta("s1", call("c1"), "succeeded"),
        call_delta("s1", call("c2"), "succeeded"),
    ).as_turn()

    assert turn["steps"][0]["model_response"]["tool_calls"] == [call("c1"), call("c2")]


def test_what_an_abandoned_step_had_produced_does_not_count() -> None:
    lost = [begin("s1"), text("s1", "lost words"), call_delta("s1", call("c1"), "succeeded")]

    state = folded(CREATED, START, *lost, recovered(2), abandoned("s1"))

    assert (state.open_step, state.steps, state.attempts) == (None, [], 2)
    assert state.output_message()["content"] == ""
    again = folded(CREATED, START, *lost, recovered(2), abandoned("s1"), begin("s2"), text("s2", "new")).as_turn()
    assert [step["step_id"] for step in again["steps"]] == ["s2"]
    assert again["output_message"]["content"] == "new"


def test_progress_of_a_step_that_is_not_open_does_not_count() -> None:
    state = folded(CREATED, START, begin("s1"), abandoned("s1"), begin("s2"), text("s1", "late"), text("s2", "x"))

    assert state.output_message()["content"] == "x"


def test_a_taken_over_turn_keeps_its_finished_steps() -> None:
    state = folded(CREATED, START, begin("s1"), end("s1"), recovered(2))

    assert [step["step_id"] for step in state.steps] == ["s1"]
    assert (state.status, state.attempts, state.started_at) == (TurnStatus.IN_PROGRESS, 2, at(1))


def test_retracted_output_is_shown_no_more() -> None:
    state = folded(CREATED, START, begin("s1"), text("s1", "secret"), ev.OutputRetracted(step_id="s1", reason="shield"))

    assert b"secret" not in orjson.dumps(state.as_turn())


def test_a_turn_that_waits_shows_the_calls_that_it_waits_for() -> None:
    asked = end("s1", model_response=answer("", call("c1"), call("c2")))

    state = folded(CREATED, START, begin("s1"), asked, begin("s2", "tool_execution"), awaiting("c1", "c2"))
    turn = state.as_turn()

    assert turn["status"] == "awaiting_input"
    assert [one["call_id"] for one in turn["output_message"]["tool_calls"]] == ["c1", "c2"]
    assert turn["output_message"]["stop_reason"] == "end_of_message"
    assert turn["steps"][-1]["tool_calls"] == [call("c1"), call("c2")]
    assert turn["steps"][-1]["tool_responses"] == []


def test_a_resumed_turn_holds_the_answers_until_its_tool_step_is_finished() -> None:
    story = [CREATED, START, begin("s1", "tool_execution"), awaiting("c1"), resumed("c1")]

    state = folded(*story)

    assert (state.status, state.responses) == (TurnStatus.QUEUED, [response("c1")])
    assert state.as_turn()["steps"][-1]["tool_responses"] == [response("c1")]
    done = folded(*story, end("s1", "tool_execution"))
    assert (done.responses, done.pending_calls, done.open_step) == ([], [], None)
    assert done.status is TurnStatus.IN_PROGRESS


def test_a_turn_canceled_in_mid_step_keeps_what_had_come_as_an_unfinished_step() -> None:
    turn = folded(CREATED, START, begin("s1"), text("s1", "half an ans"), CANCELED).as_turn()

    assert (turn["status"], turn["completed_at"]) == ("canceled", at(50))
    [step] = turn["steps"]
    assert (step["completed_at"], step["model_response"]["content"]) == (None, "half an ans")


def test_a_turn_canceled_while_it_waits_keeps_the_unanswered_calls() -> None:
    turn = folded(CREATED, START, begin("s1", "tool_execution"), awaiting("c1"), CANCELED).as_turn()

    assert turn["steps"][-1]["tool_calls"] == [call("c1")]
    assert turn["steps"][-1]["tool_responses"] == []


def test_a_turn_canceled_before_its_start_has_no_steps() -> None:
    turn = folded(CREATED, CANCELED).as_turn()

    assert (turn["status"], turn["steps"], turn["attempts"]) == ("canceled", [], 0)
    assert turn["output_message"]["content"] == ""


@pytest.mark.parametrize("half", [[], [begin("s1"), text("s1", "half")], [begin("s1"), end("s1")]])
def test_a_failed_turn_says_why_and_has_an_empty_answer(half: list[Event]) -> None:
    turn = folded(CREATED, START, *half, FAILED).as_turn()

    assert (turn["status"], turn["error"]) == ("failed", {"code": "c", "message": "m"})
    assert turn["output_message"]["content"] == ""
    assert turn["output_message"]["tool_calls"] == []


def test_an_event_of_a_newer_release_stops_the_fold() -> None:
    log = entries(CREATED, START)
    log[1] = log[1]._replace(version=SCHEMA_VERSION + 1)

    with pytest.raises(SchemaTooNew):
        fold(log)


def test_the_private_record_brings_the_config_and_readers_have_none() -> None:
    private = [PrivateEntry(1, CONFIG_RECORD, b'{"model":"m"}'), PrivateEntry(2, "intent", b"{}")]

    assert fold(entries(CREATED), private).config == {"model": "m"}
    assert fold(entries(CREATED)).config == {}


def test_folding_nothing_gives_an_empty_turn() -> None:
    assert fold([]) == TurnState()
