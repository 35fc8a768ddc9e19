"""Turns: one exchange with an agent, from the user's messages to the model's answer."""

from typing import Annotated, Literal

from pydantic import AliasChoices, Field

from shared.status import TurnStatus
from shared.types.agents import MaxIters, Model
from shared.types.base import Items, Json, Metadata, Wire
from shared.types.content import DocumentContent
from shared.types.messages import CompletionMessage, InputMessage, ToolResponse
from shared.types.sampling import ResponseFormat, SamplingParams
from shared.types.steps import Step
from shared.types.tools import ToolConfig, ToolGroup

Stream = Annotated[
    bool | None,
    Field(description="true: server-sent events. false: waits and answers with the turn. Absent: 202 at once."),
]


MultitaskStrategy = Annotated[
    Literal["enqueue", "reject", "interrupt", "rollback"],
    Field(
        description="What becomes of the session's unfinished turns. enqueue: the new one waits for them. reject: 409"
        " (`session_busy`). interrupt: they end as canceled, and what they finished stays. rollback: they end as"
        " canceled, and the session goes on as if they had not been."
    ),
]
MOST_SECONDS = 365 * 86_400
Seconds = Annotated[float, Field(gt=0, le=MOST_SECONDS)]


class Document(Wire):
    """Something to read for the model: a text, an image, an uploaded file (`{file_id}`), or where something lies
    (`{uri}`, or a text that is an address and nothing else). `document_id` is its name."""

    content: DocumentContent
    mime_type: Annotated[str, Field(max_length=255)] = "text/plain"
    document_id: Annotated[str | None, Field(max_length=255)] = None
    metadata: Metadata | None = None


class CreateTurn(Wire):
    """A new turn. What it says of the agent's configuration holds for this turn alone."""

    messages: Annotated[Items[InputMessage], Field(min_length=1, description="The user's input.")]
    stream: Stream = None
    documents: Annotated[
        Items[Document],
        Field(validation_alias=AliasChoices("documents", "attachments"), description="`attachments` is read as well."),
    ] = Field(default_factory=list)
    toolgroups: Items[ToolGroup] | None = None
    tool_config: ToolConfig | None = None
    model: Model | None = None
    sampling_params: SamplingParams | None = None
    max_infer_iters: MaxIters | None = None
    response_format: ResponseFormat | None = None
    multitask_strategy: Annotated[
        MultitaskStrategy | None, Field(description="As the session's, for this turn alone.")
    ] = None
    deadline_s: Annotated[
        Seconds | None,
        Field(
            description="The turn fails (`deadline_exceeded`) if it has not ended so many seconds after its acceptance."
            " At most `turns.deadline_s` of the run config, which holds where this is absent."
        ),
    ] = None
    queue_ttl_s: Annotated[
        Seconds | None,
        Field(
            description="The turn fails (`queue_timeout`) if no worker has taken it up so many seconds after its"
            " acceptance. At most `turns.queue_ttl_s` of the run config, which holds where this is absent."
        ),
    ] = None


class ResumeTurn(Wire):
    """The client's answers to all the calls that the turn waits for."""

    tool_responses: Annotated[Items[ToolResponse], Field(min_length=1)]
    stream: Stream = None


class TurnError(Wire):
    """Why a turn failed."""

    code: str
    message: str
    provider_id: str | None = None


class OutputAttachment(Wire):
    """Something that the turn produced besides its answer."""

    content: DocumentContent
    mime_type: str


class Turn(Wire):
    """A turn as it is now. Steps that have not finished are there as far as they came."""

    turn_id: str
    session_id: str
    agent_id: str
    status: Annotated[TurnStatus, Field(strict=False)]
    attempts: Annotated[int, Field(description="How many workers have taken it up.")]
    input_messages: Items[InputMessage]
    steps: Items[Step]
    output_message: CompletionMessage
    output_attachments: Items[OutputAttachment] = Field(default_factory=list)
    created_at: str
    started_at: Annotated[str, Field(description="When a worker took it up; until then, when it was accepted.")]
    completed_at: str | None = None
    error: TurnError | None = None
    retry_of: Annotated[str | None, Field(description="The turn that an operator had run again as this one.")] = None


class EventItem(Wire):
    """One event of a turn. `seq` and `id` are null in a story that was rebuilt after the events had expired."""

    seq: int | None = None
    id: str | None = None
    event: Json


class EventPage(Wire):
    """Some events of a turn. `last_id` is the cursor for the next page."""

    data: Items[EventItem]
    last_id: str | None = None
    status: Annotated[TurnStatus, Field(strict=False)]
    has_more: bool
