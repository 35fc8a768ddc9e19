"""Connections to addresses that were checked before, and to no others."""

import ssl
import time
from collections.abc import Iterable, Sequence
from typing import Any

import httpcore

from worker.documents.errors import UnreadableDocument


class Deadline:
    """When everything has to be done."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self, at_most: float | None = None) -> float:
        """The seconds that may still be waited. Raises UnreadableDocument once there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise too_slow()
        return left if at_most is None else min(left, at_most)


class PinnedBackend(httpcore.NetworkBackend):
    """Connects to the first of `addresses` that answers, whatever host it is asked for.

    The host is still what httpcore writes into the request and checks certificates against. Names are not looked up
    here: a second look might find other addresses than those that were checked.
    """

    def __init__(self, addresses: Sequence[str], *, connect_s: float, deadline: Deadline) -> None:
        self._addresses = addresses
        self._connect_s = connect_s
        self._deadline = deadline
        self._backend = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        failure: Exception = httpcore.ConnectError()
        for address in self._addresses:
            patience = self._deadline.left(self._connect_s)
            try:
                stream = self._backend.connect_tcp(address, port, patience, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
            else:
                return _Stream(stream, self._deadline)
        raise failure


class _Stream(httpcore.NetworkStream):
    """Waits no longer than until the deadline, however slowly a peer hands out its bytes."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._deadline.left(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        stream = self._stream.start_tls(ssl_context, server_hostname, self._deadline.left(timeout))
        return _Stream(stream, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def too_slow() -> UnreadableDocument:
    """What is raised once the time is over."""
    problem = "The URL's server takes too long. Try again later, or send the document itself."
    return UnreadableDocument("url_too_slow", problem, retryable=True)
