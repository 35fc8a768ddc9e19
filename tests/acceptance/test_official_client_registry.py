"""The official client, unchanged, on what there is to use besides agents: models, shields, tools, inference."""

from collections.abc import Iterator
from typing import Any

import pytest
from fake_tools import FakeTools, answer
from fake_upstream import Failure, FakeUpstream, call_piece, calls, text
from llama_stack_client import (
    APIStatusError,
    BadRequestError,
    ConflictError,
    LlamaStackClient,
    NotFoundError,
)
from mcp_server import McpServer
from stack import Json, Stack, running, scripted

WORDS = {"shield_id": "words", "patterns": ["bad word"], "message": "Mind your language."}
FORECAST: Json = {
    "name": "forecast",
    "description": "How the weather will be.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "description": "Where."}, "days": {"type": "integer"}},
        "required": ["city"],
    },
}
SAMPLING: Any = {"strategy": {"type": "greedy"}, "max_tokens": 20}


@pytest.fixture(scope="module")
def server() -> Iterator[FakeUpstream]:
    with FakeUpstream(models=["m", "other", "text-embedding-small"]) as server:
        yield server


@pytest.fixture(scope="module")
def tools() -> Iterator[FakeTools]:
    with FakeTools() as tools:
        tools.replies["/forecast"] = answer({"sky": "blue"})
        yield tools


@pytest.fixture(scope="module")
def mcp() -> Iterator[McpServer]:
    with McpServer() as server:
        yield server


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, server: FakeUpstream, tools: FakeTools) -> Iterator[Stack]:
    config = scripted()
    config["providers"]["inference"].append(
        {"provider_id": "up", "provider_type": "remote::openai", "config": {"url": server.url, "max_retries": 0}}
    )
    config["providers"]["safety"] = [
        {"provider_id": "deny", "provider_type": "inline::denylist", "config": {"shields": [WORDS]}}
    ]
    config["providers"]["tool_runtime"] = [
        {
            "provider_id": "web",
            "provider_type": "remote::http",
            "config": {"toolgroup_id": "weather", "tools": [{**FORECAST, "url": f"{tools.root}/forecast"}]},
        },
        {"provider_id": "mcp", "provider_type": "remote::mcp", "config": {}},
    ]
    config["shields"] = [{"shield_id": "strict", "provider_shield_id": "words"}]
    with running(tmp_path_factory.mktemp("registry"), config) as stack:
        yield stack


@pytest.fixture
def client(stack: Stack) -> Iterator[LlamaStackClient]:
    with LlamaStackClient(base_url=stack.url, max_retries=0) as opened:
        yield opened


def said(error: APIStatusError) -> str:
    return str(error.body["error"]["message"])  # type: ignore[index]


# Models


def test_a_model_is_registered_used_and_taken_back(client: LlamaStackClient, server: FakeUpstream) -> None:
    model = client.models.register(
        model_id="mine/good", provider_id="up", provider_model_id="other", metadata={"context": 8192}
    )

    assert (model.identifier, model.provider_id, model.provider_resource_id) == ("mine/good", "up", "other")
    assert model.metadata == {"context": 8192}
    assert client.models.retrieve("mine/good") == model
    assert "mine/good" in [one.identifier for one in client.models.list()]
    agent = client.agents.create(agent_config={"model": "mine/good", "instructions": ""}).agent_id
    session = client.agents.session.create(agent_id=agent, session_name="s").session_id
    turn = client.agents.turn.create(
        agent_id=agent, session_id=session, messages=[{"role": "user", "content": "hi"}], stream=False
    )
    assert turn.output_message.content == "Hello world"
    assert server.requests[-1].json["model"] == "other"

    client.models.unregister("mine/good")

    with pytest.raises(NotFoundError):
        client.models.retrieve("mine/good")


