"""Connections to providers: used again, given up, bounded; on a real server that counts them."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpcore
import pytest

from worker.providers.connections import Connections

TIMEOUT = {"pool": 5.0, "connect": 5.0, "write": 5.0, "read": 5.0}


class Server(ThreadingHTTPServer):
    """Answers each request with its path, and knows how many connections there have been."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.made = 0
        self.sockets: list[Any] = []

    def get_request(self) -> Any:
        accepted = super().get_request()
        self.made += 1
        self.sockets.append(accepted[0])
        return accepted

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close" if self.path == "/close" else "keep-alive")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def connections() -> Iterator[Connections]:
    connections = Connections(max_connections=10, keepalive_s=60)
    yield connections
    connections.close()


def ask(connections: Connections, url: str, body: bytes = b"hello") -> bytes:
    with connections.stream("POST", url, headers=[], timeout=TIMEOUT, content=body) as response:
        return response.read()


def test_one_request_after_the_other_uses_one_connection(server: Server, connections: Connections) -> None:
    assert [ask(connections, server.url, b"%d" % number) for number in range(5)] == [b"0", b"1", b"2", b"3", b"4"]
    assert server.made == 1


def test_so_many_at_once_have_so_many_connections_and_the_last_one_used_is_taken_first(
    server: Server, connections: Connections
) -> None:
    with ExitStack() as open_ones:
        for _ in range(3):
            request = connections.stream("POST", server.url, headers=[], timeout=TIMEOUT, content=b"x")
            open_ones.enter_context(request).read()
        assert server.made == 3

    for _ in range(5):
        ask(connections, server.url)
    assert server.made == 3


def test_a_connection_that_the_server_has_closed_is_not_used_again(server: Server, connections: Connections) -> None:
    ask(connections, f"{server.url}/close")
    ask(connections, server.url)
    server.sockets[-1].shutdown(2)

    assert ask(connections, server.url) == b"hello"
    assert server.made == 3


def test_a_body_that_was_left_unread_costs_its_connection(server: Server, connections: Connections) -> None:
    with connections.stream("POST", server.url, headers=[], timeout=TIMEOUT, content=b"x" * 100_000):
        pass

    assert ask(connections, server.url) == b"hello"
    assert server.made == 2


def test_one_that_has_rested_too_long_is_closed_with_the_next_use(server: Server) -> None:
    connections = Connections(max_connections=10, keepalive_s=0)

    ask(connections, server.url)
    ask(connections, server.url)

    assert server.made == 2
    assert sum(map(len, connections._idle.values())) == 1
    connections.close()


def test_whoever_finds_no_place_in_time_is_told(server: Server) -> None:
    connections = Connections(max_connections=1, keepalive_s=60)
    with connections.stream("POST", server.url, headers=[], timeout=TIMEOUT, content=b"x") as response:
        with pytest.raises(httpcore.PoolTimeout):
            with connections.stream("POST", server.url, headers=[], timeout={**TIMEOUT, "pool": 0.01}, content=b""):
                pytest.fail("there is no place")
        response.read()

    assert ask(connections, server.url) == b"hello"
    connections.close()


def test_a_server_that_is_not_there_costs_no_place(server: Server) -> None:
    connections = Connections(max_connections=1, keepalive_s=60)
    for _ in range(3):
        with pytest.raises(httpcore.ConnectError):
            ask(connections, "http://127.0.0.1:9")

    assert ask(connections, server.url) == b"hello"
    connections.close()


def test_two_servers_have_connections_of_their_own(server: Server, connections: Connections) -> None:
    with Server() as other:
        threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        for url in (server.url, other.url, server.url, other.url):
            ask(connections, url)
        other.shutdown()

        assert (server.made, other.made) == (1, 1)


def test_closing_spares_what_is_in_use(server: Server) -> None:
    connections = Connections(max_connections=10, keepalive_s=60)
    ask(connections, server.url)
    with connections.stream("POST", server.url, headers=[], timeout=TIMEOUT, content=b"whole") as response:
        connections.close()
        assert response.read() == b"whole"

    assert not any(connections._idle.values())


def test_many_threads_share_them(server: Server, connections: Connections) -> None:
    with ThreadPoolExecutor(8) as pool:
        bodies = [b"%d" % number for number in range(400)]
        assert list(pool.map(lambda body: ask(connections, server.url, body), bodies)) == bodies

    assert server.made <= 10
