"""Parameters that several routes take."""

from typing import Annotated

from pydantic import BaseModel, Field

from api.routing import Query

MOST_PER_PAGE = 1000


class AgentPath(BaseModel):
    """An agent."""

    agent_id: str


class SessionPath(AgentPath):
    """A session of an agent."""

    session_id: str


class TurnPath(SessionPath):
    """A turn of a session."""

    turn_id: str


class StepPath(TurnPath):
    """A step of a turn."""

    step_id: str


class Page(Query):
    """Which part of a list."""

    start_index: Annotated[int, Field(ge=0, le=2**31, description="How many to leave out from the beginning.")] = 0
    limit: Annotated[int, Field(ge=1, le=MOST_PER_PAGE, description="How many at the most.")] = 100


class CreationHeaders(Query):
    """Headers of a request that creates."""

    idempotency_key: Annotated[
        str | None,
        Field(
            alias="Idempotency-Key",
            pattern=r"^[\x20-\x7e]{1,255}$",
            description="A repetition with the same key and body gets the same resource, for 24 hours."
            " 1 to 255 printable ASCII characters.",
        ),
    ] = None
