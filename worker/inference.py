"""Runs one inference step: asks the model and turns its deltas into events."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from shared.clock import Stamps
from shared.events import Json, StepComplete, StepProgress, StepStart
from shared.fold import HELD_REPLY
from shared.ids import new_step_id
from worker.journal import TurnWriter
from worker.providers.inference import (
    Delta,
    Finished,
    StopReason,
    TextDelta,
    ToolCallDelta,
    ToolCallDone,
)

STEP = "inference"
_DELTAS_PER_SHARE = 32


@dataclass(slots=True)
class Reply:
    """A model's reply as far as it has come."""

    text: list[str] = field(default_factory=list)
    calls: list[Json] = field(default_factory=list)
    stop_reason: StopReason = StopReason.END_OF_TURN
    usage: Json | None = None


def run_inference(
    writer: TurnWriter,
    *,
    deltas: Iterator[Delta],
    stamps: Stamps,
    last_one: bool,
    held: bool = False,
) -> None:
    """One step from start to end, of `deltas`. `last_one`: the turn may not ask again, so it ends with this reply.

    `held`: nothing of the reply is shown; it goes into the private record, and the step stays open for `show_reply`.
    Raises ProviderError; the caller then ends the turn. Leaving by any exception closes the connection.
    """
    step_id, started_at, reply = new_step_id(), stamps.next(), Reply()
    writer.emit(StepStart(step_type=STEP, step_id=step_id, started_at=started_at, metadata={}))
    try:
        for number, delta in enumerate(deltas):
            shown = take(reply, delta)
            if shown is not None and not held:
                writer.emit(StepProgress(step_type=STEP, step_id=step_id, delta=shown))
            if number % _DELTAS_PER_SHARE == 0:
                # A provider that is always ahead would let neither the journal nor other turns run.
                time.sleep(0)
    finally:
        deltas.close()  # type: ignore[attr-defined]
    details: Json = {
        "step_type": STEP,
        "step_id": step_id,
        "turn_id": writer.ref.turn_id,
        "started_at": started_at,
        "completed_at": stamps.next(),
        "model_response": message_of(reply, last_one=last_one),
        "usage": reply.usage,
    }
    if held:
        writer.note(HELD_REPLY, {"step_id": step_id, "step_details": details})
    else:
        writer.emit(StepComplete(step_type=STEP, step_id=step_id, step_details=details))


def show_reply(writer: TurnWriter, details: Json) -> None:
    """Finish the step of a held reply with all that the model wrote."""
    step_id, reply = details["step_id"], details["model_response"]
    deltas = [{"type": "text", "text": reply["content"]}] if reply["content"] else []
    for call in reply["tool_calls"]:
        readable = "succeeded" if isinstance(call["arguments"], dict) else "failed"
        deltas.append({"type": "tool_call", "parse_status": readable, "tool_call": call})
    for delta in deltas:
        writer.emit(StepProgress(step_type=STEP, step_id=step_id, delta=delta))
    writer.emit(StepComplete(step_type=STEP, step_id=step_id, step_details=details))


def take(reply: Reply, delta: Delta) -> Json | None:
    """Take the delta into the reply; what a client is shown of it."""
    return _HANDLERS[type(delta)](reply, delta)


def message_of(reply: Reply, *, last_one: bool = False) -> Json:
    """The reply as a message."""
    stop_reason = reply.stop_reason
    if last_one and stop_reason is StopReason.END_OF_MESSAGE:
        # As the predecessor: the official client neither runs the calls nor resumes.
        stop_reason = StopReason.END_OF_TURN
    text = "".join(reply.text)
    return {"role": "assistant", "content": text, "stop_reason": stop_reason, "tool_calls": reply.calls}


def _text(reply: Reply, delta: TextDelta) -> Json:
    reply.text.append(delta.text)
    return {"type": "text", "text": delta.text}


def _call_piece(reply: Reply, delta: ToolCallDelta) -> Json:
    if delta.parse_status == "started":
        call = _call(delta.call_id, delta.tool_name, {}, "")
        return {"type": "tool_call", "parse_status": "started", "tool_call": call}
    return {"type": "tool_call", "parse_status": delta.parse_status, "tool_call": delta.arguments}


def _call_done(reply: Reply, delta: ToolCallDone) -> Json:
    # A call whose arguments are no JSON object keeps them as text: it goes back to the model as an error.
    readable = delta.parse_status == "succeeded"
    arguments = delta.arguments if readable else delta.arguments_json
    call = _call(delta.call_id, delta.tool_name, arguments, delta.arguments_json)
    reply.calls.append(call)
    return {"type": "tool_call", "parse_status": delta.parse_status, "tool_call": call}


def _finished(reply: Reply, delta: Finished) -> None:
    reply.stop_reason = delta.stop_reason
    reply.usage = delta.usage


def _call(call_id: str, tool_name: str, arguments: Json | str, text: str) -> Json:
    return {"call_id": call_id, "tool_name": tool_name, "arguments": arguments, "arguments_json": text}


_HANDLERS: dict[type[Delta], Callable[..., Json | None]] = {
    TextDelta: _text,
    ToolCallDelta: _call_piece,
    ToolCallDone: _call_done,
    Finished: _finished,
}
