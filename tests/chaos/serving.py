"""The least HTTP server that the fakes of a campaign need: one handler, keep-alive, bodies with a length."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

Handler = Callable[[str, dict[str, str], bytes, asyncio.StreamWriter], Awaitable[None]]
"""Given path, headers (names in lower case) and body, it writes a whole answer."""


async def serve(handler: Handler, port: int) -> None:
    """Serve on loopback until the process is killed."""

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                headers = {
                    name.strip().lower(): value.strip()
                    for name, _, value in (line.partition(":") for line in head[1:] if line)
                }
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                await handler(head[0].split(" ")[1], headers, body, writer)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(connection, "127.0.0.1", port, limit=1 << 20, backlog=1024)
    async with server:
        await server.serve_forever()


def answer(writer: asyncio.StreamWriter, body: bytes, *, status: int = 200, kind: str = "application/json") -> None:
    """Write a whole answer."""
    head = f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
