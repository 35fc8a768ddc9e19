"""Parameters that several routes take."""

from typing import Annotated

from pydantic import BaseModel, Field

from api.routing import Query
from shared.errors import InvalidRequest
from shared.status import TurnStatus

MOST_PER_PAGE = 1000
STATUSES = ", ".join(TurnStatus)


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


def statuses_of(text: str | None) -> frozenset[TurnStatus]:
    """The statuses that a query names, with commas in between; all of them where it names none."""
    if text is None:
        return frozenset(TurnStatus)
    given = [name.strip() for name in text.split(",")]
    unknown = [name for name in given if name not in set(TurnStatus)]
    if unknown:
        message = f"'{unknown[0]}' is no status of a turn. There are {STATUSES}; several with commas in between."
        raise InvalidRequest(message, param="status", code="invalid_fields")
    return frozenset(map(TurnStatus, given))


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
