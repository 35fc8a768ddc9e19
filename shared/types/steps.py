"""Steps: what happened within a turn, one after the other."""

from typing import Annotated, Literal

from pydantic import Field

from shared.types.base import Json, Wire
from shared.types.content import Content
from shared.types.messages import CompletionMessage, ToolCall, ToolResponse


class BaseStep(Wire):
    """What every step has. `completed_at` is null while it runs."""

    step_id: str
    turn_id: str
    started_at: str | None = None
    completed_at: str | None = None


class InferenceStep(BaseStep):
    """The model replied."""

    step_type: Literal["inference"]
    model_response: CompletionMessage


class ToolExecutionStep(BaseStep):
    """Tools ran."""

    step_type: Literal["tool_execution"]
    tool_calls: list[ToolCall]
    tool_responses: list[ToolResponse]


class Violation(Wire):
    """What a shield objected to."""

    violation_level: Literal["info", "warn", "error"]
    user_message: str | None = None
    metadata: Json = Field(default_factory=dict)


class ShieldCallStep(BaseStep):
    """A shield looked at the turn."""

    step_type: Literal["shield_call"]
    violation: Violation | None = None


class MemoryRetrievalStep(BaseStep):
    """The turn's documents were read, and memory was looked into. `vector_db_ids` are the banks, with commas in between
    (the session's own has its id); `inserted_context` is what the model was shown in this turn, and empty where nothing
    was found."""

    step_type: Literal["memory_retrieval"]
    vector_db_ids: str
    inserted_context: Content
    query: Annotated[str | None, Field(description="What was asked.")] = None
    citations: Annotated[
        list[Json],
        Field(
            description="Its sources, in order: `{document_id, bank_id, position, score, metadata}`; `bank_id` is null"
            " of a document that the model was shown whole."
        ),
    ] = Field(default_factory=list)
    documents: Annotated[
        list[str], Field(description="Documents of the turn that were too long for that: the session's bank has them.")
    ] = Field(default_factory=list)
    failures: Annotated[
        list[Json], Field(description="Documents that could not be read: `{document_id, code, message}`.")
    ] = Field(default_factory=list)


Step = Annotated[
    InferenceStep | ToolExecutionStep | ShieldCallStep | MemoryRetrievalStep, Field(discriminator="step_type")
]


class StepAnswer(Wire):
    """One step of a turn."""

    step: Step
