"""Tells a turn's events to a person, or writes them down as JSON lines."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import orjson

from shared.cli.follow import Frame
from shared.cli.terminal import BOLD, RED, YELLOW, Terminal
from shared.cli.wrap import harmless, one_line
from shared.events import Json

STEPS = {
    "inference": "waiting for the model",
    "tool_execution": "running tools",
    "shield_call": "asking the shields",
    "memory_retrieval": "looking into memory",
}
"""What is waited for while a step of this type runs."""


class View(ABC):
    """What becomes of each event. `waiting_for` says, for people, what comes next."""

    waiting_for = "waiting for a worker"

    @abstractmethod
    def show(self, frame: Frame) -> None:
        """Show an event, in its order."""


class JsonLines(View):
    """Each event as the JSON form of `GET …/events` has it: `{seq, id, event: {payload}}`."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal

    def show(self, frame: Frame) -> None:
        self.waiting_for = "waiting for the next event"
        seq = frame.id.partition("-")[0]
        item = {"seq": int(seq) if seq else None, "id": frame.id or None, "event": {"payload": frame.payload}}
        self._terminal.json(item)


class Transcript(View):
    """The answer as it comes, with a line for each thing that happened on the way.

    Where no person reads the answer it is written once, at the end: what a worker's loss or a shield took back
    would otherwise stay in a file. `shows_input`: also what the user had said.
    """

    def __init__(self, terminal: Terminal, *, shows_input: bool) -> None:
        self._terminal = terminal
        self._shows_input = shows_input
        self._said = ""  # of the current reply, as far as it is on the terminal
        self._finished_replies = 0
        self._tellers: dict[str, Callable[[Json], None]] = {
            "turn_created": self._turn_created,
            "turn_start": self._turn_start,
            "turn_recovered": self._turn_recovered,
            "step_start": self._step_start,
            "step_progress": self._step_progress,
            "step_complete": self._step_complete,
            "step_abandoned": self._step_abandoned,
            "output_retracted": self._output_retracted,
            "turn_awaiting_input": self._turn_awaiting_input,
            "turn_resumed": self._turn_resumed,
            "reset": self._reset,
            "turn_complete": self._turn_complete,
            "turn_failed": self._turn_failed,
            "turn_canceled": self._turn_canceled,
        }

    def show(self, frame: Frame) -> None:
        """A type that is not known here comes from a newer server, and is passed over."""
        tell = self._tellers.get(frame.type)
        if tell is not None:
            tell(frame.payload)

    def _turn_created(self, payload: Json) -> None:
        if self._shows_input:
            for message in payload["input_messages"]:
                self._terminal.brief(f"> {plain_text(message.get('content'))}", style=BOLD)

    def _turn_start(self, payload: Json) -> None:
        self.waiting_for = "starting"

    def _turn_recovered(self, payload: Json) -> None:
        self._terminal.brief(f"  ~ taken over by another worker (attempt {payload['attempt']})", style=YELLOW)

    def _step_start(self, payload: Json) -> None:
        self._said = ""
        self.waiting_for = STEPS.get(payload["step_type"], f"{payload['step_type']} runs")
        if payload["step_type"] == "inference" and self._finished_replies:
            self._terminal.end_line()

    def _step_progress(self, payload: Json) -> None:
        delta = payload["delta"]
        if delta["type"] == "text" and delta["text"]:
            self._said += delta["text"]
            if self._terminal.is_live:
                self._terminal.say(delta["text"])
        elif delta["type"] == "tool_call":
            self.waiting_for = "the model calls a tool"

    def _step_complete(self, payload: Json) -> None:
        details = payload["step_details"]
        match payload["step_type"]:
            case "inference":
                self._finished_replies += 1
                self._complete_reply(plain_text(details["model_response"].get("content")))
                for call in details["model_response"].get("tool_calls") or ():
                    self._terminal.brief(f"  → {call_text(call)}")
            case "tool_execution":
                for response in details["tool_responses"]:
                    self._terminal.brief(f"  ← {response['tool_name']}: {plain_text(response.get('content'))}")
            case "shield_call" if (violation := details.get("violation")) is not None:
                said = violation.get("user_message") or violation.get("violation_level") or ""
                self._terminal.brief(f"  ! a shield objects: {said}", style=YELLOW)
            case "memory_retrieval":
                found = len(plain_text(details.get("inserted_context")))
                self._terminal.brief(f"  ← memory {details.get('vector_db_ids', '')}: {found} characters")

    def _step_abandoned(self, payload: Json) -> None:
        again = " (the text above is void)" if self._said else ""
        self._terminal.brief(f"  ~ its worker was lost; the step starts again{again}", style=YELLOW)
        self._said = ""

    def _output_retracted(self, payload: Json) -> None:
        self._terminal.brief(f"  ! the text above is withdrawn: {payload.get('reason', '')}", style=YELLOW)
        self._said = ""

    def _turn_awaiting_input(self, payload: Json) -> None:
        calls = payload["tool_calls"]
        self.waiting_for = "waiting for the answers of the client's tools"
        what = "this tool call" if len(calls) == 1 else f"these {len(calls)} tool calls"
        self._terminal.note(f"The turn waits for its client to answer {what}:", style=YELLOW)
        for call in calls:
            self._terminal.brief(f"  {call['call_id']}: {call_text(call)}", style=YELLOW)

    def _turn_resumed(self, payload: Json) -> None:
        self.waiting_for = "waiting for a worker"
        self._terminal.brief("  ~ resumed")

    def _reset(self, payload: Json) -> None:
        turn = payload["turn"]
        self._terminal.note("  ~ the events up to here are no longer there; the turn as it is:", style=YELLOW)
        self._said = ""
        self._complete_reply(plain_text(turn["output_message"].get("content")))
        self.waiting_for = "waiting for the next event"

    def _turn_complete(self, payload: Json) -> None:
        message = payload.get("turn", {}).get("output_message", {})
        text = plain_text(message.get("content"))
        if self._terminal.is_live:
            # Mostly it stands there already; a shield's message and a rebuilt turn come only now.
            self._complete_reply(text)
        elif text:
            self._terminal.lines(text)
        if message.get("stop_reason") == "out_of_tokens":
            self._terminal.note("  ~ cut: the model's limit of tokens is reached", style=YELLOW)

    def _turn_failed(self, payload: Json) -> None:
        error = payload["error"]
        self._terminal.note(f"The turn failed ({error['code']}): {one_line(error['message'])}", style=RED)

    def _turn_canceled(self, payload: Json) -> None:
        self._terminal.note(f"The turn was canceled: {one_line(payload.get('reason') or 'no reason given')}", style=RED)

    def _complete_reply(self, text: str) -> None:
        """Have the whole reply on the terminal: what is there already is not written again."""
        if self._terminal.is_live and text != self._said:
            missing = text.removeprefix(self._said)
            if missing == text:
                self._terminal.end_line()
            self._terminal.say(missing)
        self._said = text
        self._terminal.end_line()


def plain_text(content: Any) -> str:
    """The text of a message's content; what is no text is named in brackets."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(filter(None, map(plain_text, content)))
    if isinstance(content, dict):
        return str(content["text"]) if content.get("type") == "text" else f"[{content.get('type', 'content')}]"
    return str(content)


def call_text(call: Json) -> str:
    """A tool call as one would write it: `add(x=2, y=40)`."""
    arguments = call.get("arguments")
    if isinstance(arguments, dict):
        inside = ", ".join(f"{name}={orjson.dumps(value).decode()}" for name, value in arguments.items())
    else:
        inside = str(call.get("arguments_json") or arguments or "")
    return f"{harmless(str(call['tool_name']))}({inside})"