def test_the_reason_of_a_provider_that_refuses_a_model_reaches_the_client(client: LlamaStackClient) -> None:
    with pytest.raises(BadRequestError) as refusal:
        client.models.register(model_id="nothing", provider_id="up")

    assert "Provider 'up' does not serve 'nothing'. It serves: m, other" in said(refusal.value)


def test_a_model_that_its_provider_lists_itself_is_not_taken_back(client: LlamaStackClient) -> None:
    with pytest.raises(ConflictError) as refusal:
        client.models.unregister("m")

    assert "lists it by itself" in said(refusal.value)


# Shields


def test_a_shield_is_registered_run_and_used_by_an_agent(client: LlamaStackClient) -> None:
    shield = client.shields.register(shield_id="mine", provider_id="deny", provider_shield_id="words")

    assert (shield.identifier, shield.provider_id, shield.provider_resource_id) == ("mine", "deny", "words")
    assert client.shields.retrieve("mine") == shield
    assert {"words", "strict", "mine"} <= {one.identifier for one in client.shields.list()}
    for name in ("mine", "strict"):
        agent = client.agents.create(
            agent_config={"model": "scripted", "instructions": "", "input_shields": [name]}
        ).agent_id
        session = client.agents.session.create(agent_id=agent, session_name="s").session_id
        turn = client.agents.turn.create(
            agent_id=agent, session_id=session, messages=[{"role": "user", "content": "a bad word"}], stream=False
        )
        assert turn.output_message.content == "Mind your language."


def test_a_shield_looks_at_messages_by_itself(client: LlamaStackClient) -> None:
    bad = client.safety.run_shield(shield_id="words", messages=[{"role": "user", "content": "A bad word."}], params={})
    good = client.safety.run_shield(shield_id="words", messages=[{"role": "user", "content": "A word."}], params={})

    assert bad.violation is not None
    assert (bad.violation.violation_level, bad.violation.user_message) == ("error", "Mind your language.")
    assert good.violation is None


def test_a_shield_that_is_not_there_is_refused_with_those_that_are(client: LlamaStackClient) -> None:
    with pytest.raises(BadRequestError) as refusal:
        client.safety.run_shield(shield_id="none", messages=[{"role": "user", "content": "Hi"}], params={})

    assert "Known: " in said(refusal.value) and "words" in said(refusal.value)


# Tools


def test_tool_groups_and_their_tools_are_listed(client: LlamaStackClient) -> None:
    group = client.toolgroups.get("weather")
    (tool,) = client.tools.list(toolgroup_id="weather")
    (live,) = client.tool_runtime.list_tools(tool_group_id="weather")

    assert (group.provider_id, group.type) == ("web", "tool_group")
    assert group in client.toolgroups.list()
    assert (tool.identifier, tool.toolgroup_id, tool.provider_id) == ("forecast", "weather", "web")
    assert [(one.name, one.parameter_type, one.required) for one in tool.parameters] == [
        ("city", "string", True),
        ("days", "integer", False),
    ]
    assert client.tools.get("forecast") == tool
    assert live.name == "forecast"


def test_a_tool_is_invoked(client: LlamaStackClient, tools: FakeTools) -> None:
    result = client.tool_runtime.invoke_tool(tool_name="forecast", kwargs={"city": "Paris", "days": 2})

    assert result.content == '{"sky": "blue"}'
    assert result.error_message is None
    assert tools.requests[-1].json == {"city": "Paris", "days": 2}


@pytest.mark.parametrize(
    ("name", "kwargs", "words"),
    [
        ("forecast", {"city": 5}, "city"),
        ("nothing", {}, "There is no tool 'nothing'. Known: "),
    ],
)
def test_a_call_that_cannot_be_made_is_refused(
    client: LlamaStackClient, name: str, kwargs: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadRequestError) as refusal:
        client.tool_runtime.invoke_tool(tool_name=name, kwargs=kwargs)

    assert words in said(refusal.value)


