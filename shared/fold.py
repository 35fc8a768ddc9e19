"""The one reducer: a turn's log (and private record) → its state.

Three use it: the worker that takes a turn over (and keeps its own state with it), the API that shows a running
turn, and a client that rebuilds a turn from a tail. Pure: no I/O, no clock.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson

from shared import events as ev
from shared.events import Entry, Event, Json, PrivateEntry, decode
from shared.status import TurnStatus

CONFIG_RECORD = "config"
"""The private record's first entry: the agent's config as it was when the turn was accepted."""

CALL_INTENT = "call_intent"
"""A tool call is about to be made: `{step_id, call_id}`. Without an outcome, nobody knows whether it was."""

CALL_OUTCOME = "call_outcome"
"""What a tool call gave: `{step_id, response}`."""

MOST_FAILURES = 100
"""How many documents that an insert job could not read are listed; all are counted."""

ATTACHMENTS = "attachments"
"""In the metadata of a server tool's response: the files that it gave, `[{file_id, mime_type, filename, bytes}]`."""

INSERT_WRITER = "insert_writer"
"""An insert job's place among its bank's writers: `{step_id, writer}`. Who takes it over writes at the same place."""

HELD_REPLY = "held_reply"
"""A model's reply that no shield has passed yet: `{step_id, …}`."""


@dataclass(slots=True)
class OpenStep:
    """A step that has begun and not ended. `calls` maps call ids to tool calls as far as they came."""

    step_id: str
    step_type: str
    started_at: str
    metadata: Json
    text: list[str] = field(default_factory=list)
    calls: dict[str, Json] = field(default_factory=dict)
    intents: set[str] = field(default_factory=set)
    """Ids of tool calls that were about to be made. These three are private: no client sees them."""
    outcomes: dict[str, Json] = field(default_factory=dict)
    """Responses of tool calls that were made, by call id."""
    held: Json | None = None
    """A reply that waits for its shields."""
    writer: int | None = None
    """An insert job's place among its bank's writers."""
    progress: Json = field(default_factory=lambda: {"done": 0, "chunks": 0, "failed": 0, "failures": []})
    """How far an insert job is: documents that are done with, chunks stored of them, documents that could not be read
    and the first of those, `{document_id, code, message}`."""


