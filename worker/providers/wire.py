"""Reads response bodies straight off the connection, because that is where relaying tokens spends its time.

httpcore (the engine of httpx) pools, connects, speaks TLS and parses heads. Bodies do not go through its HTTP
parser: with one token per chunk, that parser and the layers above it cost more than everything else together.
Measured in µs of CPU per token, plain / under gevent, one chunk per token on loopback: httpx `iter_raw` alone
65 / 102, `iter_lines` and the JSON 78 / 121, this with the JSON and the deltas 42 / 79; a bare socket 16 / 40.
`Wire` hands a response's head to the parser and nothing beyond it; `Body` undoes the chunked framing itself and
then tells the parser that the body has ended, so that the connection is used again.
"""

import math
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any
from weakref import WeakSet

import httpcore

READ_BYTES = 16_384
MAX_HEAD_BYTES = 65_536
MAX_SIZE_LINE_BYTES = 1_024
_TIMER_S = 5.0
"""Waits that are shorter have a timer of their own."""
_WATCH_S = 1.0

_BLANK_LINE = re.compile(rb"\n\r?\n")
_SIZE_LINE = re.compile(rb"(?:\r\n)?([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r\n")
_LAST_CHUNK = b"0\r\n\r\n"


class _Watch:
    """Ends waits that last too long, looking once a second.

    A timer for each token's wait, set and taken away, was a tenth of what reading it costs.
    """

    def __init__(self) -> None:
        self._wires: WeakSet[Wire] = WeakSet()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, wire: "Wire") -> None:
        with self._lock:
            self._wires.add(wire)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="wire-watch", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            time.sleep(_WATCH_S)
            now = time.monotonic()
            with self._lock:
                overdue = [wire for wire in self._wires if wire.due <= now]
            for wire in overdue:
                wire.end_wait()


_watch = _Watch()


