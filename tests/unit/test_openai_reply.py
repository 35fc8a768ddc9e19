"""How the chunks of a streamed reply become deltas, for all the ways in which servers write them."""

from collections.abc import Sequence
from typing import Any

import orjson
import pytest

from shared.errors import ProviderError
from worker.providers.inference import (
    Delta,
    Finished,
    Json,
    StopReason,
    TextDelta,
    ToolCallDelta,
    ToolCallDone,
)
from worker.providers.openai_faults import Faults
from worker.providers.openai_reply import ReplyReader, stop_reason


def read(*payloads: bytes) -> list[Delta]:
    faults = Faults(provider_id="a", url="http://host:1/v1", secrets=["top-secret"])
    reader = ReplyReader(faults=faults, on_finish=lambda: None)
    return [*reader.deltas(payloads), *reader.endings()]


def failure(*payloads: bytes) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        read(*payloads)
    return caught.value


def chunk(delta: Any = None, finish_reason: str | None = None, **more: Any) -> bytes:
    return orjson.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}], **more})


def calls(*pieces: Json) -> bytes:
    return chunk({"tool_calls": list(pieces)})


def piece(index: int | None = None, call_id: str | None = None, **function: Any) -> Json:
    whole: Json = {"function": function}
    if index is not None:
        whole["index"] = index
    if call_id is not None:
        whole["id"] = call_id
    return whole


STOP = chunk({}, "stop")


def done(deltas: Sequence[Delta]) -> list[tuple[str, str, str]]:
    return [
        (delta.tool_name, delta.arguments_json, delta.parse_status)
        for delta in deltas
        if isinstance(delta, ToolCallDone)
    ]


def test_text_and_usage_are_read() -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    last = orjson.dumps({"choices": [], "usage": {**usage, "details": {}}})
    assert read(chunk({"role": "assistant", "content": ""}), chunk({"content": "Hi"}), STOP, last, b"[DONE]") == [
        TextDelta("Hi"),
        Finished(stop_reason=StopReason.END_OF_TURN, usage=usage),
    ]


def test_usage_is_none_where_the_server_sends_none() -> None:
    assert read(chunk({"content": "Hi"}), STOP)[-1] == Finished(stop_reason=StopReason.END_OF_TURN)


def test_usage_in_the_last_chunk_counts() -> None:
    last = read(chunk({"content": "Hi"}, "stop", usage={"prompt_tokens": 4}))[-1]
    assert isinstance(last, Finished)
    assert last.usage == {"prompt_tokens": 4, "completion_tokens": 0, "total_tokens": 0}


@pytest.mark.parametrize(
    ("finish_reason", "has_calls", "expected"),
    [
        ("stop", False, "end_of_turn"),
        ("stop", True, "end_of_message"),
        ("tool_calls", True, "end_of_message"),
        ("tool_calls", False, "end_of_turn"),
        ("function_call", True, "end_of_message"),
        ("length", False, "out_of_tokens"),
        ("length", True, "out_of_tokens"),
        ("content_filter", False, "end_of_turn"),
        ("content_filter", True, "end_of_turn"),
        ("eos_token", False, "end_of_turn"),
    ],
)
def test_finish_reasons_become_stop_reasons(finish_reason: str, has_calls: bool, expected: str) -> None:
    assert stop_reason(finish_reason, has_calls=has_calls) == expected


def test_parallel_calls_come_in_pieces_by_index() -> None:
    deltas = read(
        calls(piece(0, "x", name="f", arguments="")),
        calls(piece(1, "y", name="g", arguments="")),
        calls(piece(0, arguments='{"a":'), piece(1, arguments='{"b":2}')),
        calls(piece(0, arguments="1}")),
        chunk({}, "tool_calls"),
    )
    assert deltas == [
        ToolCallDelta(call_id="x", tool_name="f", parse_status="started"),
        ToolCallDelta(call_id="y", tool_name="g", parse_status="started"),
        ToolCallDelta(call_id="x", tool_name="f", arguments='{"a":'),
        ToolCallDelta(call_id="y", tool_name="g", arguments='{"b":2}'),
        ToolCallDelta(call_id="x", tool_name="f", arguments="1}"),
        ToolCallDone(call_id="x", tool_name="f", arguments_json='{"a":1}', arguments={"a": 1}),
        ToolCallDone(call_id="y", tool_name="g", arguments_json='{"b":2}', arguments={"b": 2}),
        Finished(stop_reason=StopReason.END_OF_MESSAGE),
    ]


def test_a_whole_call_in_one_piece_without_an_id_gets_one() -> None:
    started, arguments, call, _ = read(calls(piece(0, name="f", arguments='{"a":1}')), STOP)
    assert isinstance(started, ToolCallDelta)
    assert isinstance(arguments, ToolCallDelta)
    assert isinstance(call, ToolCallDone)
    assert (started.parse_status, started.arguments) == ("started", "")
    assert started.call_id.startswith("call_")
    assert started.call_id == arguments.call_id == call.call_id


@pytest.mark.parametrize("arguments", ["", None, " "])
def test_empty_arguments_are_an_empty_object(arguments: str | None) -> None:
    assert done(read(calls(piece(0, "x", name="f", arguments=arguments)), STOP)) == [("f", "{}", "succeeded")]


