"""A small HTTP/1.1 client, the same for every system that is measured.

It notes the time when bytes arrive and not when a task gets to see them, and costs little beside what it measures.
"""

import asyncio
import re
import socket
from collections.abc import Callable
from urllib.parse import urlsplit

from bench.load.plan import now_us

OnBody = Callable[[bytes, int], None]
"""Hears of each piece of a body with the time (µs, monotonic) at which it came."""

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


class Connection(asyncio.Protocol):
    """One keep-alive connection; one exchange at a time."""

    def __init__(self) -> None:
        self.open = True
        self.bytes_per_s = 0
        """How much the link to this client carries; 0: whatever comes."""
        self._data = b""
        self._in_body = self._chunked = self._closes = False
        self._missing = 0
        self._status = 0
        self._on_body: OnBody = lambda data, at: None
        self._done: asyncio.Future[int] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    async def exchange(self, request: bytes, on_body: OnBody) -> int:
        """Send a request and hand over its body; the status. Raises ConnectionError."""
        return await self.begin(request, on_body)

    def begin(self, request: bytes, on_body: OnBody) -> "asyncio.Future[int]":
        """Send a request, and return without waiting for its answer."""
        self._done = asyncio.get_running_loop().create_future()
        # Who does not wait for it does not want to hear of its failure either.
        self._done.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._on_body = on_body
        self._data, self._in_body = b"", False
        self.transport.write(request)
        return self._done

    def close(self) -> None:
        self.open = False
        self.transport.close()

    def abort(self) -> None:
        """Hang up: with a reset where bytes are still under way."""
        self.open = False
        self.transport.abort()
        if self._done is not None:
            self._done.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        if self._done is not None and not self._done.done():
            self._done.set_exception(ConnectionResetError("the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        at = now_us()
        if self.bytes_per_s:
            self._rest(len(data) / self.bytes_per_s)
        self._data = self._data + data if self._data else data
        if not self._in_body and not self._head():
            return
        if self._chunked:
            self._chunks(at)
        else:
            self._plain(at)

    def _rest(self, seconds: float) -> None:
        """Read nothing for so long."""
        self.transport.pause_reading()
        asyncio.get_running_loop().call_later(seconds, self._read_on)

    def _read_on(self) -> None:
        if self.open:
            self.transport.resume_reading()

    def _head(self) -> bool:
        head, blank, rest = self._data.partition(b"\r\n\r\n")
        if not blank:
            return False
        self._status = int(head[9:12])
        self._in_body, self._data = True, rest
        self._chunked = _CHUNKED.search(head) is not None
        length = _LENGTH.search(head)
        self._missing = int(length[1]) if length else 0
        self._closes = _CLOSE.search(head) is not None
        return True

    def _plain(self, at: int) -> None:
        self._missing -= len(self._data)
        self._on_body(self._data, at)
        self._data = b""
        if self._missing <= 0:
            self._end()

    def _chunks(self, at: int) -> None:
        data, start = self._data, 0
        while (end := data.find(b"\r\n", start)) >= 0:
            size = int(data[start:end], 16)
            if len(data) < end + size + 4:
                break
            start = end + size + 4
            if not size:
                self._end()
                break
            self._on_body(data[end + 2 : end + 2 + size], at)
        self._data = data[start:]

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
        """One exchange; the status. Who is cancelled in it hangs up."""
        connection = await self._connection()
        try:
            status = await connection.exchange(self.request(method, path, body, accept=accept), on_body)
        except BaseException:
            connection.abort()
            raise
        if connection.open:
            self._idle.append(connection)
        return status

    async def stream(self, method: str, path: str, body: bytes = b"", *, on_body: OnBody, accept: str = "*/*") -> None:
        """One exchange that has to be answered with 200. Raises RuntimeError, and OSError."""
        status = await self.send(method, path, body, on_body=on_body, accept=accept)
        if status != 200:
            raise RuntimeError(f"{method} {path}: {status}")

    async def fetch(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """One exchange with its whole body."""
        pieces: list[bytes] = []
        status = await self.send(method, path, body, on_body=lambda data, at: pieces.append(data))
        return status, b"".join(pieces)

    def request(self, method: str, path: str, body: bytes = b"", *, accept: str = "*/*") -> bytes:
        """The bytes of a request."""
        head = (
            f"{method} {self._prefix}{path} HTTP/1.1\r\nhost: {self._host}:{self._port}\r\naccept: {accept}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    async def connect(self, *, receive_bytes: int | None = None) -> Connection:
        """A connection that is not shared. `receive_bytes` bounds what the kernel takes in before it is read."""
        plain = socket.socket()
        plain.setblocking(False)
        if receive_bytes is not None:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_connect(plain, (self._host, self._port))
        except BaseException:
            plain.close()
            raise
        _, connection = await loop.create_connection(Connection, sock=plain)
        return connection

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
        return await self.connect()
