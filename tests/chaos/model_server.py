"""The fake inference server of a campaign, as a process that nobody kills: `python model_server.py PORT LOG`.

OpenAI-compatible and without memory: what it answers follows from the conversation alone. One that is broken (a call
without an answer, an answer to another call) it refuses with a 400, as real servers do, and the turn fails for it.
What stood in the user's messages besides their plans is a line in the log for each request. Embeddings take up to a
second, so that insert jobs meet.
"""

import asyncio
import contextlib
import json
import sys
from collections.abc import Iterator
from hashlib import sha256
from typing import Any, TextIO
from zlib import crc32

from memory_plans import DIMENSIONS, EMBEDDING
from plans import Plan
from serving import answer, serve

Json = dict[str, Any]

MODEL = "planned"
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class Model:
    """Answers, and writes down what it was asked."""

    def __init__(self, log: TextIO) -> None:
        self._log = log

    async def handle(self, path: str, headers: dict[str, str], body: bytes, writer: asyncio.StreamWriter) -> None:
        if path.endswith("/models"):
            listed = [{"id": name, "object": "model"} for name in (MODEL, EMBEDDING)]
            answer(writer, json.dumps({"object": "list", "data": listed}).encode())
        elif path.endswith("/embeddings"):
            await _embed(json.loads(body)["input"], writer)
        else:
            await self._reply(json.loads(body)["messages"], writer)

    async def _reply(self, messages: list[Json], writer: asyncio.StreamWriter) -> None:
        if (broken := fault_of(messages)) is not None:
            sys.stderr.write(f"{broken}: {messages}\n")
            answer(writer, json.dumps({"error": {"message": broken}}).encode(), status=400)
            return
        plan, number, context, earlier = what_is_next(messages)
        asked = {"key": plan.key, "round": number, "context": sha256(context.encode()).hexdigest(), "earlier": earlier}
        self._log.write(json.dumps(asked) + "\n")
        self._log.flush()
        calls = number < len(plan.rounds)
        await asyncio.sleep((plan.rounds[number].quiet_ms if calls else plan.quiet_ms) / 1000)
        writer.write(_HEAD)
        for word in plan.preface(number) if calls else plan.words():
            if writer.is_closing():
                return
            _send(writer, {"content": word})
            await asyncio.sleep(plan.token_ms / 1000)
        for place, call in enumerate(plan.calls(number) if calls else ()):
            function = {"name": call["name"], "arguments": json.dumps(call["arguments"])}
            _send(
                writer, {"tool_calls": [{"index": place, "id": call["id"], "type": "function", "function": function}]}
            )
        _send(writer, {}, "tool_calls" if calls else "stop")
        writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")


async def _embed(texts: list[str], writer: asyncio.StreamWriter) -> None:
    """The same vector for the same text. One text is a question, for which somebody waits."""
    await asyncio.sleep(crc32(texts[0].encode()) % (50 if len(texts) == 1 else 1000) / 1000)
    vectors = [[1.0 + crc32(f"{number} {text}".encode()) % 97 for number in range(DIMENSIONS)] for text in texts]
    data = [{"object": "embedding", "index": place, "embedding": vector} for place, vector in enumerate(vectors)]
    answer(writer, json.dumps({"object": "list", "model": EMBEDDING, "data": data}).encode())


def what_is_next(messages: list[Json]) -> tuple[Plan, int, str, int]:
    """The plan in the last user message, how many of its rounds have been, what stands there besides, and in how many
    earlier user messages something does."""
    users = [place for place, message in enumerate(messages) if message["role"] == "user"]
    *before, (plan, context) = [Plan.parse(messages[place]["content"]) for place in users]
    done = sum(bool(message.get("tool_calls")) for message in messages[users[-1] + 1 :])
    return plan, done, context, sum(bool(rest) for _, rest in before)


def fault_of(messages: list[Json]) -> str | None:
    """What is wrong with a conversation: every call has one answer, right after it."""
    awaited: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            if message["tool_call_id"] not in awaited:
                return f"an answer to the call {message['tool_call_id']}, which nobody made"
            awaited.remove(message["tool_call_id"])
        elif awaited:
            return f"no answer to the calls {awaited}"
        else:
            awaited = [call["id"] for call in message.get("tool_calls") or ()]
    return f"no answer to the calls {awaited}" if awaited else None


def _send(writer: asyncio.StreamWriter, delta: Json, reason: str | None = None) -> None:
    for data in _chunks(delta, reason):
        writer.write(b"%x\r\n%b\r\n" % (len(data), data))


def _chunks(delta: Json, reason: str | None) -> Iterator[bytes]:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    yield b"data: " + json.dumps({"id": "c", "object": "chat.completion.chunk", "choices": [choice]}).encode() + b"\n\n"


def main() -> None:
    with open(sys.argv[2], "a") as log, contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(Model(log).handle, int(sys.argv[1])))


if __name__ == "__main__":
    main()