def test_the_tools_of_an_mcp_server_are_registered_used_by_an_agent_and_taken_back(
    client: LlamaStackClient, mcp: McpServer
) -> None:
    client.toolgroups.register(toolgroup_id="notes", provider_id="mcp", mcp_endpoint={"uri": mcp.uri})

    assert client.toolgroups.get("notes").mcp_endpoint.uri == mcp.uri  # type: ignore[union-attr]
    names = [tool.identifier for tool in client.tools.list(toolgroup_id="notes")]
    assert "add" in names
    (item,) = client.tool_runtime.invoke_tool(tool_name="add", kwargs={"a": 2, "b": 40}).content
    assert item.text == "42"
    agent = client.agents.create(
        agent_config={"model": "scripted", "instructions": "", "toolgroups": ["notes", "weather/forecast"]}
    ).agent_id
    session = client.agents.session.create(agent_id=agent, session_name="s").session_id
    turn = client.agents.turn.create(
        agent_id=agent, session_id=session, messages=[{"role": "user", "content": "hi"}], stream=False
    )
    assert turn.output_message.content == "hi"

    client.toolgroups.unregister("notes")

    with pytest.raises(NotFoundError):
        client.toolgroups.get("notes")
    with pytest.raises(BadRequestError, match="notes"):
        client.agents.create(agent_config={"model": "scripted", "instructions": "", "toolgroups": ["notes"]})


def test_an_mcp_server_that_does_not_answer_refuses_its_tool_group(client: LlamaStackClient) -> None:
    with pytest.raises(APIStatusError) as refusal:
        client.toolgroups.register(
            toolgroup_id="gone", provider_id="mcp", mcp_endpoint={"uri": "http://127.0.0.1:9/mcp"}
        )

    assert refusal.value.status_code == 502
    assert "provider 'mcp' cannot be reached" in said(refusal.value)


# Inference


def test_a_chat_completion_in_one_piece(client: LlamaStackClient, server: FakeUpstream) -> None:
    reply = client.inference.chat_completion(
        model_id="m",
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        sampling_params=SAMPLING,
    )

    assert reply.completion_message.content == "Hello world"
    assert reply.completion_message.stop_reason == "end_of_turn"
    assert {metric.metric for metric in reply.metrics or ()} >= {"prompt_tokens", "completion_tokens"}
    asked = server.requests[-1].json
    assert [message["role"] for message in asked["messages"]] == ["system", "user"]
    assert asked["max_tokens"] == 20


def test_a_chat_completion_in_pieces(client: LlamaStackClient) -> None:
    stream = client.inference.chat_completion(model_id="m", messages=[{"role": "user", "content": "Hi"}], stream=True)
    events = [chunk.event for chunk in stream]

    assert [event.event_type for event in events] == ["start", "progress", "progress", "complete"]
    assert "".join(event.delta.text for event in events if event.delta.type == "text") == "Hello world"
    assert events[-1].stop_reason == "end_of_turn"


def test_a_chat_completion_calls_a_tool(client: LlamaStackClient, server: FakeUpstream) -> None:
    server.script(calls(call_piece(0, id="c1", name="add", arguments='{"x": 2}')))

    reply = client.inference.chat_completion(
        model_id="m",
        messages=[{"role": "user", "content": "Add"}],
        tools=[{"tool_name": "add", "description": "Adds.", "parameters": {"x": {"param_type": "int"}}}],
    )

    (call,) = reply.completion_message.tool_calls or ()
    assert (call.tool_name, call.arguments) == ("add", {"x": 2})
    assert reply.completion_message.stop_reason == "end_of_message"
    function = server.requests[-1].json["tools"][0]["function"]
    assert function["parameters"]["properties"]["x"]["type"] == "integer"


