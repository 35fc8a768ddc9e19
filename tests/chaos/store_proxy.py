"""Links between rooms and the store that fail on command: `python store_proxy.py STORE_PORT PORT…`.

One port for each room, so that the link of one alone can fail. Commands on standard input, one a line:

- `lose PORT COUNT`: of the next so many connections on which the store answers, the answer is thrown away and the
  connection cut. What was asked for has been done, and who asked does not learn it. Answers to the greetings of a new
  connection pass: nothing has been asked for yet.
- `stall PORT SECONDS`: nothing passes, either way; then all of it does.
- `cut PORT`: every connection is cut at once.

Each answer that was lost and each connection that was cut is a line on standard output.
"""

import asyncio
import contextlib
import sys
from dataclasses import dataclass, field

GREETINGS = 4


@dataclass(eq=False)
class Link:
    """What one room's connections go through."""

    port: int
    to_lose: int = 0
    stalled: bool = False
    open: set["Side"] = field(default_factory=set)

    def lose(self) -> None:
        self.to_lose -= 1
        say(f"lost {self.port}")

    def stall(self, stalled: bool) -> None:
        self.stalled = stalled
        for side in self.open:
            side.flow()

    def cut(self) -> None:
        for side in list(self.open):
            side.abort()
            say(f"cut {self.port}")


class Side(asyncio.Protocol):
    """One end of a connection; `other` is the end towards the store, or away from it."""

    def __init__(self, link: Link, *, from_store: bool) -> None:
        self.link = link
        self.other: Side | None = None
        self._from_store = from_store
        self._transport: asyncio.Transport | None = None
        self._early: list[bytes] = []
        self._answers = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.link.open.add(self)
        self.flow()
        for data in self._early:
            transport.write(data)

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            return
        if self._from_store:
            self._answers += 1
            if self.link.to_lose > 0 and self._answers > GREETINGS:
                self.link.lose()
                self.abort()
                return
        self.other.write(data)

    def write(self, data: bytes) -> None:
        if self._transport is None:
            self._early.append(data)
        elif not self._transport.is_closing():
            self._transport.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        self.link.open.discard(self)
        if self.other is not None and self.other._transport is not None:
            self.other._transport.close()

    def flow(self) -> None:
        """Read, or leave what comes with the system while the link stalls."""
        if self._transport is not None and not self._transport.is_closing():
            (self._transport.pause_reading if self.link.stalled else self._transport.resume_reading)()

    def abort(self) -> None:
        """Cut both ends."""
        for side in (self, self.other):
            if side is not None and side._transport is not None:
                side._transport.abort()


class Proxy:
    def __init__(self, store_port: int, ports: list[int]) -> None:
        self._store_port = store_port
        self._links = {port: Link(port) for port in ports}
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for link in self._links.values():
            await loop.create_server(lambda link=link: self._accepted(link), "127.0.0.1", link.port)  # type: ignore[misc]
        say("ready")
        commands = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
        while line := await commands.readline():
            self._obey(*line.decode().split())

    def _accepted(self, link: Link) -> Side:
        near, far = Side(link, from_store=False), Side(link, from_store=True)
        near.other, far.other = far, near
        self._start(self._connect(near, far))
        return near

    async def _connect(self, near: Side, far: Side) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: far, "127.0.0.1", self._store_port)
        except OSError:
            near.abort()

    def _obey(self, command: str, port: str, number: str = "0") -> None:
        link = self._links[int(port)]
        if command == "lose":
            link.to_lose = int(number)
        elif command == "cut":
            link.cut()
        elif command == "stall":
            self._start(self._stall(link, float(number)))

    async def _stall(self, link: Link, seconds: float) -> None:
        link.stall(True)
        await asyncio.sleep(seconds)
        link.stall(False)

    def _start(self, coroutine: "asyncio.Coroutine[None, None, None]") -> None:  # type: ignore[name-defined]
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    store_port, *ports = (int(text) for text in sys.argv[1:])
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(Proxy(store_port, ports).run())


if __name__ == "__main__":
    main()
