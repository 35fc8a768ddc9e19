"""HTTP for many clients in one process at little cost: a connection for each request, on bare asyncio streams."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]


class Broken(Exception):
    """The connection was refused or cut, or said nothing for too long: nobody knows what became of the request."""


@dataclass(frozen=True)
class Reply:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Streaming:
    """An answer whose body is read as it comes."""

    def __init__(self, status: int, headers: Mapping[str, str], reader: asyncio.StreamReader) -> None:
        self.status = status
        self.headers = headers
        self._reader = reader

    async def pieces(self, patience_s: float) -> AsyncIterator[bytes]:
        """The body to its end. Raises Broken where the connection ends before it, or is silent for `patience_s`."""
        with _broken():
            if self.headers.get("transfer-encoding") == "chunked":
                while size := int(await asyncio.wait_for(self._reader.readline(), patience_s) or b"x", 16):
                    yield (await self._reader.readexactly(size + 2))[:-2]
            else:
                yield await asyncio.wait_for(
                    self._reader.readexactly(int(self.headers.get("content-length", 0))), patience_s
                )


@asynccontextmanager
async def requested(
    port: int, method: str, path: str, *, body: Json | None = None, headers: Mapping[str, str] = {}, patience_s: float
) -> AsyncIterator[Streaming]:
    """Send a request; the block gets its answer, and the connection ends with it. Raises Broken."""
    data = b"" if body is None else json.dumps(body).encode()
    given = {"host": "127.0.0.1", "connection": "close", "content-length": str(len(data)), **headers}
    if data:
        given["content-type"] = "application/json"
    head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    with _broken():
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
    try:
        with _broken():
            writer.write(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + data)
            text = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), patience_s)
            first, *lines = text.decode("latin-1").split("\r\n")
            fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            answer = Streaming(int(first.split(" ")[1]), fields, reader)
        yield answer
    finally:
        writer.close()


async def request(port: int, method: str, path: str, *, patience_s: float = 20.0, **options: Any) -> Reply:
    """Send a request and read its whole answer. Raises Broken."""
    async with requested(port, method, path, patience_s=patience_s, **options) as answer:
        pieces = [] if answer.status in (204, 304) else [piece async for piece in answer.pieces(patience_s)]
        return Reply(answer.status, answer.headers, b"".join(pieces))


@contextlib.contextmanager
def _broken() -> Any:
    try:
        yield
    except (OSError, TimeoutError, EOFError, ValueError, IndexError) as error:
        raise Broken(repr(error)) from error
