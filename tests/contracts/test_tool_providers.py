"""What the turn loop may rely on from every tool provider."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from fake_tools import CUT, HANG, FakeTools, answer
from fake_upstream import Reply, Request
from mcp_server import McpServer

from shared.errors import ProviderError
from shared.runconfig import ProviderInstance, Providers, RunConfig
from worker.providers.instances import build_tools
from worker.providers.tools import Json, Replay, Tool, ToolGroup, ToolProvider
from worker.providers.tools_faults import NOT_EXECUTED
from worker.providers.tools_schema import invalid_arguments

SECRET = "tok-contract-secret"
KEY = "turn_1:step_2:call_3"
TEXT = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
SIZE = {"type": "object", "properties": {"size": {"type": "integer"}}, "required": ["size"]}
NUMBERS = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    "required": ["a", "b"],
}


@dataclass(kw_only=True)
class Rig:
    """A provider, and what a test may do with and ask of the server behind it."""

    provider: ToolProvider
    stop: Callable[[], None]
    start: Callable[[], None]
    keys: Callable[[], list[str]]

    def tool(self, name: str, group: str = "it") -> Tool:
        return next(tool for tool in self.provider.list_tools(group) if tool.name == name)

    def call(self, name: str, group: str = "it", **arguments: Any) -> tuple[str, bool]:
        """The text of a result, and whether it is an error."""
        result = self.provider.invoke(self.tool(name, group), arguments, idempotency_key=KEY)
        return text_of(result.content), result.error

    def fault(self, tool: Tool, **arguments: Any) -> ProviderError:
        with pytest.raises(ProviderError) as caught:
            self.provider.invoke(tool, arguments, idempotency_key=KEY)
        error = caught.value
        assert SECRET not in f"{error!r} {error.as_json()} {error.__cause__!r}"
        assert error.provider_id == "it"
        assert "'it'" in error.message
        return error


def text_of(content: str | list[Json]) -> str:
    return content if isinstance(content, str) else "".join(item.get("text", "[image]") for item in content)


def built(provider_type: str, config: Json) -> ToolProvider:
    instance = ProviderInstance(provider_id="it", provider_type=provider_type, config=config)
    return build_tools(RunConfig(providers=Providers(tool_runtime=(instance,))))["it"]


REPLIES: dict[str, Reply | Callable[[Request], Reply]] = {
    "/add": lambda request: answer(str(request.json["a"] + request.json["b"]), content_type="text/plain"),
    "/echo": lambda request: answer(request.json),
    "/fail": lambda request: answer({"detail": f"{request.json['text']} {SECRET}"}, status=422),
    "/big": lambda request: answer("é" * (request.json["size"] // 2), content_type="text/plain; charset=utf-8"),
    "/hang": HANG,
    "/die": CUT,
}
SCHEMAS = {"add": NUMBERS, "echo": TEXT, "fail": TEXT, "big": SIZE, "hang": {}, "die": {}}


def http_rig() -> Iterator[Rig]:
    servers = [FakeTools().__enter__()]
    servers[0].replies = REPLIES
    port = servers[0].port

    def start() -> None:
        servers.append(FakeTools(port=port).__enter__())
        servers[-1].replies = REPLIES

    def stop() -> None:
        servers[-1].__exit__(None, None, None)

    def tool(name: str) -> Json:
        replay = {"replay": "safe"} if name == "add" else {}
        url = f"http://127.0.0.1:{port}/{name}"
        headers = {"Authorization": f"Bearer {SECRET}"}
        return {"name": name, "url": url, "parameters": SCHEMAS[name], "headers": headers, "timeout_s": 3, **replay}

    provider = built("remote::http", {"tools": [tool(name) for name in SCHEMAS], "max_result_kb": 8})
    yield Rig(
        provider=provider,
        stop=stop,
        start=start,
        keys=lambda: [request.headers["idempotency-key"] for one in servers for request in one.requests],
    )
    provider.close()
    stop()


def mcp_rig(*, legacy: bool) -> Iterator[Rig]:
    with McpServer(token=SECRET, legacy=legacy) as server:
        headers = {"Authorization": f"Bearer {SECRET}"}
        config = {"uri": server.uri, "headers": headers, "timeout_s": 3, "max_result_kb": 8}
        provider = built("remote::mcp", config)
        yield Rig(provider=provider, stop=server.stop, start=server.start, keys=lambda: server.seen("key"))
        provider.close()


KINDS = ["remote::http", "remote::mcp", "remote::mcp (sessions)"]


def rig_of(kind: str) -> Iterator[Rig]:
    return http_rig() if kind == "remote::http" else mcp_rig(legacy="sessions" in kind)


@pytest.fixture(params=KINDS, scope="module")
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """A provider with the tools add, echo, fail, big, hang and die. For tests that leave its server alone."""
    yield from rig_of(request.param)


@pytest.fixture(params=KINDS)
def mortal(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """The same, for one test that does not leave its server alone."""
    yield from rig_of(request.param)


def test_it_says_what_it_is_and_which_group_it_serves(rig: Rig) -> None:
    assert rig.provider.provider_id == "it"
    assert rig.provider.provider_type in ("remote::http", "remote::mcp")
    assert [group.identifier for group in rig.provider.list_toolgroups()] == ["it"]


def test_tools_are_listed_with_schema_and_replay(rig: Rig) -> None:
    add = rig.tool("add")
    assert (add.toolgroup_id, add.replay, rig.tool("echo").replay) == ("it", Replay.SAFE, Replay.NEVER)
    assert add.input_schema["type"] == "object"
    assert set(add.input_schema["properties"]) == {"a", "b"}
    assert {tool.name for tool in rig.provider.list_tools("it")} >= set(SCHEMAS)


def test_arguments_are_held_against_the_schema_that_is_listed(rig: Rig) -> None:
    add = rig.tool("add")
    assert invalid_arguments(add, {"a": 1, "b": 2}) is None
    problem = invalid_arguments(add, {"a": "one"})
    assert problem is not None
    assert "a: " in problem
    assert "b" in problem


def test_a_call_gives_the_tools_text(rig: Rig) -> None:
    assert rig.call("add", a=1, b=2) == ("3", False)


def test_a_call_carries_its_idempotency_key(rig: Rig) -> None:
    rig.call("add", a=1, b=2)
    assert rig.keys()[-1] == KEY


def test_what_the_tool_refuses_is_a_result_for_the_model_without_our_secrets(rig: Rig) -> None:
    text, error = rig.call("fail", text="no such city")
    assert error
    assert "no such city" in text
    assert SECRET not in text


def test_a_tool_that_repeats_our_credentials_does_not_publish_them(rig: Rig) -> None:
    text, error = rig.call("echo", text=f"you sent {SECRET}")
    assert not error
    assert "you sent ***" in text


def test_a_long_result_is_cut_with_a_mark(rig: Rig) -> None:
    text, _ = rig.call("big", size=20_000)
    kept, mark, rest = text.partition("\n[cut: the tool's result is longer than 8 KB]")
    assert kept == "é" * 4096
    assert mark
    assert rest == ""


def test_a_result_that_just_fits_is_whole(rig: Rig) -> None:
    assert rig.call("big", size=8192) == ("é" * 4096, False)


def test_a_call_without_result_in_time_has_an_unknown_outcome(rig: Rig) -> None:
    error = rig.fault(rig.tool("hang"))
    assert (error.code, error.retryable) == ("tool_timeout", True)
    assert error.code not in NOT_EXECUTED
    assert "within 3 s (`timeout_s`)" in error.message
    assert rig.call("add", a=1, b=2) == ("3", False)


def test_an_unknown_group_or_tool_is_named_with_what_there_is(rig: Rig) -> None:
    with pytest.raises(ProviderError, match=r"has no tool group 'x'. It has: it\.") as caught:
        rig.provider.list_tools("x")
    assert caught.value.code == "toolgroup_not_found"
    error = rig.fault(Tool(name="add", toolgroup_id="x"))
    assert error.code in NOT_EXECUTED


def test_a_group_of_another_name_gives_its_arguments_to_every_call_and_hides_them(rig: Rig) -> None:
    group = ToolGroup(identifier="mine", args={"b": 40})
    for _ in range(2):
        assert rig.provider.register_toolgroup(group) == group
    assert [one.identifier for one in rig.provider.list_toolgroups()] == ["it", "mine"]

    add = rig.tool("add", "mine")
    assert (add.toolgroup_id, set(add.input_schema["properties"])) == ("mine", {"a"})
    assert invalid_arguments(add, {"a": 2}) is None
    assert rig.call("add", "mine", a=2) == ("42", False)

    rig.provider.unregister_toolgroup("mine")
    rig.provider.unregister_toolgroup("mine")
    assert [one.identifier for one in rig.provider.list_toolgroups()] == ["it"]


def test_a_server_that_is_not_there_has_certainly_not_run_the_call(mortal: Rig) -> None:
    add = mortal.tool("add")
    mortal.stop()
    error = mortal.fault(add, a=1, b=2)
    assert (error.code, error.retryable) == ("tool_unreachable", True)
    assert error.code in NOT_EXECUTED
    assert "connection refused. Is the server running at 127.0.0.1:" in error.message
    assert error.message.endswith("The call was not made.")

    mortal.start()
    assert mortal.call("add", a=1, b=2) == ("3", False)
    assert mortal.keys() == [KEY]


def test_a_server_that_goes_away_during_a_call_leaves_its_outcome_unknown(mortal: Rig) -> None:
    error = mortal.fault(mortal.tool("die"))
    assert (error.code, error.retryable) == ("tool_interrupted", True)
    assert error.code not in NOT_EXECUTED
