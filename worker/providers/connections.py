"""Connections to servers, kept between requests.

httpcore speaks the protocol, and its pool is left out: whenever a request begins or ends, that looks at each of its
connections, and at all others for each that is idle. With 600 streams it took nine tenths of a worker's time.
"""

import ssl
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import httpcore

from worker.providers.wire import WireBackend


class Connections:
    """Takes the connection that was used last, or makes one; at most so many are in use at once.

    Safe to use from many greenlets or threads.
    """

    def __init__(self, *, max_connections: int, keepalive_s: float, ssl_context: ssl.SSLContext | None = None) -> None:
        self._places = threading.BoundedSemaphore(max_connections)
        self._keepalive_s = keepalive_s
        self._ssl_context = ssl_context
        self._backend = WireBackend()
        self._idle: dict[str, deque[httpcore.HTTPConnection]] = {}
        self._is_closed = False

    @contextmanager
    def stream(
        self,
        method: str,
        url: str,
        *,
        headers: Sequence[tuple[str, str]],
        timeout: Mapping[str, float],
        content: bytes | None = None,
    ) -> Iterator[httpcore.Response]:
        """A response whose body is still to be read; leaving closes it.

        `timeout` has the seconds for `pool` (a free place), `connect`, `write` and `read`. Raises httpcore's errors.
        """
        if not self._places.acquire(timeout=timeout["pool"]):
            raise httpcore.PoolTimeout
        try:
            origin = httpcore.URL(url).origin
            connection = self._kept(origin) or self._new(origin)
            try:
                extensions = {"timeout": dict(timeout)}
                with connection.stream(
                    method, url, headers=headers, content=content, extensions=extensions
                ) as response:
                    yield response
            finally:
                self._keep(origin, connection)
        finally:
            self._places.release()

    def close(self) -> None:
        """Close what is idle now; what is in use is closed after its use."""
        self._is_closed = True
        for idle in self._idle.values():
            while idle:
                idle.pop().close()

    def _new(self, origin: httpcore.Origin) -> httpcore.HTTPConnection:
        return httpcore.HTTPConnection(
            origin,
            ssl_context=self._ssl_context,
            keepalive_expiry=self._keepalive_s,
            network_backend=self._backend,
        )

    def _kept(self, origin: httpcore.Origin) -> httpcore.HTTPConnection | None:
        idle = self._idle.get(str(origin))
        while idle:
            connection = idle.pop()
            if not connection.has_expired():  # or closed by its server
                return connection
            connection.close()
        return None

    def _keep(self, origin: httpcore.Origin, connection: httpcore.HTTPConnection) -> None:
        if self._is_closed or not connection.is_idle():
            connection.close()
            return
        idle = self._idle.setdefault(str(origin), deque())
        # Those that nobody has needed for long lie at the other end.
        while idle:
            oldest = idle.popleft()
            if not oldest.has_expired():
                idle.appendleft(oldest)
                break
            oldest.close()
        idle.append(connection)
