"""Registrations and calls on running stacks: kept over restarts, known to every worker, answered while turns wait."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_upstream import FakeUpstream, text
from mcp_server import McpServer
from stack import DEADLINE_S, Json, Stack, answered, running, scripted, user_turn
from waiting import wait_for

WORDS = {"shield_id": "words", "patterns": ["bad word"], "message": "Mind your language."}
KEYS = ("key-of-the-first", "key-of-the-second")
HI: list[Json] = [{"role": "user", "content": "Hi"}]


@pytest.fixture
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream(models=["m", "other"]) as server:
        yield server


def config_with(upstream: FakeUpstream, *rules: Json, **more: Any) -> Json:
    config = scripted(*rules, **more)
    config["providers"]["inference"].append(
        {"provider_id": "up", "provider_type": "remote::openai", "config": {"url": upstream.url, "max_retries": 0}}
    )
    config["providers"]["safety"] = [
        {"provider_id": "deny", "provider_type": "inline::denylist", "config": {"shields": [WORDS]}}
    ]
    config["providers"]["tool_runtime"] = [{"provider_id": "mcp", "provider_type": "remote::mcp", "config": {}}]
    return config


def post(stack: Stack, path: str, **body: Any) -> Json:
    with stack.http() as http:
        return answered(http.post(path, json=body))


def run(stack: Stack, text: str, **config: Any) -> Json:
    """A turn from its submit to its end."""
    session = stack.new_session(**config)
    return stack.finished(session, stack.submit(session, text))


def test_what_was_registered_outlives_a_restart_and_a_new_config(tmp_path: Path, upstream: FakeUpstream) -> None:
    config = config_with(upstream)
    with running(tmp_path, config) as stack:
        post(stack, "/models", model_id="mine", provider_id="up", provider_model_id="other")
        post(stack, "/shields", shield_id="strict", provider_shield_id="words")

    with running(tmp_path, {**config, "limits": {"messages": 10}}) as stack:
        turn = run(stack, "hi", model="mine", input_shields=["strict"])
        refused = run(stack, "a bad word", model="mine", input_shields=["strict"])
        with stack.http() as http:
            assert http.delete("/models/mine").status_code == 204

    assert turn["output_message"]["content"] == "Hello world"
    assert refused["output_message"]["content"] == "Mind your language."
    assert upstream.requests[-1].json["model"] == "other"
    with running(tmp_path, config) as stack, stack.http() as http:
        assert http.get("/models/mine").status_code == 404
        assert http.get("/shields/strict").status_code == 200


def test_every_worker_can_use_a_registration_as_soon_as_it_is_answered(
    tmp_path: Path, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TURNSTONE_WORKERS", "2")
    monkeypatch.setenv("TURNSTONE_API_PROCESSES", "2")
    with running(tmp_path, config_with(upstream)) as stack:
        for number in range(5):
            name = f"mine-{number}"
            post(stack, "/models", model_id=name, provider_id="up", provider_model_id="m")
            sessions = [stack.new_session(model=name) for _ in range(4)]
            turns = [(session, stack.submit(session, "hi")) for session in sessions]
            assert [stack.finished(*turn)["status"] for turn in turns] == ["completed"] * 4


def test_a_worker_that_was_not_there_knows_a_registered_tool_group_and_its_server(
    tmp_path: Path, upstream: FakeUpstream
) -> None:
    rules = [
        {"match": "^add$", "role": "user", "tool_calls": [{"tool_name": "add", "arguments": {"a": 2, "b": 40}}]},
        {"match": "^42$", "role": "tool", "text": "The sum is 42."},
    ]
    with McpServer() as mcp, running(tmp_path, config_with(upstream, *rules)) as stack:
        post(stack, "/toolgroups", toolgroup_id="notes", provider_id="mcp", mcp_endpoint={"uri": mcp.uri})
        session = stack.new_session(toolgroups=["notes"])
        stack.process.worker().kill()

        turn = stack.finished(session, stack.submit(session, "add"))

    assert turn["output_message"]["content"] == "The sum is 42."
    assert [step["step_type"] for step in turn["steps"]] == ["inference", "tool_execution", "inference"]


def test_calls_are_answered_while_all_places_for_turns_are_taken(
    tmp_path: Path, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TURNSTONE_CONCURRENCY", "1")
    upstream.default = lambda request: (
        text("Hello", end="hang") if "wait" in request.json["messages"][-1]["content"] else text("Hello")
    )
    with running(tmp_path, config_with(upstream)) as stack:
        session = stack.new_session(model="m")
        held = stack.submit(session, "wait")
        stack.wait_for_events(held, 4)

        verdict = post(stack, "/safety/run-shield", shield_id="words", messages=HI, params={})
        reply = post(stack, "/inference/chat-completion", model_id="m", messages=HI)
        post(stack, "/models", model_id="mine", provider_id="up", provider_model_id="m")

        assert verdict == {"violation": None}
        assert reply["completion_message"]["content"] == "Hello"
        assert stack.turn(session, held)["status"] == "in_progress"


def test_a_calls_worker_that_is_killed_at_its_work_is_said_and_replaced(tmp_path: Path, upstream: FakeUpstream) -> None:
    upstream.script(text("Hello", end="hang"))
    with running(tmp_path, config_with(upstream)) as stack:
        replies: list[httpx.Response] = []

        def ask() -> None:
            with stack.http() as http:
                replies.append(http.post("/inference/chat-completion", json={"model_id": "m", "messages": HI}))

        asking = threading.Thread(target=ask)
        asking.start()
        upstream.wait_for(lambda: any(request.path.endswith("/chat/completions") for request in upstream.requests))
        stack.process.worker("calls").kill()
        asking.join(DEADLINE_S)

        assert [reply.status_code for reply in replies] == [503]
        assert replies[0].json()["error"]["code"] == "calls_worker_lost"
        assert int(replies[0].headers["Retry-After"]) > 0
        again: list[int] = []

        def answers() -> bool:
            with stack.http() as http:
                again.append(
                    http.post("/inference/chat-completion", json={"model_id": "m", "messages": HI}).status_code
                )
            return again[-1] == 200

        wait_for(answers, "the next calls worker answers", seconds=DEADLINE_S)


def test_with_keys_the_official_ways_in_are_closed_but_for_health(tmp_path: Path, upstream: FakeUpstream) -> None:
    with running(tmp_path, config_with(upstream, api_keys=[KEYS[0], {"key": KEYS[1], "tenant": "two"}])) as stack:
        with stack.http() as http:
            assert http.get("/models").status_code == 401
            http.headers["Authorization"] = f"Bearer {KEYS[0]}"
            agent = answered(http.post("/agents", json={"agent_config": {"model": "scripted"}}))["agent_id"]
            session = answered(http.post(f"/agents/{agent}/session", json={"session_name": "s"}))["session_id"]
            path = f"/agents/{agent}/session/{session}/turn"
            turn = answered(http.post(path, json={**user_turn("hi"), "stream": False}))
            assert turn["output_message"]["content"] == "hi"
            http.headers["Authorization"] = f"Bearer {KEYS[1]}"
            assert http.get(f"{path}/{turn['turn_id']}").status_code == 404
            # The turns of another tenant run as well.
            agent = answered(http.post("/agents", json={"agent_config": {"model": "m"}}))["agent_id"]
            session = answered(http.post(f"/agents/{agent}/session", json={"session_name": "s"}))["session_id"]
            path = f"/agents/{agent}/session/{session}/turn"
            turn = answered(http.post(path, json={**user_turn("hi"), "stream": False}))
            assert turn["output_message"]["content"] == "Hello world"
        stack.process.wait_for_line('-H "Authorization: Bearer $TURNSTONE_API_KEY"')
        assert '"model": "scripted"' in stack.process.output
        assert not any(key in stack.process.output for key in KEYS)
