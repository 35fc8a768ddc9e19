"""Shields and server tools as the official client sees them, on the real processes."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from fake_tools import FakeTools, answer
from llama_stack_client import Agent, AgentEventLogger, BadRequestError, LlamaStackClient
from mcp_server import McpServer
from stack import Stack, running, scripted

Json = dict[str, Any]

MESSAGE = "Let us talk of something else."
TOKEN = "mcp-secret-token"


def calls(*tools: tuple[str, Json]) -> list[Json]:
    return [{"tool_name": name, "arguments": arguments} for name, arguments in tools]


RULES: list[Json] = [
    {"match": "^seat$", "role": "user", "tool_calls": calls(("book", {"seat": "4a"}))},
    {"match": "^sum$", "role": "user", "tool_calls": calls(("add", {"a": 2, "b": 40}))},
    {
        "match": "^all$",
        "role": "user",
        "tool_calls": calls(("book", {"seat": "1b"}), ("where", {"who": "me"}), ("add", {"a": 1, "b": 1})),
    },
    {"match": "", "role": "tool", "text": "Done with tools."},
    {"match": "^say the word$", "text": "It is once in a bluemoon, they say."},
]


def where(who: str) -> str:
    """Say where somebody is.

    :param who: the person
    """
    return f"{who} is here"


@dataclass
class Guarded:
    """A stack with a denylist, an HTTP tool and an MCP server."""

    stack: Stack
    client: LlamaStackClient
    web: FakeTools
    mcp: McpServer

    def agent(self, **config: Any) -> tuple[Agent, str]:
        agent = Agent(self.client, model="scripted", instructions="Be brief.", **config)
        return agent, agent.create_session("a session")

    def say(self, text: str, **config: Any) -> Any:
        agent, session = self.agent(**config)
        return agent.create_turn([{"role": "user", "content": text}], session_id=session, stream=False)

    def dump(self) -> bytes:
        """Everything that the store holds, as bytes; not the registry, in which the scripted model's rules stand."""
        parts = []
        with self.stack.store() as store:
            for key in store.scan_iter(count=1000):
                if b":registry:" in key:
                    continue
                kind = store.type(key)
                if kind == b"none":
                    continue  # a lock that has run out since
                read = {
                    b"string": store.get,
                    b"hash": store.hgetall,
                    b"stream": store.xrange,
                    b"list": lambda name: store.lrange(name, 0, -1),
                    b"zset": lambda name: store.zrange(name, 0, -1),
                    b"set": store.smembers,
                }[kind]
                parts.append(repr((key, read(key))))
        return "\n".join(parts).encode()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with FakeTools() as web, McpServer(token=TOKEN) as mcp:
        web.replies["/book"] = answer({"booked": True})
        book = {
            "name": "book",
            "description": "Book a seat.",
            "url": f"{web.root}/book",
            "parameters": {"type": "object", "properties": {"seat": {"type": "string"}}, "required": ["seat"]},
        }
        shield = {"shield_id": "words", "patterns": ["bluemoon"], "message": MESSAGE}
        config = scripted(*RULES)
        config["providers"] |= {
            "safety": [{"provider_id": "deny", "provider_type": "inline::denylist", "config": {"shields": [shield]}}],
            "tool_runtime": [
                {"provider_id": "web", "provider_type": "remote::http", "config": {"tools": [book]}},
                {
                    "provider_id": "mcp",
                    "provider_type": "remote::mcp",
                    "config": {"uri": mcp.uri, "headers": {"authorization": f"Bearer {TOKEN}"}},
                },
            ],
        }
        with (
            running(tmp_path_factory.mktemp("guarded"), config) as stack,
            LlamaStackClient(base_url=stack.url) as client,
        ):
            yield Guarded(stack, client, web, mcp)


def test_shields_that_pass_are_steps_and_are_logged(guarded: Guarded) -> None:
    agent, session = guarded.agent(input_shields=["words"], output_shields=["words"])
    stream = agent.create_turn([{"role": "user", "content": "hello"}], session_id=session)

    chunks, printed = itertools.tee(stream)
    lines = [str(event) for event in AgentEventLogger().log(printed)]
    last = list(chunks)[-1]
    assert last.event is not None, last
    turn = last.event.payload.turn

    assert [step.step_type for step in turn.steps] == ["shield_call", "inference", "shield_call"]
    assert turn.output_message.content == "hello"
    assert sum("No Violation" in line for line in lines) == 2


