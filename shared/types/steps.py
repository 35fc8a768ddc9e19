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
    """Context was fetched from memory."""

    step_type: Literal["memory_retrieval"]
    vector_db_ids: str
    inserted_context: Content


Step = Annotated[
    InferenceStep | ToolExecutionStep | ShieldCallStep | MemoryRetrievalStep, Field(discriminator="step_type")
]


class StepAnswer(Wire):
    """One step of a turn."""

    step: Step
