"""Shields and server tools in the real loop, on a real store."""

from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from turnkit import Bench, turn_bench

from shared.ids import TurnRef
from shared.registry import RegisteredShield, Registry
from worker.interrupts import CancelAsked, LeaseLost
from worker.registrar import APIS

Json = dict[str, Any]
MESSAGE = "Let us talk of something else."
SEATS = {"toolgroups": ["seats"], "client_tools": []}


@pytest.fixture
def bench(redis_url: str, key_prefix: str) -> Iterator[Bench]:
    with turn_bench(redis_url, key_prefix) as bench:
        yield bench


def everything(bench: Bench, ref: TurnRef) -> bytes:
    """All that the store holds of a turn, as bytes."""
    keys = bench.kit.keys.turn(ref)
    parts: list[Any] = [bench.kit.client.hgetall(keys.turn), bench.kit.client.xrange(keys.events)]
    parts += [bench.kit.client.xrange(keys.private), bench.kit.client.hgetall(keys.blobs)]
    return repr(parts).encode()


def shield_steps(turn: Json) -> list[tuple[str, bool]]:
    steps = [step for step in turn["steps"] if step["step_type"] == "shield_call"]
    return [(step["metadata"]["touchpoint"], step["violation"] is not None) for step in steps]


def test_input_and_output_shields_that_pass_are_steps_of_the_turn(bench: Bench) -> None:
    ref = bench.submit("say this", input_shields=["words"], output_shields=["words"])
    bench.run(ref)
    turn = bench.turn(ref)
    assert [step["step_type"] for step in turn["steps"]] == ["shield_call", "inference", "shield_call"]
    assert shield_steps(turn) == [("user-input", False), ("assistant-output", False)]
    assert turn["output_message"]["content"] == "say this"


def test_an_input_shield_ends_the_turn_before_the_model_is_asked(bench: Bench) -> None:
    ref = bench.submit("tell of the blue moon", input_shields=["words"])
    bench.run(ref)
    turn = bench.turn(ref)
    assert turn["status"] == "completed"
    assert [step["step_type"] for step in turn["steps"]] == ["shield_call"]
    assert turn["output_message"] == {
        "role": "assistant",
        "content": MESSAGE,
        "stop_reason": "end_of_turn",
        "tool_calls": [],
    }


def test_a_held_reply_that_a_shield_objects_to_is_written_nowhere_that_anybody_reads(bench: Bench) -> None:
    ref = bench.submit("say the bad word", output_shields=["words"])
    bench.run(ref)
    turn = bench.turn(ref)
    assert turn["status"] == "completed"
    assert turn["output_message"]["content"] == MESSAGE
    assert turn["steps"][0]["withheld"] is True
    assert shield_steps(turn) == [("assistant-output", True)]
    assert b"blue moon" not in everything(bench, ref)


def test_while_it_is_held_a_reply_is_in_the_private_record_alone(bench: Bench) -> None:
    ref = bench.submit("say the bad word", output_shields=["words"])
    turn = bench.claim(ref)
    turn._infer()
    turn.writer.settle()
    assert b"blue moon" not in repr(bench.kit.client.xrange(bench.kit.keys.turn(ref).events)).encode()
    assert "blue moon" not in repr(bench.turn(ref))
    turn.run()
    assert b"blue moon" not in everything(bench, ref)


def test_a_held_reply_is_not_asked_for_again_by_a_taker_over(bench: Bench) -> None:
    ref = bench.submit("say this", output_shields=["words"])
    first = bench.claim(ref)
    first._infer()
    first.writer.settle()
    bench.tools.log.release(ref, token=first.writer.token)
    bench.run(ref)
    types = bench.kit.types(ref)
    assert "step_abandoned" not in types
    assert bench.turn(ref)["output_message"]["content"] == "say this"


def test_streamed_output_is_retracted_on_a_violation(bench: Bench) -> None:
    ref = bench.submit("say the bad word", output_shields=["words"], shield_mode="stream")
    bench.run(ref)
    types = bench.kit.types(ref)
    assert types.index("step_progress") < types.index("output_retracted")
    assert "blue moon" not in repr(bench.turn(ref))
    assert bench.turn(ref)["output_message"]["content"] == MESSAGE


def test_what_was_withheld_is_not_in_the_next_turns_history(bench: Bench) -> None:
    session = bench.kit.session()
    first = bench.kit.accept(session, text="say the bad word", config=bench.config(output_shields=["words"]))
    second = bench.kit.accept(session, text="say more", config=bench.config())
    bench.run(first)
    turn = bench.claim(second)
    from worker.context import chat_messages

    messages = chat_messages(turn._history(), bench.kit.reader.state(second))
    assert [message["content"] for message in messages] == ["say the bad word", MESSAGE, "say more"]
    turn.run()


def test_responses_of_the_clients_tools_pass_the_input_shields(bench: Bench) -> None:
    ref = bench.submit("use look", input_shields=["words"])
    bench.run(ref)
    (call,) = bench.turn(ref)["output_message"]["tool_calls"]
    bench.answer(ref, call, "a blue moon")
    bench.run(ref)
    turn = bench.turn(ref)
    assert shield_steps(turn) == [("user-input", False), ("user-input", True)]
    assert turn["output_message"]["content"] == MESSAGE


