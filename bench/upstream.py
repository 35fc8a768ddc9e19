"""A fake OpenAI-compatible server that costs as little as possible: what is measured is never its own work.

The last user message says how to answer (`Plan`). Each token is a write of its own and carries the time at which it
was sent, so that a reader can tell how long it was under way: `~` and the low 32 bits of the monotonic clock in µs,
which all processes of a machine share.
"""

import argparse
import asyncio
import re
import sys
import time
from dataclasses import dataclass

MODEL = "bench"
TOKEN_BYTES = 9
_PLAN = re.compile(rb"tokens=(\d+) first_ms=([\d.]+) token_ms=([\d.]+)")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_STAMP = re.compile(rb"~([0-9a-f]{8})")
_WRAP = 1 << 32

_CHUNK = b'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1,"model":"bench","choices":['
_BEFORE = _CHUNK + b'{"index":0,"delta":{"content":"'
_AFTER = b'"},"finish_reason":null}]}\n\n'
_TOKEN_HEAD = b"%x\r\n%b" % (len(_BEFORE) + TOKEN_BYTES + len(_AFTER), _BEFORE)
_TOKEN_TAIL = _AFTER + b"\r\n"
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_MODELS = b'{"object":"list","data":[{"id":"bench","object":"model","created":1,"owned_by":"bench"}]}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A reply: how many tokens, when the first one comes, and how far apart the others."""

    tokens: int
    first_ms: float = 0.0
    token_ms: float = 0.0

    @property
    def seconds(self) -> float:
        """How long the reply takes."""
        return (self.first_ms + (self.tokens - 1) * self.token_ms) / 1000

    def prompt(self) -> str:
        """The user message that asks for this reply."""
        return f"tokens={self.tokens} first_ms={self.first_ms} token_ms={self.token_ms}"

    @classmethod
    def last_in(cls, body: bytes) -> "Plan":
        """The plan of the last message in a request's body."""
        tokens, first_ms, token_ms = _PLAN.findall(body)[-1]
        return cls(tokens=int(tokens), first_ms=float(first_ms), token_ms=float(token_ms))


def now_us() -> int:
    return time.monotonic_ns() // 1000


def ages_us(frame: bytes, now: int) -> list[int]:
    """For each token in a piece of text: how long ago it was sent."""
    return [(now - int(stamp, 16)) % _WRAP for stamp in _STAMP.findall(frame)]


class Upstream(asyncio.Protocol):
    """One connection: a request, its answer, the next request."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._data = b""
        self._left = 0
        self._gap_s = 0.0
        self._next_at = 0.0
        self._sent = 0
        self._paused = False
        self._waits = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._left = 0

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, blank, body = self._data.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not blank or len(body) < (int(length[1]) if length else 0):
            return
        self._data = b""
        if head.startswith(b"GET /v1/models"):
            self._transport.write(_whole(_MODELS))
        else:
            self._answer(Plan.last_in(body))

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._waits:
            self._waits = False
            self._token()

    def _answer(self, plan: Plan) -> None:
        self._transport.write(_HEAD)
        self._left = self._sent = plan.tokens
        self._gap_s = plan.token_ms / 1000
        self._next_at = self._loop.time() + plan.first_ms / 1000
        if plan.first_ms:
            self._loop.call_at(self._next_at, self._token)
        else:
            self._token()

    def _token(self) -> None:
        if not self._left:
            return
        if self._paused:
            self._waits = True
            return
        self._transport.write(_TOKEN_HEAD + b"~%08x" % (now_us() % _WRAP) + _TOKEN_TAIL)
        self._left -= 1
        if not self._left:
            self._transport.write(_end(self._sent))
        elif self._gap_s:
            self._next_at += self._gap_s
            self._loop.call_at(self._next_at, self._token)
        else:
            # Through the loop, so that streams take turns and each token is a write of its own.
            self._loop.call_soon(self._token)


def _end(tokens: int) -> bytes:
    usage = b'"usage":{"prompt_tokens":1,"completion_tokens":%d,"total_tokens":%d}' % (tokens, tokens + 1)
    events = (
        _CHUNK + b'{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
        _CHUNK + b"]," + usage + b"}\n\n",
        b"data: [DONE]\n\n",
    )
    return b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in events) + b"0\r\n\r\n"


def _whole(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


async def serve(port: int) -> None:
    """Serve until standard input ends: with whoever started this."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Upstream, "127.0.0.1", port, backlog=4096)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    ended = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), ended.set)
    await ended.wait()
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    asyncio.run(serve(parser.parse_args().port))


if __name__ == "__main__":
    main()
