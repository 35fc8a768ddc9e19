"""A fake OpenAI-compatible server that costs as little as possible: what is measured is never its own work.

The last user message says how to answer (`Plan`). Each token is a write of its own. It embeds too: a text's vector is
one of some that are written out once.
"""

import argparse
import asyncio
import json
import re
import sys
from functools import cache
from zlib import crc32

from bench.load.plan import STAMP_BYTES, Plan, now_us, stamp
from bench.load.words import Vectors

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)

_CHUNK = b'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1,"model":"bench","choices":['
_BEFORE = _CHUNK + b'{"index":0,"delta":{"content":"'
_AFTER = b'"},"finish_reason":null}]}\n\n'
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_MODELS = (
    b'{"object":"list","data":[{"id":"bench","object":"model","created":1,"owned_by":"bench"},'
    b'{"id":"bench-embedding","object":"model","created":1,"owned_by":"bench"}]}'
)
_EMBEDDINGS = 256


class Upstream(asyncio.Protocol):
    """One connection: a request, its answer, the next request."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._parts: list[bytes] = []
        self._missing = 0
        self._left = self._sent = 0
        self._gap_s = self._next_at = 0.0
        self._paused = self._waits = False
        self._next_head = self._next_tail = self._head = self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._left = 0

    def data_received(self, data: bytes) -> None:
        """Gather a request. Its pieces are joined once: a session's history may be long."""
        self._parts.append(data)
        if self._missing:
            self._missing -= len(data)
        else:
            self._missing = _missing(b"".join(self._parts))
        if self._missing == 0:
            request, self._parts = b"".join(self._parts), []
            self._take(request)
        elif self._missing < 0:
            self._missing = 0  # not even the head is here

    def _take(self, request: bytes) -> None:
        if request.startswith(b"GET "):
            self._transport.write(_whole(_MODELS))
        elif request.startswith(b"POST /v1/embeddings"):
            self._transport.write(_whole(_embedded(request)))
        else:
            self._answer(Plan.last_in(request))

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._waits:
            self._waits = False
            self._token()

    def _answer(self, plan: Plan) -> None:
        self._transport.write(_HEAD)
        self._frame(plan.token_bytes)
        self._left = self._sent = plan.tokens
        self._gap_s = plan.token_ms / 1000
        self._next_at = self._loop.time() + plan.first_ms / 1000
        if plan.first_ms:
            self._loop.call_at(self._next_at, self._token)
        else:
            self._token()

    def _frame(self, token_bytes: int) -> None:
        """What stands around the stamps: once of the first token, which says too when its request came in."""
        arrival, filler = stamp(b"@", now_us()), b"." * (token_bytes - STAMP_BYTES)
        self._next_head, self._next_tail = _around(arrival + filler)
        self._head, self._tail = _around(filler)

    def _token(self) -> None:
        if not self._left:
            return
        if self._paused:
            self._waits = True
            return
        self._transport.write(self._next_head + stamp(b"~", now_us()) + self._next_tail)
        self._next_head, self._next_tail = self._head, self._tail
        self._left -= 1
        if not self._left:
            self._transport.write(_end(self._sent))
        elif self._gap_s:
            self._next_at += self._gap_s
            self._loop.call_at(self._next_at, self._token)
        else:
            # Through the loop, so that streams take turns and each token is a write of its own.
            self._loop.call_soon(self._token)


def _around(more: bytes) -> tuple[bytes, bytes]:
    """What comes before and after the stamp of a token whose text goes on with `more`."""
    return b"%x\r\n%b" % (len(_BEFORE) + STAMP_BYTES + len(more) + len(_AFTER), _BEFORE), more + _AFTER + b"\r\n"


def _missing(data: bytes) -> int:
    """How many bytes of a request have not come yet; -1 where its head is not whole."""
    head, blank, body = data.partition(b"\r\n\r\n")
    if not blank:
        return -1
    length = _LENGTH.search(head)
    return (int(length[1]) if length else 0) - len(body)


def _end(tokens: int) -> bytes:
    usage = b'"usage":{"prompt_tokens":1,"completion_tokens":%d,"total_tokens":%d}' % (tokens, tokens + 1)
    events = (
        _CHUNK + b'{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
        _CHUNK + b"]," + usage + b"}\n\n",
        b"data: [DONE]\n\n",
    )
    return b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in events) + b"0\r\n\r\n"


def _embedded(request: bytes) -> bytes:
    texts = json.loads(request.partition(b"\r\n\r\n")[2])["input"]
    written = _embeddings()
    entries = (
        b'{"object":"embedding","index":%d,"embedding":%b}' % (index, written[crc32(text.encode()) % len(written)])
        for index, text in enumerate(texts)
    )
    usage = b'"usage":{"prompt_tokens":1,"total_tokens":1}'
    return b'{"object":"list","model":"bench-embedding","data":[%b],%b}' % (b",".join(entries), usage)


@cache
def _embeddings() -> list[bytes]:
    vectors = Vectors()
    return [json.dumps(vectors[number]).encode() for number in range(_EMBEDDINGS)]


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
