"""What the API decides without a store: bodies, paths of fields, configs, preferences, statuses."""

import json
from typing import Any

import pytest
from flask import Flask

from api.bodies import MAX_DEPTH, is_deeper, parse_object
from api.configs import agent_config, check_config, turn_config
from api.idempotency import digest_of
from api.problems import problem_of
from api.validation import field_path, validate
from api.waiting import LONGEST_WAIT_S, preferred_wait_s
from shared.errors import Conflict, InvalidRequest, NotFound, SchemaTooNew, StoreError, TurnstoneError, Unavailable
from shared.registry import RegisteredModel, Registry
from shared.types.agents import AgentConfig
from shared.types.turns import CreateTurn

REGISTRY = Registry(
    models=[RegisteredModel(identifier="m", model_type="llm", provider_ids=["p"], resource_ids={"p": "m"})]
)


def test_a_body_is_read_as_it_was_sent() -> None:
    body = {"a": [1, 2.5, True, None, "ü\u2028\U0001f600"], "b": {"c": -(2**63), "d": 2**64 - 1}}

    assert parse_object(json.dumps(body).encode()) == body


@pytest.mark.parametrize("number", ["18446744073709551616", "-9223372036854775809", "1e999", "NaN", "9" * 5000])
def test_a_number_that_could_not_be_written_again_is_refused(number: str) -> None:
    with pytest.raises(InvalidRequest, match="not JSON that can be used"):
        parse_object(f'{{"a": {number}}}'.encode())


def test_depth_is_counted_in_levels() -> None:
    assert not is_deeper(1, 0)
    assert not is_deeper([[1]], 2)
    assert is_deeper([[1]], 1)
    assert is_deeper({"a": [{"b": []}]}, 3)
    assert parse_object(b'{"a":' + b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1) + b"}")


@pytest.mark.parametrize(
    ("loc", "path"),
    [
        (("messages", 0, "user", "content", "text"), ["messages", "0", "content"]),
        (("messages", 0, "user", "content", "items", 1, "image"), ["messages", "0", "content"]),
        (("nothing",), []),
    ],
)
def test_a_fields_path_leaves_out_the_names_of_types(loc: tuple[int | str, ...], path: list[str]) -> None:
    assert field_path(loc, {"messages": [{"role": "user", "content": [1]}]}) == path


def test_several_wrong_fields_are_named_together() -> None:
    with pytest.raises(InvalidRequest) as caught:
        validate(AgentConfig, {"max_infer_iters": "x"})

    assert caught.value.message == "model: is required; max_infer_iters: should be a valid integer."


def test_what_a_client_wrote_is_told_back_shortened() -> None:
    with pytest.raises(InvalidRequest) as caught:
        validate(CreateTurn, {"messages": [{"role": "x" * 10_000}]})

    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("wait=5", 5.0),
        ("respond-async, wait=10", 10.0),
        ('wait="3"; x=y', 3.0),
        ("WAIT = 0", 0.0),
        ("wait=999999", LONGEST_WAIT_S),
        ("wait=abc", None),
        ("wait=-1", None),
        ("wait=1.5", None),
        ("await=5", None),
        ("", None),
        (None, None),
    ],
)
def test_a_preferred_wait_is_read_or_ignored(header: str | None, seconds: float | None) -> None:
    assert preferred_wait_s(header) == seconds


def test_a_digest_names_what_a_body_says_and_not_how() -> None:
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    assert digest_of({"a": 1, "stream": True}, without="stream") == digest_of({"a": 1}, without="stream")
    assert digest_of({"a": 1}) != digest_of({"a": 2})


def test_a_turn_without_overrides_runs_with_the_agents_config_itself() -> None:
    config = agent_config(AgentConfig(model="m"))
    turn = CreateTurn.model_validate({"messages": [{"role": "user", "content": "x"}]})

    assert turn_config(config, turn) is config


@pytest.mark.parametrize(
    ("config", "param"),
    [
        ({"model": "other"}, "x.model"),
        ({"model": "m", "toolgroups": ["a"]}, "x.toolgroups"),
        ({"model": "m", "tool_choice": "a"}, "x.tool_config.tool_choice"),
    ],
)
def test_a_config_that_cannot_run_is_refused_by_its_field(config: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_config(agent_config(AgentConfig.model_validate(config)), REGISTRY, where="x.")

    assert caught.value.param == param


@pytest.mark.parametrize(
    ("error", "status", "headers"),
    [
        (InvalidRequest("x"), 400, {}),
        (InvalidRequest("x", code="wrong_call_ids"), 422, {}),
        (InvalidRequest("x", code="idempotency_key_reused"), 422, {}),
        (NotFound("turn", "t", listing="GET /x"), 404, {}),
        (Conflict("x"), 409, {"x-should-retry": "false"}),
        (Conflict("x", lasting=False), 409, {"Retry-After": "1"}),
        (Unavailable("x", code="y", retry_after=3), 503, {"Retry-After": "3"}),
        (StoreError("x"), 503, {"Retry-After": "1"}),
        (SchemaTooNew("x"), 503, {"Retry-After": "5"}),
        (TurnstoneError("x"), 500, {}),
    ],
)
def test_every_error_has_its_status(error: TurnstoneError, status: int, headers: dict[str, str]) -> None:
    with Flask(__name__).test_request_context("/"):
        problem = problem_of(error)

    assert (problem.status, problem.headers) == (status, headers)
