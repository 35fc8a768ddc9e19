"""Agents over HTTP."""

from dataclasses import replace
from typing import Any

import pytest
from apikit import HELLO, REGISTRY, Api, assert_problem, event_types, ref_of

from api.idempotency import digest_of


def test_an_agent_is_kept_with_all_defaults_filled_in(api: Api) -> None:
    agent = api.agent(instructions=None, client_tools=None, max_infer_iters=None, tool_config=None)

    answer = api.client.get(agent)

    assert answer.status_code == 200
    assert answer.json["agent_id"] == agent.rpartition("/")[2]
    assert answer.json["agent_config"] == {
        "model": "m",
        "instructions": "",
        "name": None,
        "client_tools": [],
        "toolgroups": [],
        "input_shields": [],
        "output_shields": [],
        "shield_mode": "hold",
        "shield_on_error": "block",
        "memory": None,
        "max_infer_iters": 10,
        "enable_session_persistence": True,
        "tool_choice": "auto",
        "tool_config": {"tool_choice": "auto", "system_message_behavior": "append"},
        "response_format": None,
        "sampling_params": {"strategy": None, "max_tokens": None, "repetition_penalty": None, "stop": None},
    }


def test_a_tool_choice_stands_in_both_places_wherever_it_was_given(api: Api) -> None:
    tools = [{"name": "add", "description": None, "parameters": None, "tool_prompt_format": "json"}]
    for given in ({"tool_choice": "add"}, {"tool_config": {"tool_choice": "add", "tool_prompt_format": "json"}}):
        config = api.client.get(api.agent(client_tools=tools, **given)).json["agent_config"]

        assert config["tool_choice"] == config["tool_config"]["tool_choice"] == "add"


@pytest.mark.parametrize("model", ["m", "p1/m", "meta/small", "p2/meta/small"])
def test_a_served_model_is_accepted_by_its_name_or_pinned(api: Api, model: str) -> None:
    assert api.post("/v1/agents", {"agent_config": {"model": model}}).status_code == 200


@pytest.mark.parametrize("model", ["gpt-9", "p9/m", "e"])
def test_a_model_that_nobody_serves_is_refused_with_what_is_served(api: Api, model: str) -> None:
    body = assert_problem(api.post("/v1/agents", {"agent_config": {"model": model}}), 400, "model_not_found")

    assert body["error"]["param"] == "agent_config.model"
    assert "Served: m, meta/small." in body["detail"]


def test_no_agent_is_taken_before_a_worker_has_said_what_is_served(redis_url: str, key_prefix: str) -> None:
    api = Api.on(redis_url, key_prefix, registry=None)

    answer = api.post("/v1/agents", {"agent_config": {"model": "m"}})

    assert_problem(answer, 503, "no_workers")
    assert answer.headers["Retry-After"] == "2"
    assert api.client.get("/v1/models").status_code == 503
    api.services.registry.publish(REGISTRY)
    assert api.post("/v1/agents", {"agent_config": {"model": "m"}}).status_code == 200


@pytest.mark.parametrize(
    ("config", "param", "code", "known"),
    [
        ({"input_shields": ["words", "guard"]}, "agent_config.input_shields", "shield_not_found", "Known: words."),
        ({"output_shields": ["guard"]}, "agent_config.output_shields", "shield_not_found", "Known: words."),
        ({"toolgroups": ["builtin::web"]}, "agent_config.toolgroups", "toolgroup_not_found", "Known: seats."),
        ({"toolgroups": [{"name": "x", "args": {}}]}, "agent_config.toolgroups", "toolgroup_not_found", "Known: seats"),
        ({"toolgroups": ["seats/free"]}, "agent_config.toolgroups", "toolgroup_not_found", "Its tools: book."),
        ({"tool_choice": "free", "toolgroups": ["seats"]}, "agent_config.tool_config.tool_choice", None, "of book."),
    ],
)
def test_what_is_not_served_is_refused_with_what_is(
    api: Api, config: Any, param: str, code: str | None, known: str
) -> None:
    answer = api.post("/v1/agents", {"agent_config": {"model": "m", **config}})

    problem = assert_problem(answer, 400, code)
    assert problem["error"]["param"] == param
    assert known in problem["detail"]