def test_arguments_that_come_as_an_object_are_written_out() -> None:
    deltas = read(calls(piece(0, "x", name="f", arguments={"a": 1})), STOP)
    assert done(deltas) == [("f", '{"a":1}', "succeeded")]


def test_a_repeated_name_is_taken_once() -> None:
    deltas = read(calls(piece(0, "x", name="f", arguments="{")), calls(piece(0, name="f", arguments="}")), STOP)
    assert done(deltas) == [("f", "{}", "succeeded")]


def test_a_call_is_announced_once_it_has_a_name() -> None:
    deltas = read(calls(piece(0, "x", arguments="{")), calls(piece(0, name="f", arguments="}")), STOP)
    assert deltas[:2] == [
        ToolCallDelta(call_id="x", tool_name="f", parse_status="started"),
        ToolCallDelta(call_id="x", tool_name="f", arguments="{}"),
    ]


def test_calls_that_all_have_index_0_are_told_apart_by_id() -> None:
    deltas = read(calls(piece(0, "x", name="f", arguments="{}")), calls(piece(0, "y", name="f", arguments="{}")), STOP)
    assert [delta.call_id for delta in deltas if isinstance(delta, ToolCallDone)] == ["x", "y"]


def test_calls_without_index_and_id_are_told_apart_by_being_complete() -> None:
    deltas = read(
        calls(piece(name="f", arguments='{"a"')), calls(piece(arguments=":1}"), piece(name="g", arguments="{}")), STOP
    )
    assert done(deltas) == [("f", '{"a":1}', "succeeded"), ("g", "{}", "succeeded")]


def test_an_id_that_stands_twice_is_replaced() -> None:
    deltas = read(calls(piece(0, "x", name="f", arguments="{}"), piece(1, "x", name="g", arguments="{}")), STOP)
    ids = [delta.call_id for delta in deltas if isinstance(delta, ToolCallDone)]
    assert ids[0] == "x"
    assert ids[1].startswith("call_")


@pytest.mark.parametrize("text", ['{"a": ', "[1]", "null", "nonsense", '{"a": NaN}'])
def test_arguments_that_are_no_json_object_fail_their_call_and_keep_their_text(text: str) -> None:
    deltas = read(calls(piece(0, "x", name="f", arguments=text)), STOP)
    call = deltas[-2]
    assert isinstance(call, ToolCallDone)
    assert (call.parse_status, call.arguments_json, call.arguments) == ("failed", text.strip(), {})


def test_a_call_cut_by_the_token_limit_fails_and_the_reply_is_out_of_tokens() -> None:
    deltas = read(calls(piece(0, "x", name="f", arguments='{"a": "lo')), chunk({}, "length"))
    assert done(deltas) == [("f", '{"a": "lo', "failed")]
    assert deltas[-1] == Finished(stop_reason=StopReason.OUT_OF_TOKENS)


def test_the_older_function_call_is_a_tool_call() -> None:
    deltas = read(
        chunk({"function_call": {"name": "f", "arguments": ""}}),
        chunk({"function_call": {"arguments": "{}"}}),
        chunk({}, "function_call"),
    )
    assert done(deltas) == [("f", "{}", "succeeded")]


def test_a_refusal_and_text_in_parts_are_text() -> None:
    parts = [{"type": "thinking", "thinking": []}, {"type": "text", "text": "b"}]
    assert read(chunk({"refusal": "no"}), chunk({"content": parts}), STOP)[:2] == [TextDelta("no"), TextDelta("b")]


def test_text_in_the_chunk_that_finishes_is_kept() -> None:
    assert read(chunk({"content": "all"}, "stop"))[0] == TextDelta("all")


def test_reasoning_and_empty_chunks_are_passed_over() -> None:
    assert read(chunk({"reasoning_content": "hm"}), chunk(None), b'{"choices": []}', STOP) == [
        Finished(stop_reason=StopReason.END_OF_TURN)
    ]


@pytest.mark.parametrize("payload", [b"nonsense", b"[1]", b'"text"', b'{"choices": ["x"]}', b'{"choices": 3}'])
def test_an_event_that_is_no_chunk_is_a_bad_response(payload: bytes) -> None:
    error = failure(payload)
    assert (error.code, error.retryable) == ("provider_bad_response", False)
    assert "an event that is no chat completion chunk" in error.message


def test_a_bad_event_is_quoted_without_secrets() -> None:
    error = failure(b'{"top-secret": ')
    assert '{"***":' in error.message


def test_a_stream_without_events_is_a_bad_response() -> None:
    assert failure().code == "provider_bad_response"


def test_a_stream_that_ends_before_the_model_stopped_was_interrupted() -> None:
    error = failure(chunk({"content": "a"}))
    assert (error.code, error.retryable) == ("provider_interrupted", True)


def test_an_error_inside_the_stream_is_raised_with_its_words() -> None:
    error = failure(chunk({"content": "a"}), b'{"error": {"message": "out of memory top-secret", "code": 500}}')
    assert (error.code, error.status, error.retryable) == ("provider_error", 500, True)
    assert error.message == "Provider 'a' broke off its answer with an error. It said: out of memory ***"


def test_a_rate_limit_inside_the_stream_is_one() -> None:
    assert failure(b'{"error": {"message": "slow down", "code": 429}}').code == "provider_rate_limited"


def test_a_call_without_a_name_is_a_bad_response() -> None:
    assert "names no tool" in failure(calls(piece(0, "x", arguments="{}")), STOP).message