@pytest.mark.parametrize("mode", ["hold", "stream"])
def test_a_shield_that_fails_blocks_unless_it_is_told_to_allow(bench: Bench, mode: str) -> None:
    broken = RegisteredShield(identifier="broken", provider_id="deny", resource_id="nothing")
    bench.catalog.update(Registry(shields=[broken]), asked=APIS)

    blocked = bench.submit("say this", output_shields=["broken"], shield_mode=mode)
    bench.run(blocked)
    allowed = bench.submit("say this", output_shields=["broken"], shield_mode=mode, shield_on_error="allow")
    bench.run(allowed)

    assert bench.turn(blocked)["status"] == "failed"
    assert bench.turn(blocked)["error"]["provider_id"] == "deny"
    # The user's own words are there, the model's (it echoes them) are not.
    assert repr(bench.turn(blocked)).count("say this") == 1
    assert bench.turn(allowed)["output_message"]["content"] == "say this"


def test_a_server_tool_runs_and_the_model_goes_on(bench: Bench) -> None:
    ref = bench.submit("book", **SEATS)
    bench.run(ref)
    turn = bench.turn(ref)
    assert [step["step_type"] for step in turn["steps"]] == ["inference", "tool_execution", "inference"]
    assert turn["steps"][1]["tool_responses"][0]["content"] == "book 4a"
    assert turn["output_message"]["content"] == "Told."
    ((_, _, key),) = bench.seats.calls
    call_id = turn["steps"][1]["tool_calls"][0]["call_id"]
    assert key == f"{ref.turn_id}:{turn['steps'][1]['step_id']}:{call_id}"


def test_arguments_that_the_schema_forbids_go_back_to_the_model(bench: Bench) -> None:
    ref = bench.submit("read twice", **SEATS)
    bench.run(ref)
    good, bad = bench.turn(ref)["steps"][1]["tool_responses"]
    assert good["content"] == "read 4a"
    assert bad["metadata"]["error"] and "seat" in bad["content"]
    assert len(bench.seats.calls) == 1


def test_a_mixed_reply_runs_its_server_tools_and_then_waits_for_the_client(bench: Bench) -> None:
    ref = bench.submit("mix", toolgroups=["seats"])
    bench.run(ref)
    paused = bench.turn(ref)
    assert paused["status"] == "awaiting_input"
    (call,) = paused["output_message"]["tool_calls"]
    assert call["tool_name"] == "look"
    assert len(bench.seats.calls) == 1

    bench.answer(ref, call, "x is there")
    bench.run(ref)

    turn = bench.turn(ref)
    assert [r["content"] for r in turn["steps"][1]["tool_responses"]] == ["x is there", "book 1"]
    assert len(bench.seats.calls) == 1, "what was done is not done again after the resume"


def test_a_turn_gives_arguments_of_its_tool_group_to_every_call(bench: Bench) -> None:
    ref = bench.submit("book", client_tools=[], toolgroups=[{"name": "seats/book", "args": {"seat": "9z"}}])
    bench.run(ref)
    assert bench.seats.calls[0][1] == {"seat": "9z"}


@pytest.mark.parametrize(("text", "times"), [("book", 1), ("read twice", 2)])
def test_a_call_that_was_cut_off_is_made_again_only_where_that_is_safe(bench: Bench, text: str, times: int) -> None:
    ref = bench.submit(text, **SEATS)
    first = bench.claim(ref)
    bench.seats.during = lambda: gevent.sleep(30)
    lost = gevent.spawn(first.run)
    while not bench.seats.calls:
        gevent.sleep(0.01)
    first._interrupts.ask(LeaseLost())
    lost.join()
    bench.tools.log.release(ref, token=first.writer.token)
    bench.seats.during = lambda: None

    bench.run(ref)

    turn = bench.turn(ref)
    assert turn["status"] == "completed"
    assert len(bench.seats.calls) == times
    assert len({key for _, _, key in bench.seats.calls}) == 1, "a repetition bears the same key"
    content = turn["steps"][1]["tool_responses"][0]["content"]
    assert ("Unknown outcome" in content) == (text == "book")


def test_a_cancel_in_a_silent_tool_call_ends_the_turn(bench: Bench) -> None:
    ref = bench.submit("book", **SEATS)
    turn = bench.claim(ref)
    bench.seats.during = lambda: gevent.sleep(30)
    running = gevent.spawn(turn.run)
    while not bench.seats.calls:
        gevent.sleep(0.01)
    turn._interrupts.ask(CancelAsked())
    running.join(5)
    assert bench.turn(ref)["status"] == "canceled"


def test_a_tool_group_that_nobody_serves_any_more_fails_the_turn_and_names_what_is_there(bench: Bench) -> None:
    ref = bench.submit("book", toolgroups=["gone"])
    bench.run(ref)
    error = bench.turn(ref)["error"]
    assert error["code"] == "toolgroup_not_found"
    assert "seats" in error["message"]
