"""The child behind `worker.providers.tools_mcp_bridge`: speaks MCP, for a worker that runs under gevent.

Input, a JSON object per line: `{id, op: list_tools, endpoint}`, `{id, op: call, endpoint, name, arguments, key}`,
`{id, op: cancel}` for the request with that id, `{op: forget, endpoint}`. Output: `{id, result}` or `{id, fault}` for
each request that was not cancelled. It ends with its input.
"""

import asyncio
import logging
import os
import signal
import sys
from typing import IO, Any

import orjson

from worker.providers.tools_mcp_faults import Fault, Json, RequestFailed
from worker.providers.tools_mcp_session import FAREWELL_S, Sessions

# A line holds the arguments of a call, and those a model's reply at most.
MAX_LINE_BYTES = 64 * 1_048_576


class Server:
    """Runs each request in a task of its own."""

    def __init__(self, output: IO[bytes]) -> None:
        self._output = output
        self._sessions = Sessions()
        self._tasks: dict[int, asyncio.Task[None]] = {}

    async def run(self, lines: asyncio.StreamReader) -> None:
        """Until the parent has gone."""
        while line := await lines.readline():
            self._take(orjson.loads(line))
        for task in self._tasks.values():
            task.cancel()
        async with asyncio.timeout(FAREWELL_S):
            await self._sessions.close()

    def _take(self, request: Json) -> None:
        if request["op"] == "forget":
            self._sessions.forget(request["endpoint"])
            return
        number = request["id"]
        if request["op"] == "cancel":
            task = self._tasks.get(number)
            if task is not None:
                task.cancel()
            return
        task = asyncio.create_task(self._answer(number, request))
        self._tasks[number] = task
        task.add_done_callback(lambda _: self._tasks.pop(number, None))

    async def _answer(self, number: int, request: Json) -> None:
        try:
            answer: Json = {"id": number, "result": await self._do(request)}
        except RequestFailed as failed:
            answer = {"id": number, "fault": failed.fault.as_json()}
        except Exception as error:  # a fault of ours or the SDK's: it must not leave the worker waiting
            answer = {"id": number, "fault": Fault(kind="interrupted", said=type(error).__name__).as_json()}
        # Blocking: while the worker does not read, nothing here is of use to it.
        self._output.write(orjson.dumps(answer) + b"\n")
        self._output.flush()

    async def _do(self, request: Json) -> Any:
        endpoint = request["endpoint"]
        if request["op"] == "list_tools":
            return await self._sessions.list_tools(endpoint)
        if request["op"] == "call":
            return await self._sessions.call(endpoint, request["name"], request["arguments"], request["key"])
        raise ValueError(f"no such request: {request['op']}")


async def _serve(output: IO[bytes]) -> None:
    lines = asyncio.StreamReader(limit=MAX_LINE_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    await Server(output).run(lines)


def main() -> None:
    # The parent's signals reach its whole process group; this process ends with its input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # What libraries log may hold what the server said; faults go to the worker, which knows what is secret.
    logging.disable(logging.CRITICAL)
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever is printed is no answer
    try:
        asyncio.run(_serve(output))
    except (TimeoutError, BrokenPipeError):
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
