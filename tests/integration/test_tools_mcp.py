"""`remote::mcp` against real servers: sessions, cancelling, and the child process behind it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import pytest
from fake_tools import FakeTools, answer
from fake_upstream import Reply, Request, Stream
from mcp_server import McpServer
from waiting import wait_for

from shared.errors import ProviderError
from worker.providers.tools import Json, Tool, ToolGroup, ToolResult
from worker.providers.tools_faults import NOT_EXECUTED
from worker.providers.tools_mcp import McpTools
from worker.providers.tools_mcp_bridge import McpBridge
from worker.providers.tools_mcp_config import McpConfig

KEY = "turn_1:step_2:call_3"
SECRET = "tok-mcp-secret"

# Fifty calls that end only once all fifty are there, while other greenlets go on.
UNDER_GEVENT = """
from gevent import monkey
monkey.patch_all()
import sys
import gevent
from shared.runconfig import ProviderInstance, Providers, RunConfig
from worker.providers.instances import build_tools

instance = ProviderInstance(provider_id="it", provider_type="remote::mcp", config={"uri": sys.argv[1]})
provider = build_tools(RunConfig(providers=Providers(tool_runtime=(instance,))))["it"]
tools = {tool.name: tool for tool in provider.list_tools("it")}

ticks = 0
def tick():
    global ticks
    while True:
        ticks += 1
        gevent.sleep(0.001)
ticker = gevent.spawn(tick)

def call(name, **arguments):
    return provider.invoke(tools[name], arguments, idempotency_key="k").content[0]["text"]

hanging = gevent.spawn(call, "hang")
meeting = [gevent.spawn(call, "meet", people=50, me=number) for number in range(50)]
gevent.joinall(meeting, timeout=25, raise_error=True)
assert [one.value for one in meeting] == [str(number) for number in range(50)], [one.value for one in meeting]
assert ticks > 50, ticks
assert not hanging.ready()

