"""What is sent to an OpenAI-compatible server for a chat request."""

from typing import Any

import pytest

from shared.errors import ProviderError
from worker.providers.inference import ChatRequest, Json
from worker.providers.openai_config import OpenAIConfig
from worker.providers.openai_messages import request_json
from worker.providers.openai_tools import type_schema


def refuse(problem: str) -> ProviderError:
    return ProviderError(f"Provider 'a' {problem}", provider_id="a", code="unsupported_parameter")


def body(config: Json | None = None, **fields: Any) -> Json:
    fields.setdefault("messages", [{"role": "user", "content": "hi"}])
    options = OpenAIConfig.model_validate({"url": "http://host/v1", **(config or {})})
    return request_json(ChatRequest(model="m", **fields), options, refuse)


def sent(message: Json) -> Json:
    message_sent: Json = body(messages=[message])["messages"][0]
    return message_sent


def refusal(config: Json | None = None, **fields: Any) -> str:
    with pytest.raises(ProviderError) as caught:
        body(config, **fields)
    assert caught.value.code == "unsupported_parameter"
    return caught.value.message


def test_a_plain_request_asks_for_a_stream_with_usage_and_nothing_else() -> None:
    assert body() == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("hi", "hi"),
        ({"type": "text", "text": "hi"}, "hi"),
        ([{"type": "text", "text": "a"}, "b"], "a\nb"),
        ([], ""),
    ],
)
def test_text_in_any_shape_becomes_a_string(content: Any, expected: str) -> None:
    assert sent({"role": "user", "content": content})["content"] == expected
    assert sent({"role": "system", "content": content}) == {"role": "system", "content": expected}


def test_the_context_of_a_user_message_is_appended() -> None:
    assert sent({"role": "user", "content": "q", "context": "facts"})["content"] == "q\nfacts"


@pytest.mark.parametrize(
    ("image", "url"),
    [
        ({"url": {"uri": "https://host/i.png"}}, "https://host/i.png"),
        ({"data": "iVBORw0K"}, "data:image/png;base64,iVBORw0K"),
        ({"data": "/9j/4AAQ"}, "data:image/jpeg;base64,/9j/4AAQ"),
        ({"data": "data:image/webp;base64,AAAA"}, "data:image/webp;base64,AAAA"),
    ],
)
def test_an_image_of_the_user_becomes_a_url(image: Json, url: str) -> None:
    content = ["look", {"type": "image", "image": image}]
    assert sent({"role": "user", "content": content, "context": "c"})["content"] == [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": "c"},
    ]


@pytest.mark.parametrize("role", ["system", "assistant", "tool"])
def test_an_image_where_only_text_can_stand_is_refused(role: str) -> None:
    image = {"type": "image", "image": {"data": "iVBOR"}}
    message = refusal(messages=[{"role": role, "content": [image], "call_id": "c"}])
    assert "takes text only in" in message


def test_unknown_content_and_roles_are_refused() -> None:
    assert "no content of type 'audio'" in refusal(messages=[{"role": "user", "content": {"type": "audio"}}])
    assert "role 'developer'" in refusal(messages=[{"role": "developer", "content": ""}])
    assert "both are missing" in refusal(messages=[{"role": "user", "content": {"type": "image", "image": {}}}])


def call(**fields: Any) -> Json:
    return {"call_id": "c1", "tool_name": "f", **fields}


@pytest.mark.parametrize(
    ("fields", "arguments"),
    [
        ({"arguments": {"a": 1}, "arguments_json": '{"a": 1.0}'}, '{"a": 1.0}'),
        ({"arguments": {"a": 1}}, '{"a":1}'),
        ({"arguments": {}, "arguments_json": '{"a": '}, "{}"),
        ({"arguments": {}, "arguments_json": "[1]"}, "{}"),
        ({}, "{}"),
    ],
)
def test_calls_in_the_history_carry_arguments_that_every_server_can_parse(fields: Json, arguments: str) -> None:
    message = sent({"role": "assistant", "content": "", "tool_calls": [call(**fields)]})
    assert message == {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}}],
    }


def test_a_tool_response_names_its_call() -> None:
    message = sent({"role": "tool", "call_id": "c1", "content": [{"type": "text", "text": "42"}]})
    assert message == {"role": "tool", "tool_call_id": "c1", "content": "42"}