def test_shields_and_tool_groups_that_are_served_are_taken(api: Api) -> None:
    config = {
        "input_shields": ["words"],
        "output_shields": ["words"],
        "shield_mode": "stream",
        "on_error": "allow",
        "toolgroups": ["seats", "seats/book", {"name": "seats", "args": {"seat": "1A"}}],
        "tool_choice": "book",
    }

    kept = api.client.get(api.agent(**config)).json["agent_config"]

    assert (kept["shield_mode"], kept["shield_on_error"]) == ("stream", "allow")
    assert kept["toolgroups"] == config["toolgroups"]


def test_a_shield_that_was_taken_away_is_refused_at_the_next_turn(api: Api) -> None:
    session = api.session(api.agent(input_shields=["words"]))
    api.services.registry.publish(replace(REGISTRY, shields=[]))
    api.services.served.registry("default", fresh=True)

    answer = api.post(f"{session}/turn", HELLO)

    assert assert_problem(answer, 400, "shield_not_found")["error"]["param"] == "input_shields"


@pytest.mark.parametrize(
    ("config", "status", "param"),
    [
        ({"tool_choice": "add"}, 400, "agent_config.tool_config.tool_choice"),
        ({"max_infer_iters": 0}, 422, "agent_config.max_infer_iters"),
        ({"max_infer_iters": "10"}, 422, "agent_config.max_infer_iters"),
        ({"max_infer_iters": 2**63}, 422, "agent_config.max_infer_iters"),
        ({"model": None}, 422, "agent_config.model"),
        ({"model": ""}, 422, "agent_config.model"),
        ({"client_tools": [{"name": "no spaces"}]}, 422, "agent_config.client_tools.0.name"),
        ({"client_tools": [{"name": "a"}, {"name": "a"}]}, 422, "agent_config"),
        ({"tool_choice": "auto", "tool_config": {"tool_choice": "none"}}, 422, "agent_config"),
        ({"sampling_params": {"strategy": {"type": "best"}}}, 422, "agent_config.sampling_params.strategy"),
        (
            {"sampling_params": {"strategy": {"type": "top_p", "top_p": 2}}},
            422,
            "agent_config.sampling_params.strategy.top_p",
        ),
        ({"response_format": {"type": "json_schema"}}, 422, "agent_config.response_format.json_schema"),
    ],
)
def test_a_field_that_is_wrong_is_named(api: Api, config: Any, status: int, param: str) -> None:
    answer = api.post("/v1/agents", {"agent_config": {"model": "m", **config}})

    assert assert_problem(answer, status)["error"]["param"] == param


def test_agents_are_listed_in_pages_oldest_first(api: Api) -> None:
    agents = [api.agent().rpartition("/")[2] for _ in range(3)]

    first = api.client.get("/v1/agents?limit=2").json
    second = api.client.get("/v1/agents?limit=2&start_index=2").json

    assert [entry["agent_id"] for entry in first["data"]] == agents[:2]
    assert first["has_more"] is True
    assert [entry["agent_id"] for entry in second["data"]] == agents[2:]
    assert second["has_more"] is False
    assert first["url"] == "/v1/agents"


@pytest.mark.parametrize(
    "query", ["start_index=-1", "limit=0", "limit=1001", "limit=x", "limit=1.5", "start_index=" + "9" * 40]
)
def test_a_page_that_cannot_be_is_refused(api: Api, query: str) -> None:
    answer = api.client.get(f"/v1/agents?{query}")

    assert assert_problem(answer, 422)["error"]["param"] == query.partition("=")[0]


