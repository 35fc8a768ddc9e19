"""The official llama-stack-client 0.2.12, unchanged, against the real processes."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from fake_upstream import FakeUpstream
from llama_stack_client import (
    Agent,
    AgentEventLogger,
    AsyncLlamaStackClient,
    BadRequestError,
    LlamaStackClient,
    NotFoundError,
    UnprocessableEntityError,
)
from llama_stack_client.lib.agents.agent import AsyncAgent
from llama_stack_client.lib.agents.client_tool import client_tool
from llama_stack_client.types import UserMessage
from llama_stack_client.types.agents.turn import Turn
from stack import Stack

ADD_TOOL = {
    "name": "add",
    "description": "Add two integers.",
    "parameters": [
        {"name": "x", "parameter_type": "int", "description": "One.", "required": True},
        {"name": "y", "parameter_type": "int", "description": "Another.", "required": True},
    ],
}


def add(x: int, y: int) -> int:
    """Add two integers.

    :param x: one
    :param y: another
    """
    return x + y


@client_tool
def weather(city: str, days: int) -> str:
    """Say how the weather will be.

    :param city: where
    :param days: for how long
    """
    return f"sunny in {city} for {days} days"


def again() -> str:
    """Do it again."""
    return "again"


@pytest.fixture
def client(shared_stack: Stack) -> Iterator[LlamaStackClient]:
    with LlamaStackClient(base_url=shared_stack.url) as opened:
        yield opened


def user(text: str) -> list[UserMessage]:
    return [UserMessage(role="user", content=text)]


def an_agent(client: LlamaStackClient, *tools: Any, model: str = "scripted", **config: Any) -> tuple[Agent, str]:
    """A new agent and a session of it."""
    agent = Agent(client, model=model, instructions="Be brief.", tools=list(tools), **config)
    return agent, agent.create_session("a session")


def low_level_session(client: LlamaStackClient, **config: Any) -> dict[str, str]:
    """A new agent and a session of it, as the arguments that the low level calls take."""
    agent_config = {"model": "scripted", "instructions": "Be brief.", **config}
    agent_id = client.agents.create(agent_config=agent_config).agent_id
    session = client.agents.session.create(agent_id=agent_id, session_name="a session")
    return {"agent_id": agent_id, "session_id": session.session_id}


def step_types(turn: Turn) -> list[str]:
    return [step.step_type for step in turn.steps]


# The Agent class


def test_an_agent_streams_a_turn(client: LlamaStackClient) -> None:
    agent, session_id = an_agent(client)

    chunks = list(agent.create_turn(user("Say this back"), session_id=session_id, stream=True))

    types = [chunk.event.payload.event_type for chunk in chunks]
    assert types[:2] == ["turn_start", "step_start"]
    assert types[-2:] == ["step_complete", "turn_complete"]
    deltas = [chunk.event.payload.delta.text for chunk in chunks if chunk.event.payload.event_type == "step_progress"]
    assert "".join(deltas) == "Say this back"
    assert chunks[-1].event.payload.turn.output_message.content == "Say this back"


def test_an_agent_without_streaming_gets_the_whole_turn(client: LlamaStackClient) -> None:
    agent, session_id = an_agent(client)

    turn = agent.create_turn(user("Say this back"), session_id=session_id, stream=False)

    assert turn.session_id == session_id
    assert turn.output_message.content == "Say this back"
    assert turn.output_message.stop_reason == "end_of_turn"
    assert turn.input_messages[0].content == "Say this back"
    assert turn.started_at < turn.completed_at
    assert step_types(turn) == ["inference"]


def test_a_python_function_as_a_tool_is_run_by_the_client_and_the_turn_goes_on(client: LlamaStackClient) -> None:
    agent, session_id = an_agent(client, add)

    turn = agent.create_turn(user("add"), session_id=session_id, stream=False)

    assert turn.output_message.content == "The sum is 42."
    assert step_types(turn) == ["inference", "tool_execution", "inference"]
    tools = turn.steps[1]
    assert [response.content for response in tools.tool_responses] == ["42"]
    assert [call.tool_name for call in tools.tool_calls] == ["add"]


def test_the_event_logger_tells_the_whole_turn_with_its_tool(client: LlamaStackClient) -> None:
    agent, session_id = an_agent(client, add)
    stream = agent.create_turn(user("add"), session_id=session_id, stream=True)

    printed = "".join(f"{event}{event.end}" for event in AgentEventLogger().log(stream))

    assert "tool_execution> Tool:add Args:" in printed
    assert "tool_execution> Tool:add Response:42" in printed
    assert printed.rstrip().endswith("inference> The sum is 42.")


def test_two_tool_calls_in_one_reply_are_both_answered(client: LlamaStackClient) -> None:
    agent, session_id = an_agent(client, add, weather)

    turn = agent.create_turn(user("add and weather"), session_id=session_id, stream=False)

    assert turn.output_message.content == "42, and sunny."
    tools = turn.steps[1]
    assert [response.tool_name for response in tools.tool_responses] == ["add", "weather"]
    assert [response.content for response in tools.tool_responses] == ["42", '"sunny in Paris for 3 days"']


def test_integers_in_tool_arguments_reach_the_tool_as_integers(client: LlamaStackClient) -> None:
    seen: list[type] = []

    def add(x: int, y: int) -> int:
        """Add two integers.

        :param x: one
        :param y: another
        """
        seen.extend([type(x), type(y)])
        return x + y

    agent, session_id = an_agent(client, add)

    agent.create_turn(user("add"), session_id=session_id, stream=False)

    assert seen == [int, int]


def test_a_tool_that_raises_goes_back_to_the_model_as_its_error(client: LlamaStackClient) -> None:
    def add(x: int, y: int) -> int:
        """Add two integers.

        :param x: one
        :param y: another
        """
        raise ValueError("out of order")

    agent, session_id = an_agent(client, add)

    turn = agent.create_turn(user("add"), session_id=session_id, stream=False)

    assert turn.steps[1].tool_responses[0].content == "Error when running tool: out of order"
    assert turn.output_message.stop_reason == "end_of_turn"


def test_at_max_infer_iters_the_turn_completes_with_what_there_is(client: LlamaStackClient) -> None:
    agent, session_id = an_agent(client, again, max_infer_iters=3)

    turn = agent.create_turn(user("again"), session_id=session_id, stream=False)

    assert step_types(turn) == ["inference", "tool_execution"] * 2 + ["inference"]
    assert turn.output_message.stop_reason == "end_of_turn"
    assert turn.completed_at is not None


def test_a_failing_provider_reaches_a_streaming_agent_as_an_error_chunk(client: LlamaStackClient) -> None:
    agent, session_id = an_agent(client)

    chunks = list(agent.create_turn(user("fail"), session_id=session_id, stream=True))

    assert "the model fell over" in chunks[-1].error["message"]
    assert "Provider 'script'" in chunks[-1].error["message"]
    assert client.agents.turn.retrieve(
        chunks[-1].error["turn_id"], agent_id=agent.agent_id, session_id=session_id
    ).turn_id


def test_a_failing_provider_raises_in_an_agent_without_streaming(client: LlamaStackClient) -> None:
    agent, session_id = an_agent(client)

    with pytest.raises(RuntimeError, match=r"Turn did not complete. Error: .*the model fell over"):
        agent.create_turn(user("fail"), session_id=session_id, stream=False)


def test_the_session_goes_on_after_a_failed_turn(client: LlamaStackClient) -> None:
    agent, session_id = an_agent(client)
    with pytest.raises(RuntimeError):
        agent.create_turn(user("fail"), session_id=session_id, stream=False)

    turn = agent.create_turn(user("be quick"), session_id=session_id, stream=False)

    assert turn.output_message.content == "Done."


def test_an_async_agent_runs_a_tool_and_streams(shared_stack: Stack) -> None:
    async def run() -> list[Any]:
        async with AsyncLlamaStackClient(base_url=shared_stack.url) as client:
            agent = AsyncAgent(client, model="scripted", instructions="Be brief.", tools=[add])
            session_id = await agent.create_session("a session")
            return [chunk async for chunk in await agent.create_turn(user("add"), session_id=session_id)]

    chunks = asyncio.run(run())

    turn = chunks[-1].event.payload.turn
    assert step_types(turn) == ["inference", "tool_execution", "inference"]


# What the model gets to read


def test_the_second_turn_of_a_session_sees_the_first(client: LlamaStackClient, upstream: FakeUpstream) -> None:
    agent, session_id = an_agent(client, model="m")
    agent.create_turn(user("My name is Ada."), session_id=session_id, stream=False)

    agent.create_turn(user("What is my name?"), session_id=session_id, stream=False)

    said = [(message["role"], message["content"]) for message in upstream.requests[-1].json["messages"]]
    assert said == [
        ("system", "Be brief."),
        ("user", "My name is Ada."),
        ("assistant", "Hello world"),
        ("user", "What is my name?"),
    ]


def test_a_tool_choice_holds_for_the_first_reply_of_a_turn(client: LlamaStackClient, upstream: FakeUpstream) -> None:
    agent, session_id = an_agent(client, add, model="m", tool_config={"tool_choice": "required"})

    agent.create_turn(user("Hello"), session_id=session_id, stream=False)

    asked = upstream.requests[-1].json
    assert asked["tool_choice"] == "required"
    assert [tool["function"]["name"] for tool in asked["tools"]] == ["add"]


# The low level calls


def test_a_turn_created_without_streaming_waits_for_its_tool_and_is_resumed(client: LlamaStackClient) -> None:
    at = low_level_session(client, client_tools=[ADD_TOOL])

    waiting = client.agents.turn.create(**at, messages=user("add"), stream=False)
    (call,) = waiting.output_message.tool_calls
    response = {"call_id": call.call_id, "tool_name": "add", "content": "42"}
    turn = client.agents.turn.resume(waiting.turn_id, **at, tool_responses=[response], stream=False)

    assert waiting.output_message.stop_reason == "end_of_message"
    assert waiting.completed_at is None
    assert call.arguments_json is not None
    assert turn.turn_id == waiting.turn_id
    assert turn.output_message.content == "The sum is 42."


def test_a_resumed_stream_begins_with_the_end_of_the_tool_step(client: LlamaStackClient) -> None:
    at = low_level_session(client, client_tools=[ADD_TOOL])
    first = list(client.agents.turn.create(**at, messages=user("add"), stream=True))
    waiting = first[-1].event.payload
    (call,) = waiting.turn.output_message.tool_calls
    response = {"call_id": call.call_id, "tool_name": "add", "content": "42"}

    stream = client.agents.turn.resume(waiting.turn.turn_id, **at, tool_responses=[response], stream=True)
    payloads = [chunk.event.payload for chunk in stream]

    assert waiting.event_type == "turn_awaiting_input"
    assert (payloads[0].event_type, payloads[0].step_type) == ("step_complete", "tool_execution")
    assert payloads[-1].event_type == "turn_complete"
    assert payloads[-1].turn.output_message.content == "The sum is 42."


def test_a_response_to_a_call_that_nobody_made_is_refused_by_name(client: LlamaStackClient) -> None:
    at = low_level_session(client, client_tools=[ADD_TOOL])
    waiting = client.agents.turn.create(**at, messages=user("add"), stream=False)
    stranger = {"call_id": "call_of_nobody", "tool_name": "add", "content": "42"}

    with pytest.raises(UnprocessableEntityError, match="call_of_nobody"):
        client.agents.turn.resume(waiting.turn_id, **at, tool_responses=[stranger], stream=False)


def test_a_failed_turn_is_read_back_with_its_error(client: LlamaStackClient) -> None:
    at = low_level_session(client)

    failed = client.agents.turn.create(**at, messages=user("fail"), stream=False)

    read = client.agents.turn.retrieve(failed.turn_id, **at)
    assert read == failed
    assert read.status == "failed"
    assert read.error["provider_id"] == "script"
    assert read.output_message.content == ""


def test_a_turn_and_its_steps_are_read_back_one_by_one(client: LlamaStackClient) -> None:
    at = low_level_session(client, client_tools=[ADD_TOOL])
    waiting = client.agents.turn.create(**at, messages=user("add"), stream=False)
    (call,) = waiting.output_message.tool_calls
    response = {"call_id": call.call_id, "tool_name": "add", "content": "42"}
    done = client.agents.turn.resume(waiting.turn_id, **at, tool_responses=[response], stream=False)

    turn = client.agents.turn.retrieve(done.turn_id, **at)
    steps = [client.agents.steps.retrieve(step.step_id, turn_id=turn.turn_id, **at).step for step in turn.steps]

    assert turn == done
    assert steps == turn.steps
    assert steps[2].api_model_response.content == "The sum is 42."


def test_a_session_is_read_back_whole_or_by_turn(client: LlamaStackClient) -> None:
    at = low_level_session(client)
    turns = [client.agents.turn.create(**at, messages=user(f"turn {n}"), stream=False) for n in range(3)]

    session = client.agents.session.retrieve(**at)
    chosen = client.agents.session.retrieve(**at, turn_ids=[turns[0].turn_id, turns[2].turn_id])

    assert session.session_name == "a session"
    assert session.turns == turns
    assert chosen.turns == [turns[0], turns[2]]


def test_a_deleted_session_is_gone_and_the_agent_has_others(client: LlamaStackClient) -> None:
    at = low_level_session(client)
    client.agents.turn.create(**at, messages=user("be quick"), stream=False)

    client.agents.session.delete(**at)

    with pytest.raises(NotFoundError):
        client.agents.session.retrieve(**at)
    with pytest.raises(NotFoundError):
        client.agents.turn.create(**at, messages=user("be quick"), stream=False)
    assert client.agents.session.create(agent_id=at["agent_id"], session_name="another").session_id


def test_a_deleted_agent_is_gone_with_its_sessions(client: LlamaStackClient) -> None:
    at = low_level_session(client)

    client.agents.delete(at["agent_id"])

    with pytest.raises(NotFoundError):
        client.agents.session.retrieve(**at)
    with pytest.raises(NotFoundError):
        client.agents.session.create(agent_id=at["agent_id"], session_name="another")


def test_a_model_that_nobody_serves_is_refused_with_those_that_are(client: LlamaStackClient) -> None:
    with pytest.raises(BadRequestError, match="scripted"):
        client.agents.create(agent_config={"model": "no-such-model", "instructions": ""})


# What the server says about itself


def test_models_and_providers_are_listed(client: LlamaStackClient) -> None:
    models = {model.identifier: model for model in client.models.list()}
    providers = {provider.provider_id: provider for provider in client.providers.list()}

    assert models["scripted"].provider_id == "script"
    assert models["m"].provider_id == "upstream"
    assert models["m"].api_model_type == "llm"
    assert client.models.retrieve("m") == models["m"]
    assert providers["upstream"].provider_type == "remote::openai"
    assert providers["script"].health["status"] == "OK"
    assert client.providers.retrieve("script") == providers["script"]


def test_health_version_and_routes_are_told(client: LlamaStackClient) -> None:
    assert client.inspect.health().status == "OK"
    assert client.inspect.version().version
    routes = {(route.method, route.route) for route in client.routes.list()}
    assert ("POST", "/v1/agents") in routes
