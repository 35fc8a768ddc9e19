"""Schemas of tools, and what a model reads when its arguments do not fit."""

from typing import Any

import pytest

from worker.providers.tools import Json, Tool
from worker.providers.tools_schema import invalid_arguments, object_schema, without_fixed

WEATHER: Json = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer", "minimum": 1, "maximum": 7},
        "unit": {"enum": ["C", "F"]},
        "at": {"type": "array", "items": {"type": "object", "properties": {"lat": {"type": "number"}}}},
    },
    "required": ["city"],
    "additionalProperties": False,
}


def tool(schema: Json) -> Tool:
    return Tool(name="weather", toolgroup_id="g", input_schema=schema)


@pytest.mark.parametrize("arguments", [{"city": "Rome"}, {"city": "Rome", "days": 3, "at": [{"lat": 1.5}]}])
def test_arguments_that_fit_are_not_objected_to(arguments: Json) -> None:
    assert invalid_arguments(tool(WEATHER), arguments) is None


def test_the_message_says_what_is_wrong_where_and_what_is_taken() -> None:
    assert invalid_arguments(tool(WEATHER), {"days": "three", "at": [{"lat": "x"}]}) == (
        'The arguments of weather are invalid: "city" is a required property; at[0].lat: "x" is not of type "number";'
        ' days: "three" is not of type "integer". It takes: city (string, required), days (integer, optional),'
        " unit (any, optional), at (array, optional). Correct them and call it again."
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"city": 1}, 'city: 1 is not of type "string"'),
        ({"city": "a", "days": 9}, "days: 9 is greater than the maximum of 7"),
        ({"city": "a", "unit": "K"}, 'unit: "K" is not one of "C" or "F"'),
        ({"city": "a", "town": "b"}, "Additional properties are not allowed ('town' was unexpected)"),
    ],
)
def test_each_kind_of_mistake_is_named(arguments: Json, words: str) -> None:
    assert words in str(invalid_arguments(tool(WEATHER), arguments))


def test_a_message_is_bounded_however_long_and_many_the_mistakes() -> None:
    schema = {"type": "object", "additionalProperties": {"type": "integer"}}
    problem = invalid_arguments(tool(schema), {f"p{n}": "x" * 100_000 for n in range(50)})
    assert problem is not None
    assert "and 45 more" in problem
    assert len(problem) < 3_000


def test_a_tool_without_arguments_says_so() -> None:
    problem = invalid_arguments(tool({"type": "object", "additionalProperties": False}), {"x": 1})
    assert "It takes no arguments." in str(problem)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "http://127.0.0.1:9/schema"},
        {"$ref": "file:///etc/passwd"},
        {"type": "nonsense"},
        {"type": "object", "properties": {"a": {"$ref": "#/nowhere"}}},
        {"properties": {"a": {"pattern": "("}}},
    ],
)
def test_a_schema_that_cannot_be_used_forbids_nothing_and_opens_nothing(schema: Json) -> None:
    assert invalid_arguments(tool(schema), {"a": "b"}) is None


@pytest.mark.parametrize("pattern", ["^(a+)+$", "^(a|aa)+$", r"^(a|aa)+\1$"])
def test_no_pattern_takes_long(pattern: str) -> None:
    # With Python's own `re` this test would not end.
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": pattern}}}
    invalid_arguments(tool(schema), {"a": "a" * 5_000 + "!"})
    assert invalid_arguments(tool(schema), {"a": 1}) is not None


def test_what_cannot_be_checked_is_said_and_not_raised() -> None:
    deep: Any = []
    for _ in range(2_000):
        deep = [deep]
    problem = invalid_arguments(tool({"type": "object"}), {"a": deep})
    assert problem is None or "weather" in problem


def test_a_parameter_list_becomes_a_schema() -> None:
    parameters = [
        {"name": "city", "parameter_type": "string", "description": "Where", "required": True},
        {"name": "days", "parameter_type": "int", "required": False, "default": 1},
        {"name": "tags", "parameter_type": "list[str]"},
    ]
    assert object_schema(parameters) == {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Where"},
            "days": {"type": "integer", "default": 1},
            "tags": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["city", "tags"],
    }


def test_a_schema_is_taken_as_it_is_and_an_empty_one_takes_anything() -> None:
    assert object_schema(WEATHER) == WEATHER
    assert object_schema({}) == {"type": "object", "properties": {}}


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"type": "string"}, "with `type: object`"),
        ({"properties": {"a": {"type": "strin"}}}, "is no JSON Schema"),
        ([{"parameter_type": "string"}], "has a `name`"),
        (["city"], "has a `name`"),
        ([{"name": "a"}, {"name": "a"}], "'a' stands twice"),
    ],
)
def test_parameters_that_are_none_are_refused(parameters: Any, words: str) -> None:
    with pytest.raises(ValueError, match=r"^(has|is|each|the)") as caught:
        object_schema(parameters)
    assert words in str(caught.value)


def test_fixed_arguments_are_hidden_from_the_model() -> None:
    hidden = without_fixed(WEATHER, {"city": "Rome", "key": "x"})
    assert set(hidden["properties"]) == {"days", "unit", "at"}
    assert hidden["required"] == []
    assert without_fixed(WEATHER, {}) is WEATHER
