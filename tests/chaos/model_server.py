"""The fake inference server of a campaign, as a process that nobody kills: `python model_server.py PORT`.

OpenAI-compatible and without memory: what it answers follows from the conversation alone. One that is broken (a call
without an answer, an answer to another call) it refuses with a 400, as real servers do, and the turn fails for it.
"""

import asyncio
import contextlib
import json
import sys
from collections.abc import Iterator
from typing import Any

from plans import Plan
from serving import answer, serve

Json = dict[str, Any]

MODEL = "planned"
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


async def handle(path: str, headers: dict[str, str], body: bytes, writer: asyncio.StreamWriter) -> None:
    if path.endswith("/models"):
        answer(writer, json.dumps({"object": "list", "data": [{"id": MODEL, "object": "model"}]}).encode())
        return
    messages = json.loads(body)["messages"]
    if (broken := fault_of(messages)) is not None:
        sys.stderr.write(f"{broken}: {messages}\n")
        answer(writer, json.dumps({"error": {"message": broken}}).encode(), status=400)
        return
    plan, number = what_is_next(messages)
    calls = number < len(plan.rounds)
    await asyncio.sleep((plan.rounds[number].quiet_ms if calls else plan.quiet_ms) / 1000)
    writer.write(_HEAD)
    for word in plan.preface(number) if calls else plan.words():
        if writer.is_closing():
            return
        _send(writer, {"content": word})
        await asyncio.sleep(plan.token_ms / 1000)
    if calls:
        for place, call in enumerate(plan.calls(number)):
            function = {"name": call["name"], "arguments": json.dumps(call["arguments"])}
            _send(
                writer, {"tool_calls": [{"index": place, "id": call["id"], "type": "function", "function": function}]}
            )
    _send(writer, {}, "tool_calls" if calls else "stop")
    writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")


def what_is_next(messages: list[Json]) -> tuple[Plan, int]:
    """The plan in the last user message, and how many of its rounds have been."""
    asked = max(place for place, message in enumerate(messages) if message["role"] == "user")
    plan = Plan.parse(messages[asked]["content"])
    return plan, sum(bool(message.get("tool_calls")) for message in messages[asked + 1 :])


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
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(handle, int(sys.argv[1])))


if __name__ == "__main__":
    main()