def test_a_deleted_agent_is_gone_with_its_sessions_and_its_turns_are_canceled(api: Api) -> None:
    agent = api.agent()
    sessions = [api.session(agent) for _ in range(3)]
    turn = api.turn(sessions[0])

    assert api.client.delete(agent).status_code == 204

    assert_problem(api.client.get(agent), 404)
    assert_problem(api.client.delete(agent), 404)
    for session in sessions:
        assert_problem(api.client.get(session), 404)
        assert_problem(api.post(f"{session}/turn", {"messages": [{"role": "user", "content": "x"}]}), 404)
    assert_problem(api.client.get(turn), 404)
    assert event_types(api.services, ref_of(turn)) == ["turn_created", "turn_canceled"]
    assert api.client.get("/v1/agents").json["data"] == []


def test_the_same_key_and_body_give_the_same_agent(api: Api) -> None:
    body = {"agent_config": {"model": "m"}}

    first = api.post("/v1/agents", body, Idempotency_Key="k")
    again = api.post("/v1/agents", body, Idempotency_Key="k")
    other = api.post("/v1/agents", body, Idempotency_Key="k2")

    assert first.json == again.json != other.json
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"


def test_the_same_key_with_another_body_is_refused(api: Api) -> None:
    api.post("/v1/agents", {"agent_config": {"model": "m"}}, Idempotency_Key="k")

    answer = api.post("/v1/agents", {"agent_config": {"model": "meta/small"}}, Idempotency_Key="k")

    assert_problem(answer, 422, "idempotency_key_reused")


def test_a_key_whose_agent_is_still_being_created_says_so(api: Api) -> None:
    idempotency = api.services.idempotency
    body = {"agent_config": {"model": "m"}}

    def create() -> dict[str, Any]:
        answer = api.post("/v1/agents", body, Idempotency_Key="k")
        assert_problem(answer, 409, "idempotency_key_in_use")
        assert answer.headers["Retry-After"] == "1"
        assert "x-should-retry" not in answer.headers
        return {"agent_id": "agent_slow"}

    idempotency.once(create, tenant="default", route="agents", key="k", digest=digest_of(body))

    assert api.post("/v1/agents", body, Idempotency_Key="k").json == {"agent_id": "agent_slow"}


def test_a_key_is_free_again_after_a_request_that_failed(api: Api) -> None:
    api.post("/v1/agents", {"agent_config": {"model": "unknown"}}, Idempotency_Key="k")

    assert api.post("/v1/agents", {"agent_config": {"model": "m"}}, Idempotency_Key="k").status_code == 200


@pytest.mark.parametrize("key", ["", "x" * 256, "ümlaut"])
def test_a_key_that_is_none_is_refused(api: Api, key: str) -> None:
    answer = api.post("/v1/agents", {"agent_config": {"model": "m"}}, Idempotency_Key=key)

    assert assert_problem(answer, 422)["error"]["param"] == "Idempotency-Key"


def test_models_and_providers_are_shown_as_published(api: Api) -> None:
    models = {model["id"]: model for model in api.client.get("/v1/models").json["data"]}

    assert list(models) == [model.identifier for model in REGISTRY.models]
    assert models["meta/small"] == {
        "identifier": "meta/small",
        "provider_resource_id": "s",
        "provider_id": "p1",
        "provider_ids": ["p1", "p2"],
        "type": "model",
        "model_type": "llm",
        "metadata": {},
        "id": "meta/small",
        "object": "model",
        "created": 0,
        "owned_by": "p1",
    }
    assert api.client.get("/v1/models/meta/small").json == models["meta/small"]
    assert api.client.get("/v1/models/p2/meta/small").json["identifier"] == "meta/small"
    assert_problem(api.client.get("/v1/models/none"), 404)
    assert api.client.get("/v1/providers").json["data"][0] == api.client.get("/v1/providers/p1").json
    assert_problem(api.client.get("/v1/providers/p9"), 404)