class Wire(httpcore.NetworkStream):
    """A connection that ends each read of a response's head exactly where the head ends, and sends a request in one go.

    `patience` replaces the timeout that readers ask for, in seconds; it lasts until the next request. So the wait
    for a first token and for the next one may differ within one body.
    """

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream
        self._socket: socket.socket = stream.get_extra_info("socket")
        self._is_plain = not isinstance(self._socket, ssl.SSLSocket)
        self._is_overdue = False
        self.due = math.inf
        """When a wait is over that has no timer of its own."""
        self._socket_timeout: float | None = -1.0
        self._unsent: list[bytes] = []
        self._send_timeout: float | None = None
        self._held = b""
        self._in_head = True
        self.patience: float | None = None
        self.at_body = False

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        self.at_body = False
        if self._unsent:
            self._send()
        if self._in_head:
            return self._read_head(timeout)
        return self.take(timeout)

    def take(self, timeout: float | None = None) -> bytes:
        """The next bytes, whatever they are; none at the end of the connection."""
        if self._held:
            held, self._held = self._held, b""
            return held
        if self.patience is not None:
            timeout = self.patience
        if self._is_plain and timeout is not None and timeout >= _TIMER_S:
            self.due = time.monotonic() + timeout
            timeout = None
        try:
            # By the socket itself: httpcore's read sets the timeout each time and enters a context manager.
            if timeout != self._socket_timeout:
                self._socket.settimeout(timeout)
                self._socket_timeout = timeout
                _watch.add(self)
            data = self._socket.recv(READ_BYTES)
            if self._is_overdue:
                raise TimeoutError
            self.due = math.inf
            return data
        except TimeoutError as error:
            raise httpcore.ReadTimeout(error) from error
        except OSError as error:
            raise httpcore.ReadError(error) from error

    def end_wait(self) -> None:
        """Have the reader that waits too long raise ReadTimeout. The connection is of no use any more."""
        self._is_overdue = True
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def give_back(self, data: bytes) -> None:
        """Let the next read return `data`."""
        self._held = data
        self._in_head = False

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Keep it until the answer is read: head and body would else be two system calls, and two packets."""
        self._held = b""
        self._in_head = True
        self.patience = None
        self._unsent.append(buffer)
        self._send_timeout = timeout

    def _send(self) -> None:
        request, self._unsent = b"".join(self._unsent), []
        self._socket_timeout = -1.0
        # A server may have answered before it had read all, and closed.
        with suppress(httpcore.WriteError):
            self._stream.write(request, self._send_timeout)

    def close(self) -> None:
        self._stream.close()

    def start_tls(self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None) -> "Wire":
        return Wire(self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable" and self._is_plain:
            return self._is_readable()
        return self._stream.get_extra_info(info)

    def _is_readable(self) -> bool:
        """Whether an idle connection has something to read: its end. Asked of each before it is used again.

        By a look and not by httpcore's poll: under gevent that lets all other greenlets run first, and a request
        waits for them.
        """
        self._socket.settimeout(0)
        self._socket_timeout = 0
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def _read_head(self, timeout: float | None) -> bytes:
        data = b""
        while True:
            more = self.take(timeout)
            data += more
            # The parser would wait for a whole line of it.
            if data[:5] != b"HTTP/"[: len(data)]:
                raise httpcore.RemoteProtocolError("illegal beginning of a response")
            end = _BLANK_LINE.search(data)
            if end is not None:
                data, self._held = data[: end.end()], data[end.end() :]
                # After an interim response (1xx) comes another head.
                self._in_head = data.partition(b" ")[2][:1] == b"1"
                self.at_body = not self._in_head
                return data
            if not more or len(data) > MAX_HEAD_BYTES:
                self._in_head = False
                return data


class WireBackend(httpcore.NetworkBackend):
    """Makes plain blocking connections (gevent patches them in a worker), each as a `Wire`."""

    def __init__(self) -> None:
        self._backend = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> Wire:
        return Wire(self._backend.connect_tcp(host, port, timeout, local_address, socket_options))


class Body:
    """The body of a response, in pieces as they come in. A second loop goes on where the first one stopped.

    Raises httpcore's ReadTimeout, ReadError and RemoteProtocolError.
    """

    def __init__(self, response: httpcore.Response, *, patience_s: float) -> None:
        self._response = response
        self._wire: Wire = response.extensions["network_stream"]
        self.be_patient(patience_s)
        direct = self._wire.at_body and is_chunked(response)
        self._pieces = self._chunked() if direct else iter(response.iter_stream())

    def be_patient(self, seconds: float) -> None:
        """How long to wait for the next bytes, from now on."""
        self._wire.patience = seconds

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    def _chunked(self) -> Iterator[bytes]:
        frames = ChunkedFrames()
        take = self._wire.take
        while not frames.ended:
            data = take()
            if not data:
                raise httpcore.RemoteProtocolError("peer closed connection in the middle of the body")
            data = frames.feed(data)
            if data:
                yield data
        self._wire.give_back(_LAST_CHUNK)
        yield from self._response.iter_stream()


def is_chunked(response: httpcore.Response) -> bool:
    """Whether the body is framed in chunks, and nothing but that."""
    return any(
        name.lower() == b"transfer-encoding" and value.strip().lower() == b"chunked" for name, value in response.headers
    )


class ChunkedFrames:
    """Undoes HTTP/1.1 chunked framing (RFC 9112, 7.1). `ended` once the last chunk has been read."""

    def __init__(self) -> None:
        self._rest = b""
        self._missing = 0
        self._in_trailers = False
        self.ended = False

    def feed(self, data: bytes) -> bytes:
        """The content in `data`. Raises RemoteProtocolError where a size should stand and does not."""
        if self._rest:
            data, self._rest = self._rest + data, b""
        content: list[bytes] = []
        at = 0
        while at < len(data) and not self._in_trailers:
            if self._missing:
                piece = data[at : at + self._missing]
                content.append(piece)
                at += len(piece)
                self._missing -= len(piece)
                continue
            line = _SIZE_LINE.match(data, at)
            if line is None:
                self._keep(data[at:])
                break
            at = line.end()
            self._missing = int(line[1], 16)
            self._in_trailers = not self._missing
        if self._in_trailers and not self.ended:
            self._trailers(data[at:])
        return content[0] if len(content) == 1 else b"".join(content)

    def _keep(self, rest: bytes) -> None:
        if len(rest) > MAX_SIZE_LINE_BYTES or b"\n" in rest[2:]:
            raise httpcore.RemoteProtocolError("illegal chunk size")
        self._rest = rest

    def _trailers(self, rest: bytes) -> None:
        self.ended = rest.startswith(b"\r\n") or b"\r\n\r\n" in rest
        if not self.ended:
            if len(rest) > MAX_HEAD_BYTES:
                raise httpcore.RemoteProtocolError("trailers without end")
            self._rest = rest
