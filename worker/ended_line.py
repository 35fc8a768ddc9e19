"""One line in the log for each turn, and for each insert job, that has ended."""

import logging
from contextvars import ContextVar
from datetime import datetime

from shared import logs
from shared.events import Json
from shared.fold import TurnState
from shared.ids import is_job_id
from shared.log.turn_log import Claim
from worker.observer import Observer

logger = logging.getLogger(__name__)

_asked: ContextVar[dict[str, None] | None] = ContextVar("providers_asked", default=None)
"""The instances that were asked for the turn of this greenlet, in order."""


class EndedLine(Observer):
    """Says how turns have ended: nothing of what was said in them."""

    def claimed(self, claim: Claim, turn: TurnState) -> None:
        _asked.set({})

    def replied(self, provider_id: str, *, first_s: float | None, deltas: int) -> None:
        asked = _asked.get()
        if asked is not None:
            asked[provider_id] = None

    def ended(self, turn: TurnState) -> None:
        is_job = is_job_id(turn.turn_id)
        logger.info(
            "job ended" if is_job else "turn ended",
            extra=logs.fields(
                turn=turn.turn_id,
                status=turn.status.value,
                duration_s=seconds_between(turn.created_at, turn.completed_at),
                **(_inserted(turn) if is_job else {"steps": len(turn.steps)}),
                attempts=turn.attempts,
                provider=",".join(_asked.get() or ()) or None,
                error_code=turn.error["code"] if turn.error else None,
            ),
        )


def _inserted(turn: TurnState) -> Json:
    """How far an insert job has come."""
    step = turn.steps[-1] if turn.steps else {}
    return {name: step.get(name, 0) for name in ("done", "chunks", "failed")}


def seconds_between(start: str | None, end: str | None) -> float | None:
    """From one of the log's times to another; None where one is missing."""
    if not start or not end:
        return None
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
