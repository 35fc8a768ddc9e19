"""Snapshots as they are stored: smaller, and whole again without being parsed."""

import orjson
import pytest

from shared.events import Json
from shared.log.snapshots import FIELDS, field_of, pack, unpack


def message(text: str) -> Json:
    return {"role": "assistant", "content": text, "stop_reason": "end_of_turn", "tool_calls": []}


def turn(*texts: str, answer: str) -> Json:
    steps = [
        {"step_type": "inference", "step_id": f"s{i}", "model_response": message(text)} for i, text in enumerate(texts)
    ]
    return {
        "turn_id": "t1",
        "input_messages": [{"role": "user", "content": "hello"}],
        "steps": steps,
        "output_message": message(answer),
        "completed_at": "2026-01-01T00:00:00Z",
    }


@pytest.mark.parametrize(
    "texts",
    [("hello",), ("",), ("the same", "the same"), ("one", 'two "quoted"\nand \u2028 é'), ("}" * 9, "]}")],
    ids=["one", "empty", "twice", "escaped", "braces"],
)
def test_an_answer_that_its_last_step_holds_is_stored_once(texts: tuple[str, ...]) -> None:
    whole = turn(*texts, answer=texts[-1])

    stored = pack(whole)

    assert orjson.loads(unpack(stored)) == whole
    assert b"output_message" not in stored
    assert len(stored) < len(orjson.dumps(whole)) - len(orjson.dumps(message(texts[-1])))
    assert field_of(stored, in_blob=False) == "final"


@pytest.mark.parametrize(
    "whole",
    [turn("hello", answer="a shield's words"), turn(answer="")],
    ids=["another answer", "no step"],
)
def test_another_answer_is_stored_as_it_is(whole: Json) -> None:
    stored = pack(whole)

    assert stored == unpack(stored) == orjson.dumps(whole)
    assert field_of(stored, in_blob=False) == "snapshot"


def test_the_step_that_counts_is_the_last_one_of_the_model() -> None:
    whole = turn("hello", answer="hello")
    whole["steps"].append({"step_type": "shield_call", "step_id": "s9", "violation": None})

    assert orjson.loads(unpack(pack(whole))) == whole


def test_a_blob_has_fields_of_its_own() -> None:
    packed, plain = pack(turn("hello", answer="hello")), pack(turn(answer=""))

    assert {field_of(stored, in_blob=blob) for stored in (packed, plain) for blob in (True, False)} == set(FIELDS)
