"""What happens in a turn, as facts in the order of its log.

The shapes follow Llama Stack v1's `AgentTurnResponseEvent` payloads; the types that it lacks are ours. Events
are written as the JSON bytes that clients get, and read back with `decode`.
"""

from dataclasses import dataclass, fields
from functools import cache
from typing import Any, ClassVar, NamedTuple

import orjson

from shared.errors import SchemaTooNew

Json = dict[str, Any]

SCHEMA_VERSION = 1
"""Of the log's entries. A process reads its own version and the one before, and refuses newer ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of all events."""

    event_type: ClassVar[str]

    def encode(self) -> bytes:
        """The payload as clients get it, `event_type` first."""
        payload: Json = {"event_type": self.event_type}
        for name in _names(type(self)):  # type: ignore[arg-type]
            payload[name] = getattr(self, name)
        return orjson.dumps(payload)


@cache
def _names(kind: Any) -> tuple[str, ...]:
    """The names of an event's fields."""
    return tuple(field.name for field in fields(kind))


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnCreated(Event):
    """The turn was accepted into its session's queue. Always event 1."""

    event_type: ClassVar[str] = "turn_created"
    turn_id: str
    session_id: str
    agent_id: str
    input_messages: list[Json]
    documents: list[Json]
    created_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnStart(Event):
    """A worker claimed the turn for the first time."""

    event_type: ClassVar[str] = "turn_start"
    turn_id: str
    attempt: int
    started_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRecovered(Event):
    """A worker took the turn over after its owner gave it back or was lost."""

    event_type: ClassVar[str] = "turn_recovered"
    turn_id: str
    attempt: int
    recovered_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStart(Event):
    """A step began."""

    event_type: ClassVar[str] = "step_start"
    step_type: str
    step_id: str
    started_at: str
    metadata: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class StepProgress(Event):
    """A step made progress. `delta` is a text or a tool_call delta."""

    event_type: ClassVar[str] = "step_progress"
    step_type: str
    step_id: str
    delta: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class StepComplete(Event):
    """A step finished. `step_details` is the whole step; it is never run again."""

    event_type: ClassVar[str] = "step_complete"
    step_type: str
    step_id: str
    step_details: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class StepAbandoned(Event):
    """A step that had begun will not finish; what it had produced no longer counts."""

    event_type: ClassVar[str] = "step_abandoned"
    step_type: str
    step_id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputRetracted(Event):
    """A shield withdrew what a step had shown."""

    event_type: ClassVar[str] = "output_retracted"
    step_id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnAwaitingInput(Event):
    """The turn waits for the client's responses to `tool_calls`."""

    event_type: ClassVar[str] = "turn_awaiting_input"
    turn_id: str
    tool_calls: list[Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnResumed(Event):
    """The client's tool responses arrived."""

    event_type: ClassVar[str] = "turn_resumed"
    turn_id: str
    tool_responses: list[Json]
    resumed_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnComplete(Event):
    """The turn ended with the model's answer."""

    event_type: ClassVar[str] = "turn_complete"
    turn_id: str
    completed_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnFailed(Event):
    """The turn ended with an error: `{code, message, provider_id?}`."""

    event_type: ClassVar[str] = "turn_failed"
    turn_id: str
    error: Json
    completed_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnCanceled(Event):
    """The turn ended because somebody asked for it."""

    event_type: ClassVar[str] = "turn_canceled"
    turn_id: str
    reason: str
    completed_at: str


TERMINAL_EVENTS = frozenset({TurnComplete.event_type, TurnFailed.event_type, TurnCanceled.event_type})

_TYPES: dict[str, type[Event]] = {
    kind.event_type: kind
    for kind in (
        TurnCreated,
        TurnStart,
        TurnRecovered,
        StepStart,
        StepProgress,
        StepComplete,
        StepAbandoned,
        OutputRetracted,
        TurnAwaitingInput,
        TurnResumed,
        TurnComplete,
        TurnFailed,
        TurnCanceled,
    )
}


class Entry(NamedTuple):
    """One entry of a turn's log. `payload` is the JSON text of the event, as clients get it."""

    seq: int
    epoch: int
    event_type: str
    version: int
    payload: bytes

    @property
    def id(self) -> str:
        """The public id: `<seq>-<epoch>`. `epoch` names the claim that wrote the entry."""
        return f"{self.seq}-{self.epoch}"


class PrivateEntry(NamedTuple):
    """One entry of a turn's private record: what only a worker that takes over needs."""

    seq: int
    kind: str
    payload: bytes


def decode(entry: Entry) -> Event:
    """The event in an entry. Raises SchemaTooNew for an entry that a newer release wrote."""
    if entry.version > SCHEMA_VERSION:
        raise SchemaTooNew(
            f"Event {entry.id} has schema version {entry.version}; this release reads up to {SCHEMA_VERSION}."
            " Upgrade this process first."
        )
    payload = orjson.loads(entry.payload)
    del payload["event_type"]
    return _TYPES[entry.event_type](**payload)
