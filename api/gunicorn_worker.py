"""gunicorn's gevent worker, with problem documents for what is no HTTP and with tails that end at a shutdown."""

from contextlib import suppress
from typing import Any

import gevent
from gunicorn import util
from gunicorn.http.errors import LimitRequestHeaders, LimitRequestLine, ParseException
from gunicorn.workers.ggevent import GeventWorker

from shared import garbage


class HeldHead:
    """A client's socket, for one answer: its head waits for the first piece of its body. gunicorn writes them one after
    the other, which are two system calls and two packets."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._head: bytes | None = None
        self._has_begun = False

    def sendall(self, data: bytes) -> None:
        if not self._has_begun and data.endswith(b"\r\n\r\n"):
            self._has_begun, self._head = True, data
        else:
            self._client.sendall(self._take() + data)

    def flush(self) -> None:
        """Send the head of an answer without a body."""
        if self._head is not None:
            self._client.sendall(self._take())

    def _take(self) -> bytes:
        head, self._head = self._head, None
        return head or b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


_STATUS = {LimitRequestLine: 414, LimitRequestHeaders: 431}


class ApiWorker(GeventWorker):  # type: ignore[misc]
    """Serves the application of `api.wsgi`."""

    def run(self) -> None:
        """Serve, and connect to the broker meanwhile: the first submit need not wait for it."""
        gevent.spawn(self.wsgi.extensions["turnstone"].hints.warm)
        garbage.settle()
        super().run()

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> Any:
        held = HeldHead(sock)
        try:
            return super().handle_request(listener_name, req, held, addr)
        finally:
            with suppress(OSError):  # a client that is gone is noticed at the next read
                held.flush()

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Asked to stop: gunicorn takes no new requests, and would wait in vain for tails to end by themselves."""
        super().handle_exit(sig, frame)
        gevent.spawn(self._end_tails)

    def _end_tails(self) -> None:
        self.wsgi.extensions["turnstone"].tails.close()

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer to a request that cannot be parsed; anything else is left to gunicorn."""
        if not isinstance(exc, ParseException):
            super().handle_error(req, client, addr, exc)
            return
        # Imported here: the parent process loads this module too, before the standard library is patched.
        from api.problems import Problem

        status = _STATUS.get(type(exc), 400)
        self.log.warning("no HTTP request from %s: %s", addr, exc)
        detail = f"The server cannot read the request: {type(exc).__name__}. Check its line, headers and chunks."
        response = Problem(status=status, detail=detail, code="malformed_http").response()
        head = f"HTTP/1.1 {response.status}\r\nConnection: close\r\n{response.headers}"
        try:
            util.write_nonblock(client, head.encode("latin-1") + response.get_data())
        except OSError as error:
            self.log.debug("the client is gone: %s", error)
