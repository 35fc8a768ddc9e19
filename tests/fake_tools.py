"""An HTTP server on a real socket for tools: each path does what a test tells it to."""

from collections.abc import Callable
from typing import Any

from fake_upstream import Failure, FakeUpstream, Reply, Request, Stream


class FakeTools(FakeUpstream):
    """Answers by path, without its query; what nobody gave a reply to is a 404."""

    def __init__(self, *, port: int = 0) -> None:
        super().__init__(port=port)
        self.replies: dict[str, Reply | Callable[[Request], Reply]] = {}

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _choose(self, request: Request) -> Reply:
        reply = self.replies.get(request.path.partition("?")[0])
        if reply is None:
            return Failure(status=404, body={"detail": "Not Found"})
        return reply(request) if callable(reply) else reply


def answer(body: Any, *, status: int = 200, content_type: str = "application/json", **headers: str) -> Failure:
    """A whole answer."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Failure(status=status, body=body, content_type=content_type, headers=names)


def endless(piece: bytes, *, content_type: str = "text/plain") -> Stream:
    """A body that never ends."""
    return Stream(pieces=_Endless(piece), content_type=content_type)


class _Endless(list):  # type: ignore[type-arg]
    def __init__(self, piece: bytes) -> None:
        super().__init__()
        self._piece = piece

    def __iter__(self) -> Any:
        while True:
            yield self._piece


HANG = Stream(pieces=(), hang_before_head=True)
CUT = Stream(pieces=(b'{"half": ',), end="cut", content_type="application/json")
