"""An OpenAI-compatible server on a real socket that does what it is told, faults included.

In a test:

    with FakeUpstream() as upstream:
        upstream.script(Failure(status=429, headers={"retry-after": "2"}), text("Hello world"))
        … a provider with the url `upstream.url` …
        assert upstream.requests[0].json["model"] == "m"

Replies given to `script` are used up in order by `POST /v1/chat/completions`; then `default` answers, forever;
it may be a function of the request.
As a process of its own, for load (prints its URL and serves until it is killed):

    python tests/fake_upstream.py --port 9000 --tokens 64 --first-ms 100 --token-ms 20
"""

import argparse
import asyncio
import contextlib
import json
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self

Json = dict[str, Any]
End = Literal["done", "close", "cut", "hang", "no_done"]

DEADLINE_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request as it came in; header names are in lower case. `connection` counts connections from 1."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: int

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, kw_only=True)
class Stream:
    """A 200 with `pieces` as its body, each written by itself.

    `end`: `done` closes the body properly; `close` has no length and ends with the connection; `cut` drops the
    connection; `hang` says nothing more until the client goes; `no_done` is `done` without the `[DONE]`
    that the builders below add. `framing` `close` sends an HTTP/1.0 like body without chunks. With a `gate` nothing of
    the body comes before that is set.
    """

    pieces: Sequence[bytes]
    first_s: float = 0.0
    between_s: float = 0.0
    end: End = "done"
    content_type: str = "text/event-stream"
    hang_before_head: bool = False
    keep_open_s: float = 0.0
    chunked: bool = True
    gate: threading.Event | None = None


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An answer with another status, or a body of any kind at once."""

    status: int = 500
    body: bytes | str | Json = ""
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json"


@dataclass(frozen=True, kw_only=True)
class Raw:
    """Bytes instead of HTTP, then the connection is closed."""

    data: bytes = b""


Reply = Stream | Failure | Raw
Chooser = Callable[[Request], Reply]


def event(data: Json | bytes | str) -> bytes:
    """One server-sent event."""
    raw = data if isinstance(data, bytes) else data.encode() if isinstance(data, str) else json.dumps(data).encode()
    return b"data: " + raw + b"\n\n"


def chunk(delta: Json, *, finish_reason: str | None = None, **more: Any) -> bytes:
    """One chat completion chunk as an event."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return event(
        {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice], **more}
    )


def usage(prompt: int, completion: int) -> bytes:
    """The chunk that carries the usage."""
    counts = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return event({"id": "c1", "object": "chat.completion.chunk", "choices": [], "usage": counts})


def chunks(*pieces: bytes, finish_reason: str | None = "stop", **options: Any) -> Stream:
    """A stream of `pieces`, then the finish reason, the usage and `[DONE]` as far as `end` lets it."""
    role = chunk({"role": "assistant", "content": ""})
    if options.get("end", "done") in ("cut", "hang"):
        return Stream(pieces=[role, *pieces], **options)
    final = [chunk({}, finish_reason=finish_reason)] if finish_reason else []
    done = [] if options.get("end") == "no_done" else [usage(3, len(pieces)), event("[DONE]")]
    return Stream(pieces=[role, *pieces, *final, *done], **options)


def text(*tokens: str, **options: Any) -> Stream:
    """A reply of text tokens."""
    return chunks(*(chunk({"content": token}) for token in tokens), **options)


def completion(*tokens: str, **options: Any) -> Stream:
    """The rest of a text, as the older route streams it."""
    pieces = [
        event({"object": "text_completion", "choices": [{"index": 0, "text": token, "finish_reason": None}]})
        for token in tokens
    ]
    if options.get("end", "done") in ("cut", "hang"):
        return Stream(pieces=pieces, **options)
    end = event({"object": "text_completion", "choices": [{"index": 0, "text": "", "finish_reason": "length"}]})
    return Stream(pieces=[*pieces, end, usage(3, len(tokens)), event("[DONE]")], **options)


def embeddings(texts: Sequence[str]) -> Json:
    """A vector for each text, told apart by the text's length; in an order that is not theirs."""
    data = [{"object": "embedding", "index": n, "embedding": [len(text), n]} for n, text in enumerate(texts)]
    return {"object": "list", "data": data[::-1], "model": "m"}