# A turn that is killed in the middle of its call goes at once, and its server is told.
hanging.kill(timeout=5)
assert hanging.ready()
assert call("add", a=1, b=2) == "3"
print("fine", flush=True)
sys.stdin.readline()
provider.close()
"""


@pytest.mark.parametrize("legacy", [False, True])
def test_under_gevent_calls_run_side_by_side_and_are_cancelled_alone(legacy: bool) -> None:
    with McpServer(legacy=legacy) as server:
        command = [sys.executable, "-c", UNDER_GEVENT, server.uri]
        process = subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, text=True)
        with process:
            assert process.stdout is not None
            said = process.stdout.readline()
            if said == "fine\n":
                wait_for(lambda: server.seen("cancelled") == ["hang"], "the server hears of the cancelled call")
            _, errors = process.communicate("\n", timeout=30)
        assert said == "fine\n", errors
        assert process.returncode == 0


@contextmanager
def provider(uri: str | None = None, *, bridge: McpBridge | None = None, **config: Any) -> Iterator[McpTools]:
    options = {"timeout_s": 10, **config, **({"uri": uri} if uri else {})}
    one = McpTools(provider_id="it", config=McpConfig.model_validate(options), bridge=bridge)
    try:
        yield one
    finally:
        one.close()


def call(one: McpTools, name: str, **arguments: Any) -> ToolResult:
    return one.invoke(Tool(name=name, toolgroup_id="it"), arguments, idempotency_key=KEY)


def fault(one: McpTools, name: str = "add") -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        call(one, name, a=1, b=2)
    assert SECRET not in f"{caught.value!r} {caught.value.as_json()} {caught.value.__cause__!r}"
    return caught.value


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_many_calls_share_one_session() -> None:
    with McpServer(legacy=True) as server, provider(server.uri) as one:
        for number in range(5):
            call(one, "add", a=number, b=1)
        assert len({session for session in server.seen("session") if session}) == 1


def test_a_session_that_the_server_forgot_is_made_anew_and_the_call_made_once() -> None:
    with McpServer(legacy=True) as server, provider(server.uri) as one:
        assert call(one, "add", a=1, b=1).content == [{"type": "text", "text": "2"}]
        server.stop()
        server.start()
        assert call(one, "echo", text="again").content == [{"type": "text", "text": "again"}]
        assert server.seen("call") == ["add", "echo"]


def test_images_become_content_items() -> None:
    with McpServer() as server, provider(server.uri) as one:
        text, image = call(one, "picture").content
        assert text == {"type": "text", "text": "one pixel"}
        assert image["type"] == "image"
        assert image["image"]["url"]["uri"].startswith("data:image/png;base64,iVBORw0KGgo")


def test_sounds_and_embedded_files_become_files() -> None:
    with McpServer() as server, provider(server.uri) as one:
        result = call(one, "sound")
        assert result.content == ""
        sound, report = result.files
        assert (sound.data, sound.mime_type, sound.filename) == (b"RIFF wave", "audio/wav", "")
        assert (report.data, report.mime_type, report.filename) == (b"RIFF wave", "application/pdf", "report.pdf")


def test_a_result_beyond_all_bounds_is_not_read_and_the_model_is_told() -> None:
    with McpServer() as server, provider(server.uri, max_result_kb=1) as one:
        result = call(one, "big", size=5_000_000)
        assert result.error
        assert "too large" in result.content
        assert call(one, "add", a=1, b=2).content == [{"type": "text", "text": "3"}]


def test_wrong_credentials_are_named_as_such_and_nothing_was_called() -> None:
    with McpServer(token="right") as server:
        with provider(server.uri, headers={"Authorization": f"Bearer {SECRET}"}) as one:
            error = fault(one)
        assert (error.code, error.status, error.retryable) == ("tool_auth", 401, False)
        assert "does not accept the credentials (401): check its `headers`." in error.message
        assert error.message.endswith("The call was not made.")
        assert server.seen("call") == []


def test_a_child_that_dies_fails_its_calls_and_another_is_started() -> None:
    bridge = McpBridge()
    with McpServer() as server, provider(server.uri, bridge=bridge) as one:
        waiting = gevent.spawn(fault, one, "hang")
        gevent.sleep(0)
        wait_in_gevent(lambda: server.seen("call") == ["hang"])
        first = bridge.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        assert waiting.get(timeout=10).code == "tool_interrupted"
        assert call(one, "add", a=1, b=2).content == [{"type": "text", "text": "3"}]
        assert bridge.pid not in (None, first)


def test_a_child_that_is_wedged_is_replaced() -> None:
    bridge = McpBridge(grace_s=0.2)
    with McpServer() as server, provider(server.uri, bridge=bridge, timeout_s=3) as one:
        call(one, "add", a=1, b=2)
        wedged = bridge.pid
        assert wedged is not None
        os.kill(wedged, signal.SIGSTOP)
        assert fault(one).code == "tool_timeout"
        bridge._grace_s = 15
        assert call(one, "add", a=1, b=2).content == [{"type": "text", "text": "3"}]
        wait_in_gevent(lambda: not is_alive(wedged))


def test_instances_share_a_child_that_ends_with_the_last_of_them() -> None:
    bridge = McpBridge()
    with McpServer() as server:
        with provider(server.uri, bridge=bridge) as one:
            with provider(server.uri, bridge=bridge) as other:
                call(one, "add", a=1, b=2)
                pid = bridge.pid
                call(other, "add", a=1, b=2)
                assert bridge.pid == pid
            assert call(one, "add", a=1, b=2).error is False
            assert pid is not None
        wait_for(lambda: not is_alive(pid), "the child ends")


def test_no_child_is_started_before_it_is_needed() -> None:
    bridge = McpBridge()
    with provider("http://127.0.0.1:1/mcp", bridge=bridge) as one:
        assert [group.identifier for group in one.list_toolgroups()] == ["it"]
        assert bridge.pid is None


def test_a_child_ends_with_a_worker_that_is_killed() -> None:
    code = UNDER_GEVENT.partition("ticks = 0")[0] + ("print(provider._bridge.pid, flush=True)\nsys.stdin.readline()\n")
    with McpServer(legacy=True) as server:
        command = [sys.executable, "-c", code, server.uri]
        with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as process:
            assert process.stdout is not None
            pid = int(process.stdout.readline())
            assert is_alive(pid)
            process.kill()
        wait_for(lambda: not is_alive(pid), "the child ends")


def test_groups_of_other_servers_are_registered_and_do_not_get_our_credentials() -> None:
    ours = {"headers": {"Authorization": f"Bearer {SECRET}"}}
    with McpServer(token=SECRET) as own, McpServer() as other, provider(own.uri, **ours) as one:
        group = ToolGroup(identifier="theirs", mcp_endpoint={"uri": other.uri, "headers": {"x-key": "abcdefgh"}})
        assert one.register_toolgroup(group) == group
        assert {tool.toolgroup_id for tool in one.list_tools("theirs")} == {"theirs"}
        call(one, "add", a=1, b=2)
        one.invoke(Tool(name="add", toolgroup_id="theirs"), {"a": 1, "b": 2}, idempotency_key=KEY)
        assert own.seen("authorization") == [f"Bearer {SECRET}"]
        assert other.seen("authorization") == [None]

        one.unregister_toolgroup("theirs")
        assert [each.identifier for each in one.list_toolgroups()] == ["it"]


def test_an_instance_without_a_server_serves_registered_groups_only() -> None:
    with McpServer() as server, provider() as one:
        assert one.list_toolgroups() == []
        with pytest.raises(ProviderError, match=r"has no server of its own: give `mcp_endpoint: \{uri\}`"):
            one.register_toolgroup(ToolGroup(identifier="x"))
        one.register_toolgroup(ToolGroup(identifier="it", mcp_endpoint={"uri": server.uri}))
        assert call(one, "add", a=1, b=2).content == [{"type": "text", "text": "3"}]


def test_a_server_that_does_not_answer_refuses_the_group_with_its_reason() -> None:
    with provider() as one:
        with pytest.raises(ProviderError, match="connection refused") as caught:
            one.register_toolgroup(ToolGroup(identifier="x", mcp_endpoint={"uri": "http://127.0.0.1:1/mcp"}))
        assert caught.value.retryable
        with pytest.raises(ProviderError, match=r"cannot use `mcp_endpoint`: uri has to be a URL") as caught:
            one.register_toolgroup(ToolGroup(identifier="x", mcp_endpoint={"uri": "there"}))
        assert not caught.value.retryable
        assert one.list_toolgroups() == []


def wait_in_gevent(condition: Any) -> None:
    with gevent.Timeout(20):
        while not condition():
            gevent.sleep(0.02)


# Servers that do not behave, spoken to by the real SDK.


class FaultyMcp(FakeTools):
    """Agrees to sessions as an old server does; what its tools do is a test's to say."""

    def __init__(self) -> None:
        super().__init__()
        self.replies["/mcp"] = self._reply
        self.tools: dict[str, Reply | Callable[[Request], Reply]] = {}

    @property
    def uri(self) -> str:
        return f"{self.root}/mcp"

    def _reply(self, request: Request) -> Reply:
        if request.method != "POST":
            return answer({}, status=405)
        message = request.json
        match message["method"]:
            case "initialize":
                server = {"name": "faulty", "version": "1"}
                version = message["params"]["protocolVersion"]
                result: Json = {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": server}
                return rpc(message, result, mcp_session_id="s1")
            case "tools/list":
                return rpc(message, {"tools": []})
            case "tools/call":
                reply = self.tools.get(message["params"]["name"]) or rpc(message, {"content": []})
                return reply(request) if callable(reply) else reply
            case "server/discover":
                return answer({"detail": "Not Found"}, status=404)
        return answer("", status=202)


def rpc(message: Json, result: Json, **headers: str) -> Reply:
    return answer({"jsonrpc": "2.0", "id": message["id"], "result": result}, **headers)


@pytest.fixture
def faulty() -> Iterator[FaultyMcp]:
    with FaultyMcp() as server:
        yield server


HTML = answer("<html><body><h1>It works</h1></body></html>", content_type="text/html")
FAULTS: list[tuple[Reply, str, bool, str]] = [
    (answer({"error": f"no {SECRET}"}, status=401), "tool_auth", False, "does not accept the credentials (401)"),
    (answer({}, status=403), "tool_auth", False, "(403): check its `headers`"),
    (answer("slow down", status=429, retry_after="7"), "tool_rate_limited", True, "limits its rate (429)"),
    (answer("no luck", status=500), "tool_failed", True, "failed (500): look into the log of the server at 127.0.0.1:"),
    (answer("no luck", status=418), "tool_failed", False, "failed (418)"),
    (HTML, "tool_bad_response", False, "does not speak MCP over streamable HTTP"),
    (answer("{"), "tool_bad_response", False, "does not speak MCP over streamable HTTP"),
    (answer({"hello": "world"}), "tool_bad_response", False, "does not fit the protocol"),
    (Stream(pieces=(b'{"jsonrpc"',), end="cut", content_type="application/json"), "tool_interrupted", True, "cut the"),
    (Stream(pieces=(b": hm\n\n",), end="cut"), "tool_interrupted", True, "cut the connection"),
    (Stream(pieces=(), hang_before_head=True), "tool_timeout", True, "gave no result within 2 s (`timeout_s`)"),
    (Stream(pieces=(b": hm\n\n",), end="hang"), "tool_timeout", True, "gave no result within 2 s (`timeout_s`)"),
]


@pytest.mark.parametrize(("reply", "code", "retryable", "words"), FAULTS)
def test_each_fault_of_a_call(faulty: FaultyMcp, reply: Reply, code: str, retryable: bool, words: str) -> None:
    faulty.tools["add"] = reply
    headers = {"X-Api-Key": SECRET}
    with provider(faulty.uri, timeout_s=2 if code == "tool_timeout" else 20, headers=headers) as one:
        error = fault(one)
        assert (error.code, error.retryable) == (code, retryable)
        assert words in error.message
        assert error.message.startswith("Tool 'add' of provider 'it' ")
        assert error.retry_after == (7 if error.status == 429 else None)
        # The session lives on.
        assert call(one, "other").content == ""


def test_one_call_that_fails_takes_no_other_with_it(faulty: FaultyMcp) -> None:
    faulty.tools["slow"] = lambda request: Stream(
        pieces=(b": wait\n\n", b"data: " + result_of(request) + b"\n\n"), between_s=0.5
    )
    faulty.tools["cut"] = Stream(pieces=(), end="cut", content_type="application/json")
    with provider(faulty.uri) as one:
        slow = gevent.spawn(call, one, "slow")
        wait_in_gevent(lambda: any(b'"slow"' in request.body for request in faulty.requests))
        assert [fault(one, "cut").code for _ in range(3)] == ["tool_interrupted"] * 3
        assert slow.get(timeout=10).content == ""


def test_a_lost_session_takes_no_call_with_it_that_is_under_way(faulty: FaultyMcp) -> None:
    lost = [answer({"detail": "no such session"}, status=404)]
    faulty.tools["lost"] = lambda request: lost.pop() if lost else rpc(request.json, {"content": []})
    faulty.tools["slow"] = lambda request: Stream(
        pieces=(b": wait\n\n", b"data: " + result_of(request) + b"\n\n"), between_s=0.5
    )
    with provider(faulty.uri) as one:
        slow = gevent.spawn(call, one, "slow")
        wait_in_gevent(lambda: any(b'"slow"' in request.body for request in faulty.requests))
        assert call(one, "lost").content == ""
        assert slow.get(timeout=10).content == ""
        # The old session is left then.
        wait_in_gevent(lambda: any(request.method == "DELETE" for request in faulty.requests))


def result_of(request: Request) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": request.json["id"], "result": {"content": []}}).encode()


@pytest.mark.parametrize(
    ("reply", "code", "words"),
    [
        (answer({}, status=401), "tool_auth", "does not accept the credentials (401)"),
        (answer("no", status=404), "tool_unreachable", "has no MCP endpoint there (404): check the path in its `uri`"),
        (answer("no", status=503), "tool_unreachable", "failed (503)"),
        (HTML, "tool_unreachable", "does not speak MCP"),
        (Stream(pieces=(), hang_before_head=True), "tool_unreachable", "agreed on no session within 1 s"),
    ],
)
def test_without_a_session_no_call_was_made(reply: Reply, code: str, words: str) -> None:
    with FakeTools() as server:
        server.replies["/mcp"] = reply
        with provider(f"{server.root}/mcp", timeout_s=1) as one:
            error = fault(one)
            assert error.code == code
            assert error.code in NOT_EXECUTED
            assert words in error.message
            assert error.message.endswith("The call was not made.")
            with pytest.raises(ProviderError, match="Tool provider 'it' "):
                one.list_tools("it")


def test_a_session_that_is_lost_again_and_again_is_said_so(faulty: FaultyMcp) -> None:
    faulty.tools["add"] = answer({"detail": "no such session"}, status=404)
    with provider(faulty.uri) as one:
        error = fault(one)
    assert error.code == "tool_unreachable"
    assert "forgets its sessions" in error.message
    calls = [request for request in faulty.requests if b"tools/call" in request.body]
    assert len(calls) == 2


def test_an_old_server_gets_a_notice_of_a_cancelled_call(faulty: FaultyMcp) -> None:
    faulty.tools["add"] = Stream(pieces=(), hang_before_head=True)
    with provider(faulty.uri) as one:
        waiting = gevent.spawn(call, one, "add")
        wait_in_gevent(lambda: any(b"tools/call" in request.body for request in faulty.requests))
        waiting.kill(timeout=5)
        assert waiting.ready()
        wait_in_gevent(lambda: any(b"notifications/cancelled" in request.body for request in faulty.requests))
