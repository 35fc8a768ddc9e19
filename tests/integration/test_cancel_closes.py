"""A cancel ends what the turn waits for: the servers of models and tools see their connections closed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_tools import HANG, FakeTools
from fake_upstream import FakeUpstream, call_piece, calls, text
from rooms import Rooms
from waiting import wait_for

Json = dict[str, Any]

pytestmark = pytest.mark.timeout(400)

DEADLINE_S = 120.0
LEASE_S = 1000
"""A renewal, by which a worker hears of a cancel too, is minutes away: what is seen here is the notice."""


@pytest.fixture
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream() as upstream:
        yield upstream


@pytest.fixture
def tools() -> Iterator[FakeTools]:
    with FakeTools() as tools:
        yield tools


@pytest.fixture
def http(tmp_path: Path, upstream: FakeUpstream, tools: FakeTools) -> Iterator[httpx.Client]:
    """A client of rooms that use these servers."""
    model = {"provider_id": "up", "provider_type": "remote::openai", "config": {"url": upstream.url}}
    look = {"name": "look", "description": "Looks.", "url": f"{tools.root}/look", "timeout_s": 600}
    web = {"provider_id": "web", "provider_type": "remote::http", "config": {"tools": [look]}}
    config = {"providers": {"inference": [model], "tool_runtime": [web]}, "turns": {"lease_s": LEASE_S}}
    with Rooms(tmp_path, config) as rooms:
        api, _ = rooms.api(), rooms.worker()
        rooms.until_healthy(seconds=DEADLINE_S)
        with httpx.Client(base_url=api.url, timeout=DEADLINE_S) as client:
            yield client


def submitted(http: httpx.Client, **config: Any) -> str:
    """The path of a new turn."""
    body = {"agent_config": {"model": "m", "instructions": "", **config}}
    sessions = f"/v1/agents/{http.post('/v1/agents', json=body).json()['agent_id']}/session"
    session = http.post(sessions, json={"session_name": "one"}).json()["session_id"]
    turns = f"{sessions}/{session}/turn"
    reply = http.post(turns, json={"messages": [{"role": "user", "content": "hello"}]})
    return f"{turns}/{reply.json()['turn_id']}"


def cancel(http: httpx.Client, turn: str) -> Json:
    """Cancel a turn; what it is when it has ended."""
    assert http.post(f"{turn}/cancel").status_code in (200, 202)
    wait_for(lambda: http.get(turn).json()["completed_at"] is not None, "the turn ends", seconds=DEADLINE_S)
    return dict(http.get(turn).json())


def test_in_the_middle_of_a_reply_the_model_s_connection_is_closed(http: httpx.Client, upstream: FakeUpstream) -> None:
    upstream.script(text("one ", "two ", "three", end="hang"))
    turn = submitted(http)
    wait_for(lambda: "two" in http.get(turn).json()["output_message"]["content"], "it talks", seconds=DEADLINE_S)
    before = upstream.hangups

    ended = cancel(http, turn)

    upstream.wait_for(lambda: upstream.hangups == before + 1, deadline_s=DEADLINE_S)
    assert ended["status"] == "canceled"
    assert ended["steps"][0]["completed_at"] is None


def test_while_a_model_is_silent_its_connection_is_closed(http: httpx.Client, upstream: FakeUpstream) -> None:
    upstream.script(text("never", hang_before_head=True))
    turn = submitted(http)
    asked = "/v1/chat/completions"
    upstream.wait_for(lambda: any(request.path == asked for request in upstream.requests), deadline_s=DEADLINE_S)
    before = upstream.hangups

    ended = cancel(http, turn)

    upstream.wait_for(lambda: upstream.hangups == before + 1, deadline_s=DEADLINE_S)
    assert ended["status"] == "canceled"


def test_while_a_tool_is_silent_its_connection_is_closed(
    http: httpx.Client, upstream: FakeUpstream, tools: FakeTools
) -> None:
    tools.replies["/look"] = HANG
    upstream.script(calls(call_piece(0, id="c1", name="look", arguments="{}")))
    turn = submitted(http, toolgroups=["web"])
    tools.wait_for(lambda: any(request.path == "/look" for request in tools.requests), deadline_s=DEADLINE_S)
    assert tools.hangups == 0

    ended = cancel(http, turn)

    tools.wait_for(lambda: tools.hangups == 1, deadline_s=DEADLINE_S)
    assert ended["status"] == "canceled"
    assert [step["step_type"] for step in ended["steps"]] == ["inference", "tool_execution"]