@dataclass(slots=True)
class TurnState:
    """A turn as its log tells it. `steps` are finished steps, in order, as clients get them."""

    turn_id: str = ""
    session_id: str = ""
    agent_id: str = ""
    status: TurnStatus = TurnStatus.QUEUED
    attempts: int = 0
    input_messages: list[Json] = field(default_factory=list)
    documents: list[Json] = field(default_factory=list)
    created_at: str = ""
    started_at: str | None = None
    completed_at: str | None = None
    steps: list[Json] = field(default_factory=list)
    open_step: OpenStep | None = None
    pending_calls: list[Json] = field(default_factory=list)
    """Calls of client tools that the turn waits for."""
    responses: list[Json] = field(default_factory=list)
    """The client's responses that no finished step holds yet."""
    attachments: list[Json] = field(default_factory=list)
    """What finished calls of server tools gave besides text: `{content: {uri}, mime_type}`."""
    error: Json | None = None
    config: Json = field(default_factory=dict)
    last_time: str = ""

    def apply(self, event: Event) -> None:
        """Take in the next event."""
        _REDUCERS[type(event)](self, event)

    def note(self, kind: str, payload: Json) -> None:
        """Take in a private record. One of a step that is not open any more says nothing."""
        if kind == CONFIG_RECORD:
            self.config = payload
        elif self.open_step is not None and payload["step_id"] == self.open_step.step_id:
            _NOTES[kind](self.open_step, payload)

    @property
    def inference_steps(self) -> list[Json]:
        return [step for step in self.steps if step["step_type"] == "inference"]

    def output_message(self) -> Json:
        """The turn's answer: of a finished turn the last one, of a running turn what there is of it."""
        if self.status is TurnStatus.FAILED:
            return _message([], "end_of_turn", [])
        if self.open_step is not None and self.open_step.step_type == "inference":
            return _message(self.open_step.text, "end_of_message", list(self.open_step.calls.values()))
        if (violation := violation_of(self.steps)) is not None:
            return _message([violation["user_message"] or ""], "end_of_turn", [])
        if self.inference_steps:
            answer: Json = self.inference_steps[-1]["model_response"]
            # Of a mixed reply the client gets its own calls only: the others are run here.
            return {**answer, "tool_calls": self.pending_calls} if self.pending_calls else answer
        ended = self.status is TurnStatus.CANCELED
        return _message([], "end_of_turn" if ended else "end_of_message", [])

    def as_turn(self) -> Json:
        """The turn as clients get it: Llama Stack's `Turn` plus status, attempts, agent_id and error.

        `started_at` is the time of acceptance until a worker starts the turn: official clients require one.
        """
        turn: Json = {
            "turn_id": self.turn_id,
            "session_id": self.session_id,
            "agent_id": self.agent_id,
            "status": self.status,
            "attempts": self.attempts,
            "input_messages": self.input_messages,
            "steps": self._steps_so_far(),
            "output_message": self.output_message(),
            "output_attachments": self.attachments,
            "created_at": self.created_at,
            "started_at": self.started_at or self.created_at,
            "completed_at": self.completed_at,
        }
        if self.error is not None:
            turn["error"] = self.error
        return turn

    def _steps_so_far(self) -> list[Json]:
        if self.open_step is None:
            return self.steps
        return [*self.steps, self.partial_step(self.open_step)]

    def partial_step(self, step: OpenStep) -> Json:
        """An unfinished step in the shape of a finished one, with `completed_at` null."""
        details: Json = {
            "step_type": step.step_type,
            "step_id": step.step_id,
            "turn_id": self.turn_id,
            "started_at": step.started_at,
            "completed_at": None,
        }
        if step.step_type == "inference":
            details["model_response"] = _message(step.text, "end_of_message", list(step.calls.values()))
        elif step.step_type == "tool_execution":
            replies = self.inference_steps
            details["tool_calls"] = replies[-1]["model_response"]["tool_calls"] if replies else self.pending_calls
            details["tool_responses"] = self.responses
        elif step.step_type == "memory_retrieval":
            details["vector_db_ids"] = details["inserted_context"] = ""
        elif step.step_type == "shield_call":
            details["violation"] = None
        elif step.step_type == "memory_insert":
            details |= {**step.metadata, **step.progress}
        return details

    def _close_step(self, ended: str) -> None:
        self.open_step = None
        self.last_time = max(self.last_time, ended)

    def _end(self, status: TurnStatus, completed_at: str) -> None:
        if self.open_step is not None:
            # What had come of a step that never finished stays readable; it is not an answer.
            self.steps.append(self.partial_step(self.open_step))
        self.open_step = None
        self.pending_calls = []
        self.status = status
        self.completed_at = completed_at
        self.last_time = completed_at


def _message(text: list[str], stop_reason: str, calls: list[Json]) -> Json:
    return {"role": "assistant", "content": "".join(text), "stop_reason": stop_reason, "tool_calls": calls}


def _created(state: TurnState, event: ev.TurnCreated) -> None:
    state.turn_id = event.turn_id
    state.session_id = event.session_id
    state.agent_id = event.agent_id
    state.input_messages = event.input_messages
    state.documents = event.documents
    state.created_at = state.last_time = event.created_at


def _started(state: TurnState, event: ev.TurnStart) -> None:
    state.status = TurnStatus.IN_PROGRESS
    state.attempts = event.attempt
    state.started_at = state.last_time = event.started_at


def _recovered(state: TurnState, event: ev.TurnRecovered) -> None:
    state.status = TurnStatus.IN_PROGRESS
    state.attempts = event.attempt
    state.last_time = max(state.last_time, event.recovered_at)


def _step_started(state: TurnState, event: ev.StepStart) -> None:
    state.status = TurnStatus.IN_PROGRESS
    state.open_step = OpenStep(event.step_id, event.step_type, event.started_at, event.metadata)
    state.last_time = max(state.last_time, event.started_at)


def _progressed(state: TurnState, event: ev.StepProgress) -> None:
    step, delta = state.open_step, event.delta
    if step is None or step.step_id != event.step_id:
        return
    if delta["type"] == "text":
        step.text.append(delta["text"])
    elif delta["type"] == "tool_call" and isinstance(delta["tool_call"], dict):
        step.calls[delta["tool_call"]["call_id"]] = delta["tool_call"]
    elif delta["type"] == "progress":
        step.progress = _further(step.progress, delta)


