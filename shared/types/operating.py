"""What operators ask: which turns there are, and why one does not go on."""

from typing import Annotated, Literal, cast

from pydantic import ConfigDict, Field

from shared.status import TurnStatus
from shared.types.base import Items, Wire
from shared.types.turns import TurnError

Seconds = Annotated[float, Field(description="In seconds; negative: it has passed.")]


class ListedTurn(Wire):
    """A turn in a list, without what was said. `worker` while one holds it, `error` where it failed."""

    turn_id: str
    session_id: str
    agent_id: str
    status: Annotated[TurnStatus, Field(strict=False)]
    attempts: int
    created_at: str
    worker: str | None = None
    error: TurnError | None = None
    retry_of: str | None = None
    url: Annotated[str, Field(description="The call that gets it.")]


class TurnList(Wire):
    """A page of turns, newest first. A page may be short and still have more: go on with `after` until it is null."""

    data: Items[ListedTurn]
    has_more: bool
    after: Annotated[str | None, Field(description="The `after` of the next page.")] = None


class Lease(Wire):
    """How long the turn's worker has it."""

    worker: str
    worker_alive: Annotated[bool, Field(description="Its process has given a sign of life lately.")]
    lease_s: float
    renewed_s_ago: float
    left_s: Seconds


class LastEvent(Wire):
    """The log's end. `age_s` is null where an earlier release wrote it."""

    id: str
    type: str
    age_s: float | None = None


class Hints(Wire):
    """Messages that say: somebody look at this turn. `sent` counts since a worker had it last."""

    sent: int
    next_in_s: Seconds | None = None


class Limits(Wire):
    """When the turn fails by the clock: unless a worker takes it up, and unless it ends."""

    start_in_s: Seconds | None = None
    end_in_s: Seconds | None = None


class QueuePlace(Wire):
    """Where an unfinished turn stands in its session; 0 is the one that runs."""

    position: int
    length: int
    before: Annotated[str | None, Field(description="The turn directly before it.")] = None
    head: Annotated[str | None, Field(description="The turn that runs, or is the next to.")] = None


class Awaited(Wire):
    """Calls of client tools that the turn waits for."""

    call_ids: Items[str]
    left_s: Seconds | None = None


class Next(Wire):
    """What happens next, and what can be done."""

    code: Literal[
        "ended",
        "limit_reached",
        "canceling",
        "running",
        "newer_release",
        "owner_silent",
        "owner_lost",
        "awaiting_input",
        "behind",
        "bank_gone",
        "waits_for_worker",
        "unscheduled",
    ]
    message: str


class _Told(Wire):
    """What is told of turns and insert jobs alike."""

    status: Annotated[TurnStatus, Field(strict=False)]
    retry_of: str | None = None
    url: str
    age_s: Annotated[float, Field(description="Since its acceptance.")]
    attempts: int
    lost_in_a_row: Annotated[int, Field(description="Workers lost since it last made progress.")]
    cancel_asked: bool
    lease: Lease | None = None
    last_event: LastEvent | None = None
    hints: Hints
    limits: Limits
    workers_alive: Annotated[int, Field(description="Of those that could take it up.")]
    next: Next


class Why(_Told):
    """Why a turn is where it is. Nothing of what was said is in it."""

    turn_id: str
    session_id: str
    agent_id: str
    queue: QueuePlace | None = None
    awaits: Awaited | None = None


class JobProgress(Wire):
    """How far an insert job is, in documents and chunks. `documents` is null until a worker has taken it up."""

    documents: int | None = None
    done: int
    chunks: int
    failed: int


class WhyJob(_Told):
    """Why an insert job is where it is. Nothing of its documents is in it."""

    job_id: str
    bank_id: str
    bank_there: Annotated[bool, Field(description="Its bank is registered now.")]
    progress: JobProgress


class FailTurn(Wire):
    """Why an operator ends a turn, or an insert job. The body may be left out."""

    model_config = cast(ConfigDict, {"openapi_extra": {"required": False}})  # read by flask-openapi3

    reason: Annotated[
        str | None, Field(min_length=1, max_length=1000, description="Becomes part of the error's message.")
    ] = None
