"""Head and body leave together: the API's answers, and requests to providers."""

import socket
from typing import Any

from httpcore import SyncBackend

from api.gunicorn_worker import HeldHead
from worker.providers.wire import Wire

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"


class Sent:
    """A client's socket that remembers what it is given."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def sendall(self, data: bytes) -> None:
        self.pieces.append(data)


def test_an_answer_s_head_waits_for_the_first_piece_of_its_body_and_nothing_else_waits() -> None:
    sent = Sent()
    held: Any = HeldHead(sent)

    held.sendall(HEAD)
    assert sent.pieces == []
    held.sendall(b"2\r\nhi\r\n")
    held.sendall(b"0\r\n\r\n")  # ends as a head does
    held.flush()

    assert sent.pieces == [HEAD + b"2\r\nhi\r\n", b"0\r\n\r\n"]


def test_the_head_of_an_answer_without_a_body_is_sent_at_its_end() -> None:
    sent = Sent()
    held: Any = HeldHead(sent)

    held.sendall(HEAD)
    held.flush()
    held.flush()

    assert sent.pieces == [HEAD]


def test_a_request_is_sent_once_its_answer_is_read() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        wire = Wire(SyncBackend().connect_tcp("127.0.0.1", server.getsockname()[1]))
        peer, _ = server.accept()
        with peer:
            wire.write(b"POST / HTTP/1.1\r\n\r\n", 5)
            wire.write(b"body", 5)
            peer.settimeout(0.05)
            early = _received(peer)
            peer.settimeout(5)
            peer.sendall(HEAD)

            assert wire.read(1000, 5) == HEAD
            assert early == b""
            assert peer.recv(1000) == b"POST / HTTP/1.1\r\n\r\nbody"
        wire.close()


def _received(peer: socket.socket) -> bytes:
    try:
        return peer.recv(1000)
    except TimeoutError:
        return b""
