"""A server that answers PING and INFO as a Redis of some version does."""

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class OldRedis(socketserver.StreamRequestHandler):
    """Speaks just enough of the protocol to be asked for its version."""

    version = "0"

    def handle(self) -> None:
        while command := self._command():
            self.wfile.write(self._reply(command[0].upper()))

    def _command(self) -> list[bytes]:
        count = self.rfile.readline()[1:]
        return [self._argument() for _ in range(int(count or 0))]

    def _argument(self) -> bytes:
        length = int(self.rfile.readline()[1:])
        return self.rfile.read(length + 2)[:length]

    def _reply(self, name: bytes) -> bytes:
        if name == b"PING":
            return b"+PONG\r\n"
        if name == b"HELLO":
            return b"%1\r\n+proto\r\n:3\r\n"
        if name == b"INFO":
            text = f"# Server\r\nredis_version:{self.version}\r\n".encode()
            return b"$%d\r\n%s\r\n" % (len(text), text)
        return b"-ERR unknown command\r\n"


@contextmanager
def old_redis(version: str) -> Iterator[str]:
    """The URL of a server of `version`."""
    handler = type("OldRedisOfVersion", (OldRedis,), {"version": version})
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"redis://127.0.0.1:{server.server_address[1]}/0"
        finally:
            server.shutdown()
            thread.join()
