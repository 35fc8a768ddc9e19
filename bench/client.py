"""A small HTTP/1.1 client, the same for every system that is measured.

It notes the time when bytes arrive and not when a task gets to see them, and costs little beside what it measures.
"""

import asyncio
import re
from collections.abc import Callable
from urllib.parse import urlsplit

from upstream import now_us

OnBody = Callable[[bytes, int], None]
"""Hears of each piece of a body with the time (µs, monotonic) at which it came."""

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


class Connection(asyncio.Protocol):
    """One keep-alive connection; one exchange at a time."""

    def __init__(self) -> None:
        self.open = True
        self._data = b""
        self._in_body = self._chunked = False
        self._missing = 0
        self._chunk = 0
        self._status = 0
        self._on_body: OnBody = lambda data, at: None
        self._done: asyncio.Future[int] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    async def exchange(self, request: bytes, on_body: OnBody) -> int:
        """Send a request and hand over its body; the status. Raises ConnectionError."""
        self._done = asyncio.get_running_loop().create_future()
        self._on_body = on_body
        self._data, self._in_body = b"", False
        self._transport.write(request)
        return await self._done

    def close(self) -> None:
        self.open = False
        self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        if self._done is not None and not self._done.done():
            self._done.set_exception(ConnectionResetError("the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        at = now_us()
        self._data += data
        if not self._in_body and not self._head():
            return
        if self._chunked:
            self._chunks(at)
        else:
            self._plain(at)

    def _head(self) -> bool:
        head, blank, rest = self._data.partition(b"\r\n\r\n")
        if not blank:
            return False
        self._status = int(head[9:12])
        self._in_body, self._data = True, rest
        self._chunked = _CHUNKED.search(head) is not None
        length = _LENGTH.search(head)
        self._missing = int(length[1]) if length else 0
        self._chunk = 0
        self._closes = _CLOSE.search(head) is not None
        return True

    def _plain(self, at: int) -> None:
        self._missing -= len(self._data)
        self._on_body(self._data, at)
        self._data = b""
        if self._missing <= 0:
            self._end()

    def _chunks(self, at: int) -> None:
        while True:
            end = self._data.find(b"\r\n")
            if end < 0:
                return
            size = int(self._data[:end], 16)
            if len(self._data) < end + size + 4:
                return
            if not size:
                self._end()
                return
            self._on_body(self._data[end + 2 : end + 2 + size], at)
            self._data = self._data[end + size + 4 :]

    def _end(self) -> None:
        if self._closes:
            self.close()
        if self._done is not None and not self._done.done():
            self._done.set_result(self._status)


class Client:
    """Connections to one server, reused as they become free."""

    def __init__(self, base_url: str) -> None:
        parts = urlsplit(base_url)
        self._host, self._port = str(parts.hostname), int(parts.port or 80)
        self._prefix = parts.path
        self._idle: list[Connection] = []

    async def send(self, method: str, path: str, body: bytes = b"", *, on_body: OnBody, accept: str = "*/*") -> int:
        """One exchange; the status."""
        head = (
            f"{method} {self._prefix}{path} HTTP/1.1\r\nhost: {self._host}:{self._port}\r\naccept: {accept}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        connection = await self._connection()
        status = await connection.exchange(head.encode() + body, on_body)
        if connection.open:
            self._idle.append(connection)
        return status

    async def fetch(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """One exchange with its whole body."""
        pieces: list[bytes] = []
        status = await self.send(method, path, body, on_body=lambda data, at: pieces.append(data))
        return status, b"".join(pieces)

    def close(self) -> None:
        """Close what is idle."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    async def _connection(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.open:
                return connection
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(Connection, self._host, self._port)
        return connection
