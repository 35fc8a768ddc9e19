"""The events of turns that a script ends, and not their owner."""

from shared.clock import now_iso
from shared.events import TurnCanceled, TurnFailed
from shared.ids import TurnRef


def canceled(ref: TurnRef, reason: str = "Canceled on request.") -> TurnCanceled:
    """Somebody asked for it."""
    return TurnCanceled(turn_id=ref.turn_id, reason=reason, completed_at=now_iso())


def too_many_lapses(ref: TurnRef, attempts: int) -> TurnFailed:
    """Its workers were lost, `attempts` of them in a row."""
    return failed(
        ref,
        "max_attempts_exceeded",
        f"{attempts} workers in a row were lost while they ran this turn. It may be what brings them down:"
        " look at the workers' logs before you submit it again.",
    )


def input_timeout(ref: TurnRef) -> TurnFailed:
    """It waited for its client for too long."""
    return failed(ref, "input_timeout", "The client's tool responses did not come in time.")


def queue_timeout(ref: TurnRef) -> TurnFailed:
    """It waited for a worker for too long."""
    return failed(
        ref, "queue_timeout", "No worker took the turn up within its time limit in the queue. Submit it again later."
    )


def deadline_exceeded(ref: TurnRef) -> TurnFailed:
    """It took too long as a whole."""
    return failed(ref, "deadline_exceeded", "The turn did not end before its deadline.")


def failed(ref: TurnRef, code: str, message: str) -> TurnFailed:
    """`code` is stable, `message` says what the user can do."""
    return TurnFailed(turn_id=ref.turn_id, error={"code": code, "message": message}, completed_at=now_iso())
