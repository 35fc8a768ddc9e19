"""What the model gets to read: instructions, the session's earlier turns, this turn so far."""

from collections.abc import Iterable

from shared.events import Json
from shared.fold import TurnState
from worker.memory.turn_documents import as_they_are, to_read

_NO_IMAGE: Json = {"type": "text", "text": "[an image, which the model is not shown]"}
_UNANSWERED = "The turn ended before this tool was run: its outcome is unknown."


def chat_messages(history: Iterable[Json], state: TurnState) -> list[Json]:
    """All messages for the next inference of a turn. `history` are the session's earlier turns, in order."""
    messages: list[Json] = []
    if instructions := state.config.get("instructions"):
        messages.append({"role": "system", "content": instructions})
    for turn in history:
        messages += turn_messages(turn["input_messages"], turn["steps"])
    looks = [step for step in state.steps if step["step_type"] == "memory_retrieval"]
    shown = as_they_are(state.documents)
    if state.inference_steps and not any("documents" in step for step in looks) and to_read(state.documents):
        # Begun by a release that showed all of them as they are.
        shown = [document["content"] for document in state.documents]
    found = [step["inserted_context"] for step in looks if step["inserted_context"]]
    inputs = with_context(state.input_messages, [*shown, *found])
    return messages + turn_messages(inputs, state.steps)


def turn_messages(inputs: list[Json], steps: list[Json]) -> list[Json]:
    """A turn as messages: its input, then each finished reply with the responses to its calls.

    Providers refuse a history in which a tool call has no answer, so a call that a canceled or failed turn left
    open gets one.
    """
    messages = list(inputs)
    unanswered: dict[str, Json] = {}
    for step in steps:
        if step["completed_at"] is None:
            continue
        if step["step_type"] == "inference" and not step.get("withheld"):
            messages += _close(unanswered)
            reply = step["model_response"]
            messages.append(reply)
            unanswered = {call["call_id"]: call for call in reply["tool_calls"]}
        elif step["step_type"] == "tool_execution":
            for response in step["tool_responses"]:
                unanswered.pop(response["call_id"], None)
                messages.append(_tool_message(response["call_id"], response["content"]))
        elif step["step_type"] == "shield_call" and step["violation"] is not None:
            said = step["violation"]["user_message"] or ""
            messages.append({"role": "assistant", "content": said, "stop_reason": "end_of_turn", "tool_calls": []})
    return messages + _close(unanswered)


def with_context(inputs: list[Json], contents: Iterable[object]) -> list[Json]:
    """The input with more for the last user message to be read with. It holds for this turn alone: later ones read
    the input as it was."""
    items: list[Json] = []
    for content in contents:
        items += _items(content)
    if not items:
        return inputs
    for at in range(len(inputs) - 1, -1, -1):
        if inputs[at]["role"] == "user":
            message = {**inputs[at], "context": _items(inputs[at].get("context") or []) + items}
            return [*inputs[:at], message, *inputs[at + 1 :]]
    return [*inputs, {"role": "user", "content": items}]


def _items(content: object) -> list[Json]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if isinstance(content, dict):
        return [content]
    return list(content) if isinstance(content, list) else []


def _close(unanswered: dict[str, Json]) -> list[Json]:
    return [_tool_message(call_id, _UNANSWERED) for call_id in unanswered]


def _tool_message(call_id: str, content: object) -> Json:
    """Models take text from tools; that there was an image is all that they are told."""
    if not isinstance(content, str):
        content = [item if item.get("type") == "text" else _NO_IMAGE for item in _items(content)]
    return {"role": "tool", "call_id": call_id, "content": content}
