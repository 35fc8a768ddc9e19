"""`remote::http` against a real socket: what goes over the wire, and each fault with the words its user reads."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from fake_tools import CUT, HANG, FakeTools, answer, endless
from fake_upstream import Raw, Reply, Stream

from shared.errors import ProviderError
from worker.providers.tools import Tool, ToolGroup, ToolResult
from worker.providers.tools_faults import NOT_EXECUTED
from worker.providers.tools_http import HttpTools
from worker.providers.tools_http_config import HttpToolsConfig

SECRET = "tok-http-secret"
KEY = "turn_1:step_2:call_3"


@pytest.fixture
def server() -> Iterator[FakeTools]:
    with FakeTools() as tools:
        yield tools


def provider(url: str, *, max_result_kb: int = 256, connect_timeout_s: float = 5, **tool: Any) -> HttpTools:
    entry = {"name": "t", "url": url, "timeout_s": 2, "headers": {"X-Api-Key": SECRET}, **tool}
    config = {"tools": [entry], "max_result_kb": max_result_kb, "connect_timeout_s": connect_timeout_s}
    return HttpTools(provider_id="it", config=HttpToolsConfig.model_validate(config))


def call(one: HttpTools, key: str = KEY, **arguments: Any) -> ToolResult:
    try:
        return one.invoke(Tool(name="t", toolgroup_id="it"), arguments, idempotency_key=key)
    finally:
        one.close()


def fault(one: HttpTools) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        call(one)
    assert SECRET not in f"{caught.value!r} {caught.value.as_json()} {caught.value.__cause__!r}"
    assert caught.value.message.startswith("Tool 't' of provider 'it' ")
    return caught.value


def test_arguments_go_as_json_with_the_configured_headers(server: FakeTools) -> None:
    server.replies["/t"] = answer({"ok": True})
    result = call(provider(f"{server.root}/t"), city="Zürich", days=[1, 2])
    assert result == ToolResult(content='{"ok": true}', metadata={"status": 200})
    [request] = server.requests
    assert (request.method, request.path, request.json) == ("POST", "/t", {"city": "Zürich", "days": [1, 2]})
    assert request.headers["x-api-key"] == SECRET
    assert request.headers["idempotency-key"] == KEY
    assert request.headers["content-type"] == "application/json"


def test_get_puts_arguments_into_the_query_behind_what_is_there(server: FakeTools) -> None:
    server.replies["/t"] = answer("fine", content_type="text/plain")
    one = provider(f"{server.root}/t?units=metric", method="get")
    arguments = {"city": "São Paulo & more", "day": 3, "exact": True, "tags": ["a", "b"], "none": None, "box": {"x": 1}}
    assert call(one, **arguments).content == "fine"
    [request] = server.requests
    assert (request.method, request.body) == ("GET", b"")
    assert parse_qs(urlsplit(request.path).query) == {
        "units": ["metric"],
        "city": ["São Paulo & more"],
        "day": ["3"],
        "exact": ["true"],
        "tags": ["a", "b"],
        "box": ['{"x":1}'],
    }


def test_a_key_that_fits_into_no_header_is_encoded(server: FakeTools) -> None:
    server.replies["/t"] = answer("")
    call(provider(f"{server.root}/t"), key="turn_1:step_2:ünd\r\nX-Evil: 1")
    assert server.requests[0].headers["idempotency-key"] == "turn_1:step_2:%C3%BCnd%0D%0AX-Evil:%201"
    assert "x-evil" not in server.requests[0].headers


def test_connections_are_used_again(server: FakeTools) -> None:
    server.replies["/t"] = answer("")
    one = provider(f"{server.root}/t")
    for _ in range(3):
        one.invoke(Tool(name="t", toolgroup_id="it"), {}, idempotency_key=KEY)
    one.close()
    assert server.connections == 1


@pytest.mark.parametrize(
    ("reply", "content"),
    [
        (answer("", status=204), ""),
        (answer("grün".encode("latin-1"), content_type="text/plain; charset=ISO-8859-1"), "grün"),
        (answer('[1, "two"]', content_type="application/problem+json"), '[1, "two"]'),
        (answer("<a/>", content_type="application/xml"), "<a/>"),
        (Stream(pieces=(b"one ", b"two"), content_type="text/plain"), "one two"),
        (Stream(pieces=(b"to the end",), content_type="text/plain", end="close"), "to the end"),
    ],
)
def test_json_and_text_become_the_result(server: FakeTools, reply: Reply, content: str) -> None:
    server.replies["/t"] = reply
    assert call(provider(f"{server.root}/t")).content == content


def test_a_body_without_end_is_cut_in_the_middle_of_no_character_and_its_connection_closed(server: FakeTools) -> None:
    server.replies["/t"] = endless("x€".encode())
    result = call(provider(f"{server.root}/t", max_result_kb=1))
    assert isinstance(result.content, str)
    text, mark, _ = result.content.partition("\n[cut: ")
    assert (text, mark) == ("x€" * 256, "\n[cut: ")
    assert result.metadata == {"status": 200, "truncated": True}
    server.wait_for(lambda: server.hangups == 1)


def test_what_is_no_text_at_its_cut_is_still_refused(server: FakeTools) -> None:
    server.replies["/t"] = endless(b"\xff\xfe")
    assert fault(provider(f"{server.root}/t", max_result_kb=1)).code == "tool_bad_response"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422])
def test_a_refusal_goes_to_the_model_with_a_bounded_excerpt(server: FakeTools, status: int) -> None:
    server.replies["/t"] = answer({"detail": f"no {SECRET} " + "x" * 50_000}, status=status)
    result = call(provider(f"{server.root}/t"))
    assert result.error
    assert isinstance(result.content, str)
    assert result.content.startswith(f'The tool refused the call ({status}). It said: {{"detail": "no *** xxx')
    assert len(result.content) < 2_100
    assert result.metadata == {"status": status}


PNG = b"\x89PNG\r\n\x1a\n\x00\x00\xff"


@pytest.mark.parametrize(
    ("content_type", "disposition", "filename"),
    [
        ("image/png", 'inline; filename="a plot.png"', "a plot.png"),
        ("Application/PDF; x=y", "attachment; filename*=UTF-8''caf%C3%A9.pdf", "café.pdf"),
        ("application/octet-stream", "", ""),
    ],
)
def test_what_is_neither_text_nor_json_is_a_file(
    server: FakeTools, content_type: str, disposition: str, filename: str
) -> None:
    server.replies["/t"] = answer(PNG, content_type=content_type, content_disposition=disposition)
    result = call(provider(f"{server.root}/t"))
    assert (result.content, result.error, result.metadata) == ("", False, {"status": 200})
    (file,) = result.files
    assert (file.data, file.mime_type, file.filename) == (PNG, content_type.partition(";")[0].lower(), filename)


@pytest.mark.parametrize(
    "content_type", ["", "text/csv", "application/yaml", "application/x-ndjson", "image/svg+xml", "application/ld+json"]
)
def test_what_a_model_can_read_is_no_file(server: FakeTools, content_type: str) -> None:
    server.replies["/t"] = answer("[1]", content_type=content_type)
    result = call(provider(f"{server.root}/t"))
    assert (result.content, result.files) == ("[1]", ())


def test_a_file_over_the_bound_is_said_and_not_kept(server: FakeTools) -> None:
    server.replies["/t"] = answer(b"\0" * 1025, content_type="image/png")
    result = call(provider(f"{server.root}/t", max_result_kb=1))
    assert result.files == ()
    assert result.content == "[left out: image/png that makes the tool's result longer than 1 KB]"
    assert result.metadata == {"status": 200, "truncated": True}


def test_a_file_without_a_byte_is_none(server: FakeTools) -> None:
    server.replies["/t"] = answer(b"", content_type="image/png")
    result = call(provider(f"{server.root}/t"))
    assert (result.content, result.files) == ("", ())


def test_no_file_repeats_a_credential(server: FakeTools) -> None:
    said = f'attachment; filename="{SECRET}.bin"'
    server.replies["/t"] = answer(b"\0" + SECRET.encode(), content_type="a/b", content_disposition=said)
    (file,) = call(provider(f"{server.root}/t")).files
    assert (file.data, file.filename) == (b"\0***", "***.bin")


FAULTS: list[tuple[Reply, str, bool, str]] = [
    (answer("slow", status=429, retry_after="7"), "tool_rate_limited", True, "limits its rate (429)"),
    (answer(f"oh {SECRET}", status=500), "tool_failed", True, "look into the log of the server at 127.0.0.1:"),
    (answer("", status=501), "tool_failed", False, "failed (501)"),
    (answer("", status=503, retry_after="7"), "tool_failed", True, "failed (503)"),
    (answer("", status=408), "tool_failed", True, "failed (408)"),
    (answer("", status=307, location="/x"), "tool_failed", False, "redirects (307): set its `url`"),
    (answer("{'no': json}"), "tool_bad_response", False, "application/json that is not JSON"),
    (answer(PNG, content_type="text/plain"), "tool_bad_response", False, "text/plain that is not text"),
    (answer("a\0b", content_type="text/plain"), "tool_bad_response", False, "that is not text"),
    (answer("x", content_encoding="gzip"), "tool_bad_response", False, "compressed"),
    (Raw(data=b"SSH-2.0-OpenSSH_9.6\r\n"), "tool_bad_response", False, "something that is not HTTP"),
    (Raw(data=b""), "tool_interrupted", True, "cut the connection before its answer was complete"),
    (CUT, "tool_interrupted", True, "cut the connection before its answer was complete"),
    (HANG, "tool_timeout", True, "gave no result within 0.5 s (`timeout_s`)"),
    (Stream(pieces=(b"x",), end="hang", content_type="text/plain"), "tool_timeout", True, "within 0.5 s"),
    (Stream(pieces=[b"x"] * 100, between_s=0.1, content_type="text/plain"), "tool_timeout", True, "within 0.5 s"),
]


@pytest.mark.parametrize(("reply", "code", "retryable", "words"), FAULTS)
def test_each_fault_of_a_call(server: FakeTools, reply: Reply, code: str, retryable: bool, words: str) -> None:
    server.replies["/t"] = reply
    error = fault(provider(f"{server.root}/t", timeout_s=0.5 if code == "tool_timeout" else 10))
    assert (error.code, error.retryable) == (code, retryable)
    assert words in error.message
    assert error.code not in NOT_EXECUTED
    assert error.retry_after == (7 if error.status in (429, 503) else None)


def test_a_server_that_does_not_accept_in_time_was_not_called() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        # The backlog of a listener that never accepts is full after these.
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        error = fault(provider(f"http://127.0.0.1:{port}/t", connect_timeout_s=0.2))
        for filler in fillers:
            filler.close()
    assert (error.code, error.retryable) == ("tool_unreachable", True)
    assert f"no connection to 127.0.0.1:{port} in time" in error.message


def test_https_to_a_server_that_speaks_http_was_not_called(server: FakeTools) -> None:
    error = fault(provider(f"{server.root}/t".replace("http:", "https:")))
    assert error.code == "tool_unreachable"
    assert "TLS failed" in error.message
    assert server.requests == []


def test_an_url_with_a_credential_in_its_query_is_in_no_message(server: FakeTools) -> None:
    server.replies["/t"] = answer("", status=500)
    assert SECRET not in fault(provider(f"{server.root}/t?key={SECRET}", headers={})).message


def test_a_group_that_names_an_mcp_server_is_refused() -> None:
    one = provider("http://127.0.0.1:1/t")
    with pytest.raises(ProviderError, match="takes no `mcp_endpoint`"):
        one.register_toolgroup(ToolGroup(identifier="x", mcp_endpoint={"uri": "http://x"}))
    one.close()


# One tool that hangs must hold up nobody else, and a call that is killed lets its connection go.
UNDER_GEVENT = """
from gevent import monkey
monkey.patch_all()
import sys
import gevent
from shared.errors import ProviderError
from shared.runconfig import ProviderInstance, Providers, RunConfig
from worker.providers.instances import build_tools

root = sys.argv[1]
tools = [{"name": name, "url": f"{root}/{name}", "timeout_s": 5} for name in ("hang", "slow")]
instance = ProviderInstance(provider_id="it", provider_type="remote::http", config={"tools": tools})
provider = build_tools(RunConfig(providers=Providers(tool_runtime=(instance,))))["it"]
listed = {tool.name: tool for tool in provider.list_tools("it")}

def call(name):
    return provider.invoke(listed[name], {}, idempotency_key="k").content

hanging = gevent.spawn(call, "hang")
calls = [gevent.spawn(call, "slow") for _ in range(50)]
gevent.joinall(calls, raise_error=True)
assert [one.value for one in calls] == ["onetwo"] * 50
assert not hanging.ready()
hanging.kill()
print("fine")
"""


def test_under_gevent_calls_run_side_by_side(server: FakeTools) -> None:
    server.replies["/hang"] = HANG
    server.replies["/slow"] = Stream(pieces=(b"one", b"two"), between_s=0.2, content_type="text/plain")
    command = [sys.executable, "-c", UNDER_GEVENT, server.root]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "fine\n", done.stderr
    server.wait_for(lambda: server.hangups >= 1)
    assert server.connections == 51
