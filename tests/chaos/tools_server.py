"""The tools of a campaign, as a process that nobody kills: `python tools_server.py PORT LOG`.

Each call is an effect: a line in the log, on the disk before the tool answers. A call takes part of its time before
the effect and part after it, so that a worker may be lost on either side; once begun it goes on, whoever is still
there.
"""

import asyncio
import contextlib
import json
import os
import sys
import time
from typing import BinaryIO

from serving import answer, serve


class Tools:
    def __init__(self, log: BinaryIO) -> None:
        self._log = log
        self._running: set[asyncio.Task[None]] = set()

    async def handle(self, path: str, headers: dict[str, str], body: bytes, writer: asyncio.StreamWriter) -> None:
        arguments = json.loads(body)
        done = asyncio.create_task(self._run(path.strip("/"), headers.get("idempotency-key", ""), arguments))
        self._running.add(done)
        done.add_done_callback(self._running.discard)
        await asyncio.shield(done)
        answer(writer, json.dumps({"done": f"{arguments['turn']}.{arguments['round']}.{arguments['place']}"}).encode())

    async def _run(self, tool: str, key: str, arguments: dict[str, object]) -> None:
        half = float(str(arguments["ms"])) / 2000
        await asyncio.sleep(half)
        line = json.dumps({"key": key, "tool": tool, "arguments": arguments, "at": time.time()})
        self._log.write(line.encode() + b"\n")
        self._log.flush()
        os.fsync(self._log.fileno())
        await asyncio.sleep(half)


def main() -> None:
    with open(sys.argv[2], "ab") as log, contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(Tools(log).handle, int(sys.argv[1])))


if __name__ == "__main__":
    main()