TOOL = {
    "name": "weather",
    "description": "Tells the weather",
    "parameters": [
        {"name": "city", "parameter_type": "str", "description": "where", "required": True},
        {"name": "days", "parameter_type": "int", "description": "", "required": False, "default": 3},
        {"name": "unit", "parameter_type": "string", "required": False, "enum": ["C", "F"]},
    ],
}


def test_a_tool_becomes_a_function_with_a_json_schema() -> None:
    assert body(tools=[TOOL])["tools"] == [
        {
            "type": "function",
            "function": {
                "name": "weather",
                "description": "Tells the weather",
                "parameters": {
                    "type": "object",
                    "properties": {
                        "city": {"type": "string", "description": "where"},
                        "days": {"type": "integer", "default": 3},
                        "unit": {"type": "string", "enum": ["C", "F"]},
                    },
                    "required": ["city"],
                },
            },
        }
    ]


@pytest.mark.parametrize(
    ("name", "schema"),
    [
        ("str", {"type": "string"}),
        ("integer", {"type": "integer"}),
        ("float", {"type": "number"}),
        ("bool", {"type": "boolean"}),
        ("dict", {"type": "object"}),
        ("dict[str, int]", {"type": "object"}),
        ("list", {"type": "array", "items": {}}),
        ("List[int]", {"type": "array", "items": {"type": "integer"}}),
        ("typing.Optional[str]", {"type": "string"}),
        ("int | None", {"type": "integer"}),
        ("int | str", {}),
        ("Any", {}),
        ("", {}),
    ],
)
def test_type_names_of_python_and_of_json_schema_are_understood(name: str, schema: Json) -> None:
    assert type_schema(name) == schema


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", None),
        ("required", "required"),
        ("none", "none"),
        ("weather", {"type": "function", "function": {"name": "weather"}}),
    ],
)
def test_a_tool_choice_is_sent_where_it_is_not_the_default(choice: str, expected: Any) -> None:
    assert body(tools=[TOOL], tool_choice=choice).get("tool_choice") == expected
    assert "tool_choice" not in body(tool_choice=choice)


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"strategy": {"type": "greedy"}}, {"temperature": 0.0}),
        ({"strategy": {"type": "top_p", "temperature": 0.7, "top_p": 0.9}}, {"temperature": 0.7, "top_p": 0.9}),
        ({"strategy": {"type": "top_p", "temperature": None, "top_p": 0.9}}, {"top_p": 0.9}),
        ({"strategy": None, "max_tokens": 0, "repetition_penalty": 1.0, "stop": None}, {}),
        ({"max_tokens": 5, "stop": ["x"]}, {"max_tokens": 5, "stop": ["x"]}),
    ],
)
def test_sampling_parameters_are_translated(params: Json, expected: Json) -> None:
    plain = body()
    assert body(sampling_params=params) == {**plain, **expected}


def test_max_tokens_goes_by_the_name_that_the_server_wants() -> None:
    sent_body = body({"max_tokens_field": "max_completion_tokens"}, sampling_params={"max_tokens": 5})
    assert (sent_body["max_completion_tokens"], "max_tokens" in sent_body) == (5, False)


@pytest.mark.parametrize(
    ("params", "name", "value"),
    [
        ({"strategy": {"type": "top_k", "top_k": 40}}, "top_k", 40),
        ({"repetition_penalty": 1.2}, "repetition_penalty", 1.2),
    ],
)
def test_what_openai_does_not_have_needs_the_operators_leave(params: Json, name: str, value: float) -> None:
    assert f"add `extra_params: [{name}]`" in refusal(sampling_params=params)
    assert body({"extra_params": [name]}, sampling_params=params)[name] == value


def test_sampling_parameters_that_nobody_knows_are_refused() -> None:
    assert "no sampling parameter 'mirostat'" in refusal(sampling_params={"mirostat": 2})
    assert "no sampling strategy 'beam'" in refusal(sampling_params={"strategy": {"type": "beam"}})


def test_a_json_schema_is_wrapped_as_openai_wants_it() -> None:
    schema = {"title": "My answer", "type": "object"}
    wrapped = {"type": "json_schema", "json_schema": {"name": "My_answer", "schema": schema}}
    assert body(response_format={"type": "json_schema", "json_schema": schema})["response_format"] == wrapped
    assert body(response_format=wrapped)["response_format"] == wrapped


def test_a_grammar_is_refused() -> None:
    assert "not 'grammar'" in refusal(response_format={"type": "grammar", "bnf": {}})
