"""Sessions: an agent's conversations."""

from typing import Annotated

from pydantic import Field

from shared.types.base import Items, Wire
from shared.types.turns import MultitaskStrategy, Turn


class CreateSession(Wire):
    """A request for a new session."""

    session_name: Annotated[str, Field(max_length=1000)]
    multitask_strategy: MultitaskStrategy = "enqueue"


class SessionCreated(Wire):
    """The id of a new session."""

    session_id: str


class SessionSummary(Wire):
    """A session without its turns."""

    session_id: str
    agent_id: str
    session_name: str
    started_at: str
    multitask_strategy: MultitaskStrategy


class Session(SessionSummary):
    """A session with its turns, in the order of their acceptance, without those that were rolled back."""

    turns: Items[Turn]


class CanceledTurns(Wire):
    """The turns of a session that had not ended, as they are now."""

    data: Items[Turn]


class SessionList(Wire):
    """A page of an agent's sessions, oldest first. `url` is the call that lists them."""

    data: Items[SessionSummary]
    has_more: bool
    url: str