def test_what_fails_before_the_first_piece_has_a_status_of_its_own(
    client: LlamaStackClient, server: FakeUpstream
) -> None:
    for stream in (False, True):
        server.script(Failure(status=500, body={"error": {"message": "out of memory"}}))
        with pytest.raises(APIStatusError) as fault:
            client.inference.chat_completion(  # type: ignore[call-overload]
                model_id="m", messages=[{"role": "user", "content": "Hi"}], stream=stream
            )
        assert fault.value.status_code == 502
        assert "out of memory" in said(fault.value)
        assert fault.value.body["error"]["provider_id"] == "up"  # type: ignore[index]


def test_a_rate_limit_says_when_to_come_back(client: LlamaStackClient, server: FakeUpstream) -> None:
    server.script(Failure(status=429, headers={"retry-after": "7"}, body={"error": {"message": "slow down"}}))

    with pytest.raises(APIStatusError) as fault:
        client.inference.chat_completion(model_id="m", messages=[{"role": "user", "content": "Hi"}])

    assert (fault.value.status_code, fault.value.response.headers["Retry-After"]) == (503, "7")


def test_a_reply_that_breaks_off_ends_its_stream_with_the_error(client: LlamaStackClient, server: FakeUpstream) -> None:
    server.script(text("Hel", end="cut"))

    stream = client.inference.chat_completion(model_id="m", messages=[{"role": "user", "content": "Hi"}], stream=True)
    chunks = list(stream)

    assert chunks[1].event.delta.text == "Hel"  # type: ignore[union-attr]
    assert chunks[-1].error["code"] == "provider_interrupted"  # type: ignore[attr-defined]


def test_a_client_that_leaves_ends_the_providers_work(client: LlamaStackClient, server: FakeUpstream) -> None:
    hangups = server.hangups
    server.script(text(*(f"w{n} " for n in range(1000)), between_s=0.05))

    stream = client.inference.chat_completion(model_id="m", messages=[{"role": "user", "content": "Hi"}], stream=True)
    next(iter(stream))
    stream.response.close()

    server.wait_for(lambda: server.hangups > hangups)


def test_a_text_is_gone_on_with_in_one_piece_and_in_pieces(client: LlamaStackClient, server: FakeUpstream) -> None:
    whole = client.inference.completion(model_id="m", content="Once upon", sampling_params=SAMPLING)
    chunks = list(client.inference.completion(model_id="m", content="Once upon", stream=True))

    assert (whole.content, whole.stop_reason) == (" and so on", "out_of_tokens")
    assert "".join(chunk.content for chunk in chunks) == " and so on"
    assert chunks[-1].stop_reason == "out_of_tokens"
    asked = [request for request in server.requests if request.path == "/v1/completions"]
    assert (asked[0].json["prompt"], asked[0].json["max_tokens"]) == ("Once upon", 20)


def test_texts_are_embedded_in_their_order(client: LlamaStackClient, server: FakeUpstream) -> None:
    answer = client.inference.embeddings(model_id="text-embedding-small", contents=["a", "bbb"], output_dimension=2)

    assert answer.embeddings == [[1.0, 0.0], [3.0, 1.0]]
    assert server.requests[-1].json["dimensions"] == 2
    items: Any = [{"type": "text", "text": "cc"}]
    assert client.inference.embeddings(model_id="text-embedding-small", contents=items).embeddings == [[2.0, 0.0]]


def test_a_model_that_has_no_embeddings_is_refused_with_those_that_have(client: LlamaStackClient) -> None:
    with pytest.raises(BadRequestError) as refusal:
        client.inference.embeddings(model_id="m", contents=["a"])

    assert "Served: text-embedding-small." in said(refusal.value)


def test_a_model_that_cannot_chat_is_refused_with_those_that_can(client: LlamaStackClient) -> None:
    with pytest.raises(BadRequestError) as refusal:
        client.inference.chat_completion(model_id="text-embedding-small", messages=[{"role": "user", "content": "Hi"}])

    assert "Served: m, other, scripted" in said(refusal.value)