def call_piece(index: int | None, *, id: str | None = None, name: str | None = None, arguments: Any = None) -> bytes:
    """A piece of a tool call."""
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    piece: Json = {"function": function}
    piece.update({} if index is None else {"index": index})
    piece.update({} if id is None else {"id": id, "type": "function"})
    return chunk({"tool_calls": [piece]})


def calls(*pieces: bytes, finish_reason: str = "tool_calls", **options: Any) -> Stream:
    """A reply of tool calls."""
    return chunks(*pieces, finish_reason=finish_reason, **options)


def pulled(*progress: Json, **options: Any) -> Stream:
    """What Ollama says of a pull."""
    told = progress or (
        {"status": "pulling manifest"},
        {"status": "pulling 8eeb52dfb3bb", "digest": "sha256:8eeb52dfb3bb", "total": 1321082688, "completed": 241970},
        {"status": "verifying sha256 digest"},
        {"status": "writing manifest"},
        {"status": "success"},
    )
    lines = [json.dumps(one).encode() + b"\n" for one in told]
    return Stream(pieces=lines, content_type="application/x-ndjson", **options)


class _NotHttp(Exception):
    """The client speaks TLS, or something else, to a plain HTTP server."""


class FakeUpstream:
    """The server, on a thread of its own. `models` is what `GET /v1/models` lists, and Ollama's and TGI's routes.

    `POST /api/pull` adds the model; what it says of that are the replies in `pulls`, then that all went well.
    """

    def __init__(
        self,
        *,
        tls: ssl.SSLContext | None = None,
        port: int = 0,
        default: Reply | Chooser | None = None,
        models: Iterable[str] = ("m",),
    ) -> None:
        self.default: Reply | Chooser = default or text("Hello", " world")
        self.models: list[Json] = [{"id": name, "object": "model"} for name in models]
        self.models_reply: Failure | None = None
        self.completion: Reply = completion(" and", " so on")
        self.embedding: Reply | None = None
        self.pulls: deque[Reply] = deque()
        self.requests: list[Request] = []
        self.connections = 0
        self.hangups = 0
        self._port = port
        self._tls = tls
        self._replies: deque[Reply] = deque()
        self._changed = threading.Condition()
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="fake-upstream", daemon=True)
        self._stop = asyncio.Event()

    @property
    def port(self) -> int:
        return self._port

    @property
    def url(self) -> str:
        """The base URL for a provider's config."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}/v1"

    def script(self, *replies: Reply) -> None:
        """Answer the next chat completions with `replies`, one each."""
        self._replies.extend(replies)

    def wait_for(self, condition: Callable[[], bool], *, deadline_s: float = DEADLINE_S) -> None:
        """Wait until `condition`, which may look at `requests`, `connections` and `hangups`."""
        with self._changed:
            if not self._changed.wait_for(condition, timeout=deadline_s):
                raise AssertionError("the upstream did not see what the test waits for")

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(DEADLINE_S):
            raise RuntimeError("the fake upstream did not start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(DEADLINE_S)

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self.serve())
        finally:
            self._loop.close()

    async def serve(self) -> None:
        """Serve until told to stop; then drop what is still open."""
        tasks: set[asyncio.Task[None]] = set()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.get_running_loop().create_task(self._connection(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        server = await asyncio.start_server(accept, "127.0.0.1", self._port, backlog=4096, ssl=self._tls)
        self._port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _note(self, **changes: int) -> None:
        with self._changed:
            for name, by in changes.items():
                setattr(self, name, getattr(self, name) + by)
            self._changed.notify_all()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._note(connections=1)
        number = self.connections
        try:
            while await self._exchange(reader, writer, number):
                pass
        except _NotHttp:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            self._note(hangups=1)
        finally:
            writer.transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> bool:
        """One request and its answer; whether the connection stays."""
        request = await _read_request(reader, number)
        with self._changed:
            self.requests.append(request)
            self._changed.notify_all()
        reply = self._choose(request)
        if isinstance(reply, Raw):
            writer.write(reply.data)
            await writer.drain()
            writer.close()
            return False
        if isinstance(reply, Failure):
            writer.write(_whole(reply))
            await writer.drain()
            return True
        return await self._stream(reply, reader, writer)

    def _choose(self, request: Request) -> Reply:
        if request.path.endswith(("/models", "/info", "/api/tags")):
            return self.models_reply or Failure(status=200, body=self._listing(request.path))
        if request.path == "/api/pull":
            self.models.append({"id": request.json["model"]})
            return self.pulls.popleft() if self.pulls else pulled()
        if request.path.endswith("/chat/completions"):
            if self._replies:
                return self._replies.popleft()
            return self.default if isinstance(self.default, Stream | Failure | Raw) else self.default(request)
        if request.path.endswith("/completions"):
            return self.completion
        if request.path.endswith("/embeddings"):
            return self.embedding or Failure(status=200, body=embeddings(request.json["input"]))
        return Failure(status=404, body={"detail": "Not Found"})

    def _listing(self, path: str) -> Json:
        """What is served, as OpenAI-compatible servers, TGI and Ollama say it."""
        if path == "/info":
            return {"model_id": self.models[0]["id"], "max_input_tokens": 4095, "max_total_tokens": 4096}
        if path == "/api/tags":
            return {"models": [{"name": model["id"], "model": model["id"], **model} for model in self.models]}
        return {"object": "list", "data": self.models}

    async def _stream(self, reply: Stream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        if reply.hang_before_head:
            return await _until_gone(reader)
        chunked = reply.chunked and reply.end != "close"
        framing = "transfer-encoding: chunked" if chunked else "connection: close"
        writer.write(f"HTTP/1.1 200 OK\r\ncontent-type: {reply.content_type}\r\n{framing}\r\n\r\n".encode())
        gone = asyncio.ensure_future(reader.read(1))
        try:
            while reply.gate is not None and not reply.gate.is_set() and not gone.done():
                await asyncio.wait([gone], timeout=0.02)
            for index, piece in enumerate(reply.pieces):
                pause = reply.first_s if index == 0 else reply.between_s
                # Also without a pause the loop turns once, so that each piece is a write of its own.
                await asyncio.wait([gone], timeout=pause) if pause else await asyncio.sleep(0)
                if gone.done():
                    raise ConnectionResetError
                writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
                await writer.drain()
            return await self._finish(reply, writer, gone, chunked=chunked)
        finally:
            gone.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                await gone

    async def _finish(
        self, reply: Stream, writer: asyncio.StreamWriter, gone: "asyncio.Future[bytes]", *, chunked: bool
    ) -> bool:
        if reply.end == "hang":
            await gone
            raise ConnectionResetError
        if reply.keep_open_s:
            await asyncio.wait([gone], timeout=reply.keep_open_s)
        if reply.end == "cut" or not chunked:
            writer.close()
            return False
        # Before the last byte: what comes after it is the next request's.
        gone.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await gone
            return False
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True


async def _read_request(reader: asyncio.StreamReader, number: int) -> Request:
    first = await reader.readexactly(1)
    if not first.isalpha():
        raise _NotHttp
    head = (first + await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, path, _ = head[0].split(" ", 2)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(method=method, path=path, headers=headers, body=body, connection=number)


async def _until_gone(reader: asyncio.StreamReader) -> bool:
    await reader.read(1)
    raise ConnectionResetError


def _whole(reply: Failure) -> bytes:
    body = reply.body if isinstance(reply.body, bytes | str) else json.dumps(reply.body)
    raw = body.encode() if isinstance(body, str) else body
    headers = {"content-type": reply.content_type, **reply.headers, "content-length": str(len(raw))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {reply.status} X\r\n{lines}\r\n".encode() + raw


def main() -> None:
    """Serve one text reply over and over, for load."""
    parser = argparse.ArgumentParser(description="An OpenAI-compatible server that streams the same reply to all.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--first-ms", type=float, default=0.0)
    parser.add_argument("--token-ms", type=float, default=0.0)
    parser.add_argument("--models", nargs="+", default=["m"])
    options = parser.parse_args()
    words = [f" w{number}" for number in range(options.tokens)]
    reply = text(*words, first_s=options.first_ms / 1000, between_s=options.token_ms / 1000)
    upstream = FakeUpstream(port=options.port, default=reply, models=options.models)
    with upstream:
        print(upstream.url, flush=True)  # noqa: T201
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
