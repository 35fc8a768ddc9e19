"""The API under its real server: bodies as they come over the wire, and how it stops."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from apikit import HELLO, REGISTRY, Api, settings_for
from waiting import wait_for

from shared.settings import Settings

ROOT = Path(__file__).parents[2]
TYPE = {"Content-Type": "application/json"}


@dataclass
class Server:
    """A running gunicorn, and a session in its store."""

    settings: Settings
    process: subprocess.Popen[bytes]
    session: str = ""

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        """Status and JSON body of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.settings.port, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or b"null")
        finally:
            connection.close()

    def raw(self, request: bytes) -> bytes:
        """Whatever comes back for `request`, until the server has closed the connection."""
        with socket.create_connection(("127.0.0.1", self.settings.port), timeout=60) as connection:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: connection.recv(65536), b""))

    def answers(self) -> bool:
        try:
            return self.ask("GET", "/v1/health/live")[0] == 200
        except OSError:
            assert self.process.poll() is None
            return False


@pytest.fixture
def server(redis_url: str, key_prefix: str) -> Iterator[Server]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        settings = settings_for(redis_url, key_prefix, port=free.getsockname()[1])
    api = Api.on(redis_url, key_prefix)
    command = (sys.executable, "-m", "gunicorn", "-c", "python:api.gunicorn_conf", "api.wsgi:app")
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **settings.as_environ(), "TURNSTONE_CONFIG": ""})
    try:
        server = Server(settings, process, api.session())
        api.services.registry.publish(REGISTRY)
        wait_for(server.answers, "the server answers")
        yield server
    finally:
        process.terminate()
        process.wait(20)


def chunks(count: int) -> Iterator[bytes]:
    """A body of unknown length: `count` times a hundred kilobytes."""
    yield b'{"x": "'
    for _ in range(count):
        yield b"a" * 100_000
    yield b'", "messages": [{"role": "user", "content": "hello"}]}'


def is_problem(answer: bytes, status: int) -> bool:
    head, _, body = answer.partition(b"\r\n\r\n")
    return b"application/problem+json" in head and json.loads(body)["status"] == status


def test_bodies_of_every_framing_are_read_up_to_the_limit_and_refused_beyond(server: Server) -> None:
    turn = f"{server.session}/turn"

    assert server.ask("POST", turn, chunks(1), TYPE)[0] == 202
    assert server.ask("POST", turn, chunks(79), TYPE)[0] == 202
    assert server.ask("POST", turn, chunks(81), TYPE)[1]["status"] == 413
    assert server.ask("POST", turn, chunks(400), TYPE)[1]["status"] == 413
    # This client reads nothing before it has sent all: closed on too early, it would see a reset and no answer.
    assert server.ask("POST", turn, b"x" * 60_000_000, TYPE)[1]["status"] == 413


def test_requests_that_lie_about_themselves_get_problems(server: Server) -> None:
    head = f"POST {server.session}/turn HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n".encode()

    assert is_problem(server.raw(head + b"Content-Length: 99999999999\r\n\r\n{"), 413)
    assert is_problem(server.raw(head + b"Content-Length: 50\r\n\r\n{}"), 400)
    assert is_problem(server.raw(head + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n"), 400)
    assert is_problem(server.raw(head + b"Content-Length: -5\r\n\r\n{}"), 400)
    assert is_problem(server.raw(b"POST /v1/agents\x00 HTTP/1.1\r\nHost: x\r\n\r\n"), 400)
    assert is_problem(server.raw(b"GET /v1/agents/" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"), 414)
    assert is_problem(server.raw(b"GET /v1/agents HTTP/1.1\r\nX: " + b"a" * 9000 + b"\r\n\r\n"), 431)
    assert is_problem(server.raw(b"GET /v1/agents/\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n"), 400)
    assert is_problem(server.raw(b"GET /v1/agents/%FF%FE HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"), 404)


def test_a_client_that_goes_away_in_mid_body_changes_nothing(server: Server) -> None:
    head = f"POST {server.session}/turn HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n".encode()
    with socket.create_connection(("127.0.0.1", server.settings.port)) as connection:
        connection.sendall(head + b'Content-Length: 500\r\n\r\n{"messages": [')

    assert server.ask("GET", server.session)[1]["turns"] == []


def test_a_stop_ends_tails_and_waits_and_tells_clients_to_come_back(server: Server) -> None:
    turn = f"{server.session}/turn"
    location = server.ask("POST", turn, json.dumps(HELLO), TYPE)[1]["turn_id"]
    told: dict[str, bytes] = {}
    waiting = threading.Event()

    def follow(name: str, method: str, path: str, body: bytes | None) -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", server.settings.port, timeout=60)) as connection:
            connection.request(method, path, body, TYPE)
            if name == "wait":
                waiting.set()
            answer = connection.getresponse()
            if name != "wait":
                told[name] = answer.read1(65536)
            told[name] = told.get(name, b"") + answer.read()

    stream, wait = (json.dumps({**HELLO, "stream": value}).encode() for value in (True, False))
    threads = [
        threading.Thread(target=follow, args=("events", "GET", f"{turn}/{location}/events", None)),
        threading.Thread(target=follow, args=("stream", "POST", turn, stream)),
        threading.Thread(target=follow, args=("wait", "POST", turn, wait)),
    ]
    for thread in threads:
        thread.start()
    wait_for(lambda: told.keys() >= {"events", "stream"} and waiting.is_set(), "all three are under way")
    wait_for(lambda: len(server.ask("GET", server.session)[1]["turns"]) == 3, "all three turns are accepted")

    server.process.send_signal(signal.SIGTERM)

    assert server.process.wait(20) == 0
    for thread in threads:
        thread.join(20)
    assert told["events"].endswith(b": the server restarts, reconnect\n")
    assert b'"code":"restarting"' in told["stream"]
    assert json.loads(told["wait"])["error"]["code"] == "restarting"
