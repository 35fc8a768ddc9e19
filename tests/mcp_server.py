"""A real MCP server of the official SDK, as a process of its own (streamable HTTP).

In a test:

    with McpServer(token="t") as server:
        … a provider with the uri `server.uri` …
        assert server.seen("calls") == ["note"]

`legacy=True` refuses the newest way of greeting, so that a client has to hold a session, which dies with the process.
`stop` and `start` keep the port. By itself (prints its address and serves until it is killed):

    python tests/mcp_server.py --port 9100 --token t
"""

import argparse
import asyncio
import base64
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from waiting import wait_for

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


class McpServer:
    """The process, and the journal of what reached its tools."""

    def __init__(self, *, token: str | None = None, legacy: bool = False, json_response: bool = False) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._options = [
            *(["--token", token] if token else []),
            *(["--legacy"] if legacy else []),
            *(["--json-response"] if json_response else []),
        ]
        self._folder = tempfile.TemporaryDirectory(prefix="mcp-")
        self._journal = Path(self._folder.name) / "journal"
        self._log = Path(self._folder.name) / "log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    def seen(self, what: str) -> list[Any]:
        """Everything of one kind that the server has noted, in order: `call`, `cancelled`, `key`, `authorization`,
        and `session` for each request."""
        if not self._journal.exists():
            return []
        notes = [json.loads(line) for line in self._journal.read_text().splitlines()]
        return [note["value"] for note in notes if note["what"] == what]

    def start(self) -> None:
        command = [sys.executable, __file__, "--port", str(self.port), "--journal", str(self._journal), *self._options]
        with self._log.open("ab") as log:
            # It ends with its input, and so with the test run even where that is killed.
            self._process = subprocess.Popen([*command, "--with-parent"], stdin=subprocess.PIPE, stdout=log, stderr=log)
        wait_for(lambda: self._answers() or self._process.poll() is not None, "the MCP server answers", seconds=30)
        assert self._process.poll() is None, self._log.read_text()

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._folder.cleanup()

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def app(options: argparse.Namespace) -> Any:
    """The server as an ASGI application."""
    from mcp.server.mcpserver import Context, Image, MCPServer
    from mcp.server.mcpserver.exceptions import ToolError
    from mcp_types import AudioContent, BlobResourceContents, EmbeddedResource, ToolAnnotations

    server = MCPServer("tests")
    present = 0
    all_there = asyncio.Event()

    def note(what: str, value: Any) -> None:
        if options.journal:
            with open(options.journal, "a", encoding="utf-8") as journal:
                journal.write(json.dumps({"what": what, "value": value}) + "\n")

    def begun(ctx: Context, name: str) -> None:
        note("call", name)
        meta = ctx.request_context.meta or {}
        note("key", dict(meta).get("turnstone/idempotency-key"))
        note("authorization", (ctx.headers or {}).get("authorization"))

    @server.tool(annotations=ToolAnnotations(title="Addition", read_only_hint=True))
    def add(ctx: Context, a: int, b: int) -> str:
        """Add two numbers."""
        begun(ctx, "add")
        return str(a + b)

    @server.tool(annotations=ToolAnnotations(idempotent_hint=True))
    def put(ctx: Context, name: str) -> str:
        """Store a name."""
        begun(ctx, "put")
        return name

    @server.tool()
    def echo(ctx: Context, text: str) -> str:
        """Say it again."""
        begun(ctx, "echo")
        return text

    @server.tool(structured_output=False)
    def picture(ctx: Context) -> list[Any]:
        """A picture with a text."""
        begun(ctx, "picture")
        return ["one pixel", Image(data=PNG, format="png")]

    @server.tool(structured_output=False)
    def sound(ctx: Context) -> list[Any]:
        """A sound, and a file."""
        begun(ctx, "sound")
        data = base64.b64encode(b"RIFF wave").decode()
        blob = BlobResourceContents(uri="file:///out/report.pdf", mime_type="application/pdf", blob=data)
        return [AudioContent(data=data, mime_type="audio/wav"), EmbeddedResource(resource=blob)]

    @server.tool(structured_output=False)
    def big(ctx: Context, size: int) -> str:
        """A long text."""
        begun(ctx, "big")
        return "é" * (size // 2)

    @server.tool()
    def fail(ctx: Context, text: str) -> str:
        """Fail with a message."""
        begun(ctx, "fail")
        raise ToolError(text)

    @server.tool()
    async def hang(ctx: Context) -> str:
        """Never answer."""
        begun(ctx, "hang")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            note("cancelled", "hang")
            raise
        return ""

    @server.tool()
    async def meet(ctx: Context, people: int, me: int) -> str:
        """Answer when so many are there at once."""
        nonlocal present
        present += 1
        if present == people:
            all_there.set()
        await all_there.wait()
        return str(me)

    @server.tool()
    def die(ctx: Context) -> str:
        """End the server in the middle of the call."""
        begun(ctx, "die")
        os._exit(1)

    inner = server.streamable_http_app(json_response=options.json_response)
    return _guarded(inner, token=options.token, legacy=options.legacy, note=note)


def _guarded(inner: Any, *, token: str | None, legacy: bool, note: Callable[[str, Any], None]) -> Any:
    """Asks for the token, and knows no `server/discover` where it shall be an old server."""

    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await inner(scope, receive, send)
            return
        headers = {name.decode().lower(): value.decode() for name, value in scope["headers"]}
        note("session", headers.get("mcp-session-id"))
        if token is not None and headers.get("authorization") != f"Bearer {token}":
            said = f"who are you, {headers.get('authorization')}?"
            await _answer(send, 401, {"detail": said})
            return
        if legacy and headers.get("mcp-method") == "server/discover":
            error = {"code": -32601, "message": "Method not found"}
            await _answer(send, 404, {"jsonrpc": "2.0", "id": None, "error": error})
            return
        await inner(scope, receive, send)

    return guarded


async def _answer(send: Any, status: int, body: Any) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})


def _end_with_input() -> None:
    sys.stdin.read()
    os._exit(0)


def main() -> None:
    import uvicorn

    parser = argparse.ArgumentParser(description="An MCP server with tools that do what tests need.")
    parser.add_argument("--port", type=int, default=9100)
    parser.add_argument("--token")
    parser.add_argument("--legacy", action="store_true")
    parser.add_argument("--json-response", action="store_true")
    parser.add_argument("--journal")
    parser.add_argument("--with-parent", action="store_true", help="end with the standard input")
    options = parser.parse_args()
    if options.with_parent:
        threading.Thread(target=_end_with_input, daemon=True).start()
    print(f"http://127.0.0.1:{options.port}/mcp", flush=True)  # noqa: T201
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.run(app(options), host="127.0.0.1", port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