def test_an_input_shield_stops_the_turn_with_its_message(guarded: Guarded) -> None:
    turn = guarded.say("what is a bluemoon?", input_shields=["words"])
    assert [step.step_type for step in turn.steps] == ["shield_call"]
    assert turn.steps[0].violation.user_message == MESSAGE
    assert turn.output_message.content == MESSAGE


def test_nothing_of_a_held_violation_is_readable_anywhere_not_even_in_a_dump_of_the_store(guarded: Guarded) -> None:
    agent, session = guarded.agent(output_shields=["words"])
    chunks = list(agent.create_turn([{"role": "user", "content": "say the word"}], session_id=session))
    turn = chunks[-1].event.payload.turn

    assert turn.output_message.content == MESSAGE
    assert "bluemoon" not in repr(chunks)
    with guarded.stack.http() as http:
        path = f"/agents/{agent.agent_id}/session/{session}"
        read = [http.get(f"{path}/turn/{turn.turn_id}"), http.get(path), http.get(f"{path}/turn/{turn.turn_id}/events")]
    assert all("they say" not in answer.text for answer in read)
    assert b"they say" not in guarded.dump()


def test_a_streamed_violation_is_retracted(guarded: Guarded) -> None:
    with guarded.stack.http() as http:
        config = {"model": "scripted", "output_shields": ["words"], "shield_mode": "stream"}
        agent = http.post("/agents", json={"agent_config": config}).json()["agent_id"]
        session = http.post(f"/agents/{agent}/session", json={"session_name": "s"}).json()["session_id"]
        body = {"messages": [{"role": "user", "content": "say the word"}], "stream": False}
        turn = http.post(f"/agents/{agent}/session/{session}/turn", json=body).json()
        events = http.get(f"/agents/{agent}/session/{session}/turn/{turn['turn_id']}/events").text
    assert "event: output_retracted" in events
    assert turn["output_message"]["content"] == MESSAGE
    assert "they say" not in json.dumps(turn)


def test_a_tool_behind_http_runs_in_the_turn(guarded: Guarded) -> None:
    before = len(guarded.web.requests)
    turn = guarded.say("seat", tools=["web"])
    assert [step.step_type for step in turn.steps] == ["inference", "tool_execution", "inference"]
    assert turn.output_message.content == "Done with tools."
    (request,) = guarded.web.requests[before:]
    step = turn.steps[1]
    assert request.json == {"seat": "4a"}
    assert request.headers["idempotency-key"] == f"{turn.turn_id}:{step.step_id}:{step.tool_calls[0].call_id}"
    assert json.loads(str(step.tool_responses[0].content)) == {"booked": True}


def test_a_tool_of_an_mcp_server_runs_in_the_turn(guarded: Guarded) -> None:
    turn = guarded.say("sum", tools=["mcp"])
    assert "42" in str(turn.steps[1].tool_responses[0].content)
    assert guarded.mcp.seen("call")[-1] == "add"


def test_tools_of_client_and_server_mix_in_one_reply(guarded: Guarded) -> None:
    before = len(guarded.web.requests)
    turn = guarded.say("all", tools=["web", "mcp", where])
    (step,) = [step for step in turn.steps if step.step_type == "tool_execution"]
    contents = [str(response.content) for response in step.tool_responses]
    assert json.loads(contents[0]) == {"booked": True}
    assert "me is here" in contents[1]
    assert "2" in contents[2]
    assert len(guarded.web.requests) - before == 1, "the server's tool ran once, and not in the client too"


def test_an_unknown_tool_group_or_shield_is_refused_with_the_known_ones(guarded: Guarded) -> None:
    with pytest.raises(BadRequestError) as group:
        guarded.agent(tools=["nothing"])
    assert "mcp" in str(group.value) and "web" in str(group.value)
    with pytest.raises(BadRequestError) as shield:
        guarded.agent(output_shields=["nothing"])
    assert "words" in str(shield.value)


def test_no_credential_of_a_tool_is_shown(guarded: Guarded) -> None:
    with guarded.stack.http() as http:
        shown = "".join(http.get(path).text for path in ("/providers", "/toolgroups", "/tools"))
    assert TOKEN not in shown
    assert TOKEN.encode() not in guarded.dump()
    assert TOKEN not in guarded.stack.process.output