def _further(progress: Json, delta: Json) -> Json:
    return {
        "done": delta["done"],
        "chunks": delta["chunks"],
        "failed": progress["failed"] + len(delta["failures"]),
        "failures": [*progress["failures"], *delta["failures"]][:MOST_FAILURES],
    }


def _step_completed(state: TurnState, event: ev.StepComplete) -> None:
    state.status = TurnStatus.IN_PROGRESS
    state.steps.append(event.step_details)
    if event.step_type == "tool_execution":
        # What a client says of its own calls names no files of this turn.
        own = {response["call_id"] for response in state.responses}
        told = [one for one in event.step_details["tool_responses"] if one["call_id"] not in own]
        state.attachments += [attachment for one in told for attachment in _attachments(one.get("metadata") or {})]
        state.pending_calls = []
        state.responses = []
    state._close_step(event.step_details.get("completed_at") or "")


def _attachments(metadata: Json) -> list[Json]:
    """The files that a server tool's response names; the release before lets tools write there what they like."""
    named = metadata.get(ATTACHMENTS)
    files = [one for one in named if isinstance(one, dict)] if isinstance(named, list) else []
    return [
        {"content": {"uri": f"/v1/files/{file['file_id']}/content"}, "mime_type": file["mime_type"]}
        for file in files
        if isinstance(file.get("file_id"), str) and isinstance(file.get("mime_type"), str)
    ]


def _abandoned(state: TurnState, event: ev.StepAbandoned) -> None:
    state.open_step = None


def _retracted(state: TurnState, event: ev.OutputRetracted) -> None:
    if state.open_step is not None and state.open_step.step_id == event.step_id:
        state.open_step.text.clear()
        state.open_step.calls.clear()
    state.steps = [withheld(step) if step["step_id"] == event.step_id else step for step in state.steps]


def _awaiting(state: TurnState, event: ev.TurnAwaitingInput) -> None:
    state.status = TurnStatus.AWAITING_INPUT
    state.pending_calls = event.tool_calls


def _resumed(state: TurnState, event: ev.TurnResumed) -> None:
    state.status = TurnStatus.QUEUED
    state.responses = event.tool_responses
    state.last_time = max(state.last_time, event.resumed_at)


def _completed(state: TurnState, event: ev.TurnComplete) -> None:
    state._end(TurnStatus.COMPLETED, event.completed_at)


def _failed(state: TurnState, event: ev.TurnFailed) -> None:
    state._end(TurnStatus.FAILED, event.completed_at)
    state.error = event.error


def _canceled(state: TurnState, event: ev.TurnCanceled) -> None:
    state._end(TurnStatus.CANCELED, event.completed_at)


_REDUCERS: dict[type[Event], Callable[[TurnState, Any], None]] = {
    ev.TurnCreated: _created,
    ev.TurnStart: _started,
    ev.TurnRecovered: _recovered,
    ev.StepStart: _step_started,
    ev.StepProgress: _progressed,
    ev.StepComplete: _step_completed,
    ev.StepAbandoned: _abandoned,
    ev.OutputRetracted: _retracted,
    ev.TurnAwaitingInput: _awaiting,
    ev.TurnResumed: _resumed,
    ev.TurnComplete: _completed,
    ev.TurnFailed: _failed,
    ev.TurnCanceled: _canceled,
}


_NOTES: dict[str, Callable[[OpenStep, Json], Any]] = {
    CALL_INTENT: lambda step, note: step.intents.add(note["call_id"]),
    CALL_OUTCOME: lambda step, note: step.outcomes.update({note["response"]["call_id"]: note["response"]}),
    INSERT_WRITER: lambda step, note: setattr(step, "writer", note["writer"]),
    HELD_REPLY: lambda step, note: setattr(step, "held", note),
}


def violation_of(steps: list[Json]) -> Json | None:
    """What a shield objected to, where that is what a turn ended with."""
    if steps and steps[-1]["step_type"] == "shield_call":
        violation: Json | None = steps[-1].get("violation")
        return violation
    return None


def withheld(step: Json) -> Json:
    """An inference step without what the model wrote: a shield objected to it."""
    return {**step, "model_response": _message([], "end_of_turn", []), "withheld": True}


def fold(entries: Iterable[Entry], private: Iterable[PrivateEntry] = ()) -> TurnState:
    """The state that a log tells. Without `private` the state has no config: the API never needs one."""
    state = TurnState()
    for entry in entries:
        state.apply(decode(entry))
    for record in private:
        state.note(record.kind, orjson.loads(record.payload))
    return state
