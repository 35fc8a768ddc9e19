"""Models, shields and tool groups over HTTP: listed, registered with their providers, and taken back."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from apikit import Api, assert_problem
from callskit import SEAT, config_of, hint_with, with_calls, with_keys
from werkzeug.test import TestResponse

from shared.errors import ProviderError
from shared.registry import Registry
from worker.fleet import Fleet
from worker.providers.inference import Model

Json = dict[str, Any]


@pytest.fixture
def served(redis_url: str, key_prefix: str) -> Iterator[Api]:
    """The API with the providers of `config_of`, and keys for two tenants."""
    api = Api.on(redis_url, key_prefix, with_keys(here="here", there="there"))
    api.client.environ_base["HTTP_AUTHORIZATION"] = "Bearer here"
    with_calls(api)
    yield api
    api.services.tails.close()


def names(answer: TestResponse) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [entry["identifier"] for entry in answer.json["data"]]


def register(api: Api, kind: str, **body: Any) -> Json:
    answer = api.post(f"/v1/{kind}", body)
    assert answer.status_code == 200, answer.text
    found: Json = answer.json
    return found


# Models


def test_a_registered_model_is_listed_found_and_usable_at_once(served: Api) -> None:
    entry = register(served, "models", model_id="mine", provider_id="one", provider_model_id="m", metadata={"a": 1})

    assert (entry["provider_id"], entry["provider_resource_id"], entry["metadata"]) == ("one", "m", {"a": 1})
    assert served.client.get("/v1/models/mine").json == entry
    assert served.client.get("/v1/models/one/mine").json == entry
    assert names(served.client.get("/v1/models")) == ["m", "n", "mine"]
    served.turn(served.session(served.agent(model="mine")))


def test_another_process_of_the_api_knows_it_as_soon_as_it_is_asked_for_it(
    redis_url: str, key_prefix: str, api: Api
) -> None:
    with_calls(api)
    other = Api.on(redis_url, key_prefix, registry=None)
    assert names(other.client.get("/v1/models")) == ["m", "n"]

    register(api, "models", model_id="mine", provider_id="one", provider_model_id="m")

    assert other.agent(model="mine")
    assert other.client.get("/v1/models/mine").status_code == 200
    other.services.tails.close()


def test_the_reason_of_the_provider_that_refuses_reaches_the_client(served: Api) -> None:
    answer = served.post("/v1/models", {"model_id": "mine", "provider_id": "one"})

    problem = assert_problem(answer, 400, "model_not_found")
    assert "Provider 'one' does not serve 'mine'. It serves: m, n." in problem["detail"]
    assert problem["error"]["provider_id"] == "one"
    assert served.client.get("/v1/models/mine").status_code == 404


@pytest.mark.parametrize(
    ("provider_id", "code", "words"),
    [(None, "provider_not_named", "Configured: one, two."), ("three", "provider_not_found", "Configured: one, two.")],
)
def test_a_provider_has_to_be_one_that_is_there_and_be_named_where_there_are_several(
    served: Api, provider_id: str | None, code: str, words: str
) -> None:
    answer = served.post("/v1/models", {"model_id": "mine", "provider_id": provider_id})

    assert words in assert_problem(answer, 400, code)["detail"]


def test_registering_again_changes_nothing_and_another_model_of_the_name_is_a_conflict(served: Api) -> None:
    body = {"model_id": "mine", "provider_id": "one", "provider_model_id": "m"}
    first = register(served, "models", **body)

    assert register(served, "models", **body) == first
    for other in ({**body, "provider_model_id": "n"}, {**body, "model_type": "embedding"}):
        answer = served.post("/v1/models", other)
        assert_problem(answer, 409, "already_registered")
        assert answer.headers["x-should-retry"] == "false"
    assert_problem(served.post("/v1/models", {"model_id": "m", "provider_id": "one", "provider_model_id": "n"}), 409)


def test_an_idempotency_key_gives_the_same_registration_and_none_for_another_body(served: Api) -> None:
    body = {"model_id": "mine", "provider_id": "one", "provider_model_id": "m"}

    first = served.post("/v1/models", body, Idempotency_Key="k")
    again = served.post("/v1/models", body, Idempotency_Key="k")
    other = served.post("/v1/models", {**body, "model_id": "yours"}, Idempotency_Key="k")

    assert first.json == again.json
    assert again.headers["Idempotent-Replayed"] == "true"
    assert_problem(other, 422, "idempotency_key_reused")
    refused = served.post("/v1/models", {"model_id": "none", "provider_id": "one"}, Idempotency_Key="l")
    assert_problem(refused, 400, "model_not_found")
    mended = served.post("/v1/models", {**body, "model_id": "more"}, Idempotency_Key="l")
    assert mended.status_code == 200, "what was refused was not made: the key is free"


def test_a_model_that_is_registered_with_two_instances_is_one_entry(served: Api) -> None:
    register(served, "models", model_id="mine", provider_id="one", provider_model_id="n")
    register(served, "models", model_id="mine", provider_id="two", provider_model_id="n")

    assert served.client.get("/v1/models/mine").json["provider_ids"] == ["one", "two"]
    assert served.client.delete("/v1/models/two/mine").status_code == 204
    assert served.client.get("/v1/models/mine").json["provider_ids"] == ["one"]
    assert served.client.delete("/v1/models/mine").status_code == 204
    assert_problem(served.client.get("/v1/models/mine"), 404)


def test_a_second_instance_can_be_registered_for_a_model_that_another_one_lists(served: Api) -> None:
    entry = register(served, "models", model_id="m", provider_id="two", provider_model_id="n")

    assert entry["provider_ids"] == ["one", "two"]
    assert served.client.delete("/v1/models/m").status_code == 204
    assert served.client.get("/v1/models/m").json["provider_ids"] == ["one"]


@pytest.mark.parametrize("path", ["/v1/models/m", "/v1/shields/words", "/v1/toolgroups/seats"])
def test_what_a_provider_lists_itself_is_not_taken_back(served: Api, path: str) -> None:
    answer = served.client.delete(path)

    assert "lists it by itself" in assert_problem(answer, 409, "not_registered")["detail"]
    assert served.client.get(path).status_code == 200


@pytest.mark.parametrize("kind", ["models", "shields", "toolgroups"])
def test_what_is_not_there_is_neither_found_nor_taken_back(served: Api, kind: str) -> None:
    for answer in (served.client.get(f"/v1/{kind}/a/b"), served.client.delete(f"/v1/{kind}/a/b")):
        assert f"GET /v1/{kind} lists" in assert_problem(answer, 404)["detail"]


def test_a_registration_whose_provider_left_the_config_is_hidden_and_comes_back_with_it(served: Api) -> None:
    register(served, "models", model_id="mine", provider_id="two", provider_model_id="n")
    whole = served.services.registry.read()
    assert whole is not None

    served.services.registry.publish(replace(whole, providers=[p for p in whole.providers if p.provider_id != "two"]))
    served.services.served.registry("here", fresh=True)
    assert served.client.get("/v1/models/mine").status_code == 404
    served.services.registry.publish(whole)
    assert served.client.get("/v1/models/mine").status_code == 200


def test_what_one_tenant_registers_another_one_does_not_see(served: Api) -> None:
    register(served, "models", model_id="mine", provider_id="one", provider_model_id="m")
    register(served, "shields", shield_id="mine", provider_shield_id="words")
    register(served, "toolgroups", toolgroup_id="mine", args={"seat": "1A"})
    there = {"Authorization": "Bearer there"}

    for kind in ("models", "shields", "toolgroups"):
        assert served.client.get(f"/v1/{kind}/mine").status_code == 200
        assert served.client.get(f"/v1/{kind}/mine", headers=there).status_code == 404
        assert served.client.delete(f"/v1/{kind}/mine", headers=there).status_code == 404
    refused = served.client.post("/v1/agents", json={"agent_config": {"model": "mine"}}, headers=there)
    assert_problem(refused, 400, "model_not_found")
    # The same name for something else: neither is the other's.
    body = {"toolgroup_id": "mine", "args": {"seat": "2B"}}
    assert served.client.post("/v1/toolgroups", json=body, headers=there).status_code == 200
    assert served.client.get("/v1/toolgroups/mine").json["args"] == {"seat": "1A"}


def test_registrations_are_kept_over_a_new_run_config(served: Api, redis_url: str, key_prefix: str) -> None:
    register(served, "models", model_id="mine", provider_id="one", provider_model_id="m")

    again = Api.on(
        redis_url, key_prefix, with_keys(here="here").read_from(config_of().origin, "another"), registry=None
    )
    again.client.environ_base["HTTP_AUTHORIZATION"] = "Bearer here"
    assert_problem(again.client.get("/v1/models"), 503, "no_workers")
    again.services.registry.publish(replace(Registry(), providers=served.services.served.registry("here").providers))

    assert names(again.client.get("/v1/models")) == ["mine"]
    again.services.tails.close()


def test_without_a_calls_worker_registering_is_unavailable_and_listing_is_not(
    served: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, asked = served.services.calls, served.services.calls.call
    hint_with(served, lambda call_id: None)
    calls.call = lambda *given, **named: asked(*given, **{**named, "timeout_s": 0.05})  # type: ignore[method-assign]

    answer = served.post("/v1/models", {"model_id": "mine", "provider_id": "one"})

    assert_problem(answer, 503, "no_calls_worker")
    assert int(answer.headers["Retry-After"]) > 0
    assert names(served.client.get("/v1/models")) == ["m", "n"]


# Shields


def test_a_registered_shield_is_listed_and_run(served: Api) -> None:
    entry = register(served, "shields", shield_id="mine", provider_shield_id="words", params={})

    assert entry == {
        "identifier": "mine",
        "provider_resource_id": "words",
        "provider_id": "deny",
        "type": "shield",
        "params": {},
    }
    assert names(served.client.get("/v1/shields")) == ["words", "mine"]
    body = {"shield_id": "mine", "messages": [{"role": "user", "content": "a bad word"}], "params": {}}
    assert served.post("/v1/safety/run-shield", body).json["violation"] == {
        "violation_level": "error",
        "user_message": "Mind your language.",
        "metadata": {"violation_type": "denylist", "pattern": 0},
    }
    served.client.delete("/v1/shields/mine")
    refused = assert_problem(served.post("/v1/safety/run-shield", body), 400, "shield_not_found")
    assert "Known: words." in refused["detail"]


def test_a_shield_that_its_provider_does_not_have_is_refused(served: Api) -> None:
    answer = served.post("/v1/shields", {"shield_id": "mine", "provider_shield_id": "none"})

    assert "Its config has: words." in assert_problem(answer, 400, "shield_not_found")["detail"]


def test_another_shield_of_the_same_name_is_a_conflict(served: Api) -> None:
    register(served, "shields", shield_id="words", provider_shield_id="words")

    answer = served.post("/v1/shields", {"shield_id": "words", "params": {"a": 1}})

    assert_problem(answer, 409, "already_registered")


def test_a_shield_looks_at_messages_of_every_role(served: Api) -> None:
    messages: list[Json] = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
        {"role": "assistant", "content": "", "tool_calls": [{"call_id": "c", "tool_name": "t", "arguments": {}}]},
        {"role": "tool", "call_id": "c", "content": "a bad word"},
    ]
    body = {"shield_id": "words", "messages": messages, "params": {}}

    assert served.post("/v1/safety/run-shield", body).json["violation"]
    assert served.post("/v1/safety/run-shield", {**body, "messages": messages[:3]}).json == {"violation": None}


# Tools


def test_tools_are_shown_in_the_shapes_of_llama_stack(served: Api) -> None:
    (tool,) = served.client.get("/v1/tools?toolgroup_id=seats").json["data"]

    assert tool == served.client.get("/v1/tools/book").json == served.client.get("/v1/tools/seats/book").json
    assert tool["parameters"] == [
        {"name": "seat", "parameter_type": "string", "description": "", "required": True, "default": None}
    ]
    assert tool["input_schema"] == SEAT
    live = served.client.get("/v1/tool-runtime/list-tools?tool_group_id=seats").json["data"]
    assert live == served.client.get("/v1/tool-runtime/list-tools").json["data"]
    assert [(one["name"], one["parameters"]) for one in live] == [("book", tool["parameters"])]


@pytest.mark.parametrize("path", ["/v1/tools?toolgroup_id=none", "/v1/tool-runtime/list-tools?tool_group_id=none"])
def test_the_tools_of_an_unknown_group_are_refused_with_those_that_are_there(served: Api, path: str) -> None:
    assert "Known: seats." in assert_problem(served.client.get(path), 400, "toolgroup_not_found")["detail"]


def test_a_tool_group_is_registered_with_arguments_that_nobody_reads_again(served: Api) -> None:
    entry = register(served, "toolgroups", toolgroup_id="mine", args={"seat": "1A", "api_key": "s3cr3t"})

    assert entry["args"] == {"seat": "1A", "api_key": "********"}
    shown = served.client.get("/v1/toolgroups").text + served.client.get("/v1/tools").text
    assert "s3cr3t" not in shown
    (tool,) = served.client.get("/v1/tools?toolgroup_id=mine").json["data"]
    assert tool["parameters"] == [], "what the group gives is not asked for"
    assert_problem(served.post("/v1/toolgroups", {"toolgroup_id": "mine", "args": {"seat": "2B"}}), 409)


def test_a_tool_that_two_groups_have_is_named_with_its_group(served: Api) -> None:
    register(served, "toolgroups", toolgroup_id="mine")

    answer = served.post("/v1/tool-runtime/invoke", {"tool_name": "book", "kwargs": {"seat": "1A"}})
    named = served.post("/v1/tool-runtime/invoke", {"tool_name": "mine/book", "kwargs": {"seat": "1A"}})

    assert "name one of seats/book, mine/book" in assert_problem(answer, 400, "tool_ambiguous")["detail"]
    assert_problem(named, 502, "tool_unreachable")


def test_a_tool_group_that_its_provider_refuses_is_not_there(served: Api) -> None:
    answer = served.post("/v1/toolgroups", {"toolgroup_id": "mine", "mcp_endpoint": {"uri": "http://127.0.0.1:9/mcp"}})

    assert "remote::mcp" in assert_problem(answer, 400, "toolgroup_refused")["detail"]
    assert names(served.client.get("/v1/toolgroups")) == ["seats"]


def test_a_slash_in_the_name_of_a_tool_group_is_refused(served: Api) -> None:
    answer = served.post("/v1/toolgroups", {"toolgroup_id": "a/b"})

    assert assert_problem(answer, 422)["error"]["param"] == "toolgroup_id"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"tool_name": "book", "kwargs": {}}, 400, "invalid_arguments"),
        ({"tool_name": "none", "kwargs": {}}, 400, "tool_not_found"),
        ({"tool_name": "seats", "kwargs": {}}, 400, "tool_not_found"),
        ({"tool_name": "book", "kwargs": {"seat": "1A"}}, 502, "tool_unreachable"),
        ({"tool_name": "book", "kwargs": []}, 422, "invalid_fields"),
    ],
)
def test_a_call_that_cannot_be_made_says_why(served: Api, body: Json, status: int, code: str) -> None:
    assert_problem(served.post("/v1/tool-runtime/invoke", body), status, code)


# Direct inference


def test_a_chat_completion_is_routed_as_turns_are(served: Api) -> None:
    body = {"model_id": "two/n", "messages": [{"role": "user", "content": "Say this"}]}

    answer = served.post("/v1/inference/chat-completion", body)

    assert answer.json["completion_message"] == {
        "role": "assistant",
        "content": "Say this",
        "stop_reason": "end_of_turn",
        "tool_calls": [],
    }
    assert {"metric": "total_tokens", "value": 4, "unit": "tokens"} in answer.json["metrics"]


@pytest.mark.parametrize(
    ("more", "status", "param"),
    [
        ({"model_id": "none"}, 400, "model_id"),
        ({"logprobs": {"top_k": 1}}, 400, "logprobs"),
        ({"tool_choice": "add"}, 400, "tool_choice"),
        ({"messages": [{"role": "user", "content": "x"}] * 1001}, 400, "messages"),
        ({"messages": []}, 422, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, 422, "messages.0"),
    ],
)
def test_a_chat_completion_that_cannot_be_asked_for_is_refused_by_field(
    served: Api, more: Json, status: int, param: str
) -> None:
    body = {"model_id": "m", "messages": [{"role": "user", "content": "Hi"}], **more}

    assert assert_problem(served.post("/v1/inference/chat-completion", body), status)["error"]["param"] == param


class Faulty:
    """A provider whose every method fails as the test says."""

    def __init__(self, error: ProviderError) -> None:
        self.error = error

    def register_model(self, model: Model) -> Model:
        raise self.error


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("provider_bad_request", 400),
        ("unsupported_parameter", 400),
        ("provider_unreachable", 502),
        ("provider_timeout", 502),
        ("provider_auth", 502),
        ("provider_bad_response", 502),
        ("some_code_of_tomorrow", 502),
        ("provider_rate_limited", 503),
        ("internal_error", 500),
    ],
)
def test_each_fault_of_a_provider_has_its_status(api: Api, code: str, status: int) -> None:
    fleet: Fleet = with_calls(api)
    fault = ProviderError("Provider 'one' fails.", provider_id="one", code=code, retry_after=2.5)
    fleet.inference["one"] = Faulty(fault)  # type: ignore[assignment]

    answer = api.post("/v1/models", {"model_id": "mine", "provider_id": "one"})

    problem = assert_problem(answer, status, code)
    assert problem["error"]["provider_id"] == "one"
    assert answer.headers["Retry-After"] == "3"
