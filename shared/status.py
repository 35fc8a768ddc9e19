"""A turn's status, and the named sets that code asks about."""

from enum import StrEnum


class TurnStatus(StrEnum):
    """Where a turn is.

    `queued → in_progress → (awaiting_input → queued)* → completed | failed | canceled`
    """

    QUEUED = "queued"
    """Accepted, or resumed: waits for its session's earlier turns and for a worker."""

    IN_PROGRESS = "in_progress"
    """A worker holds its lease."""

    AWAITING_INPUT = "awaiting_input"
    """The model called a tool of the client. Nobody holds it until the responses come."""

    COMPLETED = "completed"
    """Ended with the model's answer."""

    FAILED = "failed"
    """Ended with an error that says what to do."""

    CANCELED = "canceled"
    """Ended because somebody asked for it, or its session was deleted."""


ACTIVE = frozenset({TurnStatus.QUEUED, TurnStatus.IN_PROGRESS, TurnStatus.AWAITING_INPUT})
TERMINAL = frozenset({TurnStatus.COMPLETED, TurnStatus.FAILED, TurnStatus.CANCELED})
RESTING = TERMINAL | {TurnStatus.AWAITING_INPUT}
"""Where a turn stays without anything from the client: what a long-poll waits for."""
