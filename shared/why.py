"""What happens next with a turn, and what an operator can do about it. Pure: facts in, one sentence out."""

from collections.abc import Callable
from dataclasses import dataclass

from shared.status import TERMINAL, TurnStatus

_SILENT = 0.5
"""Of a lease. Owners renew after a third of it, so this one has missed a renewal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Who holds the turn: seconds since the last renewal, and until the lease ends (negative: since then). `alive`: the
    worker's process has given a sign of life lately."""

    worker: str
    alive: bool
    lease_s: float
    renewed_s: float
    left_s: float

    @property
    def is_silent(self) -> bool:
        return self.renewed_s > self.lease_s * _SILENT


@dataclass(frozen=True, slots=True, kw_only=True)
class LastEvent:
    """The log's end. `age_s` is None where nobody noted when it was written."""

    id: str
    type: str
    age_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """Where an unfinished turn stands in its session: so many come before it, `before` directly, `head` first of all.
    Both are None for the head itself."""

    position: int = 0
    length: int = 1
    before: str | None = None
    head: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """A turn as the store knows it at one moment. Times are in seconds from then, and negative where they have passed.

    `newer`: a newer release wrote it. `losses` are workers lost in a row. `hints` were sent since a worker had it last,
    the next is due in `hint_s` (None: never). Somebody has to take it up within `start_s`, and it has to end within
    `end_s`. Its client has to answer `pending`, ids of calls, within `input_s`. `workers` are alive. `ending` says why
    an ended turn ended, as far as that is known. `is_job`: it is an insert job, `workers` are those of insert jobs, and
    `gone_bank` is its bank where that is not there (any more).
    """

    turn_id: str
    status: TurnStatus
    is_job: bool = False
    gone_bank: str | None = None
    age_s: float
    attempts: int = 0
    losses: int = 0
    newer: bool = False
    owner: Owner | None = None
    last_event: LastEvent | None = None
    cancel: bool = False
    hints: int = 0
    hint_s: float | None = None
    start_s: float | None = None
    end_s: float | None = None
    queue: Queue | None = None
    pending: tuple[str, ...] = ()
    input_s: float | None = None
    workers: int = 0
    ending: str | None = None

    @property
    def to_start(self) -> str:
        """How a worker that takes it up is started."""
        return f"start one (turnstone worker{' --queue memory' if self.is_job else ''})."


@dataclass(frozen=True, slots=True)
class Next:
    """What happens next: a stable code, and a sentence for people."""

    code: str
    message: str


def what_next(facts: Facts) -> Next:
    """What the first rule says that has something to say."""
    return next(found for rule in _RULES if (found := rule(facts)) is not None)


def duration(seconds: float) -> str:
    """For people: `9 s`, `12 min`, `23 h`."""
    whole = max(0, round(seconds))
    if whole < 120:
        return f"{whole} s"
    return f"{whole // 60} min" if whole < 7200 else f"{whole // 3600} h"


def _ended(facts: Facts) -> Next | None:
    if facts.status not in TERMINAL:
        return None
    if facts.status is TurnStatus.COMPLETED:
        return Next("ended", "It completed.")
    how = "failed" if facts.status is TurnStatus.FAILED else "was canceled"
    why = f": {facts.ending}" if facts.ending else "."
    return Next("ended", f"It {how}{why} To run it again, requeue it.")


def _limit_reached(facts: Facts) -> Next | None:
    limits = (facts.start_s if facts.attempts == 0 else None, facts.end_s)
    if all(limit is None or limit > 0 for limit in limits):
        return None
    then = "a worker ends it within seconds." if facts.workers else f"no worker is alive to end it: {facts.to_start}"
    return Next("limit_reached", f"Its time is up; {then}")


def _held(facts: Facts) -> Next | None:
    if facts.owner is None or facts.owner.is_silent:
        return None
    if facts.cancel:
        return Next("canceling", f"Its worker {facts.owner.worker} was told to cancel it, and ends it shortly.")
    return Next("running", f"Its worker {facts.owner.worker} is at work on it. To stop it, cancel it.")


def _newer(facts: Facts) -> Next | None:
    if not facts.newer:
        return None
    return Next("newer_release", "A newer release wrote it, and only its workers take it up: upgrade the workers.")


def _silent(facts: Facts) -> Next | None:
    owner = facts.owner
    if owner is None:
        return None
    act = "ends it as canceled" if facts.cancel else "takes over"
    when = f"in {duration(owner.left_s)}" if owner.left_s > 0 else "within seconds"
    others = facts.workers - owner.alive
    then = f"Another {act} {when}." if others else f"No other worker is alive: {facts.to_start}"
    if owner.left_s > 0:
        said = f"Its worker {owner.worker} has not renewed its lease for {duration(owner.renewed_s)}."
        return Next("owner_silent", f"{said} {then}")
    return Next(
        "owner_lost", f"Its worker {owner.worker} is lost: its lease ended {duration(-owner.left_s)} ago. {then}"
    )


def _awaiting(facts: Facts) -> Next | None:
    if facts.status is not TurnStatus.AWAITING_INPUT:
        return None
    calls = f"{len(facts.pending)} tool call{'' if len(facts.pending) == 1 else 's'}"
    until = "" if facts.input_s is None else f" It fails in {duration(facts.input_s)} without."
    return Next("awaiting_input", f"Its client has to answer {calls} (POST …/resume).{until} To give it up, cancel it.")


def _behind(facts: Facts) -> Next | None:
    if facts.queue is None or facts.queue.head is None:
        return None
    return Next("behind", f"Turn {facts.queue.head} of its session runs first; cancel that one to go on.")


def _bank_gone(facts: Facts) -> Next | None:
    if facts.gone_bank is None:
        return None
    said = f"Its bank '{facts.gone_bank}' is gone, so it fails when a worker takes it up: register the bank again."
    return Next("bank_gone", said if facts.workers else f"{said} No worker is alive: {facts.to_start}")


def _waiting(facts: Facts) -> Next | None:
    if facts.hint_s is None:
        return None
    due = f"in {duration(facts.hint_s)}" if facts.hint_s > 0 else "now"
    if facts.workers == 0:
        return Next("waits_for_worker", f"It waits for a worker, and none is alive: {facts.to_start}")
    said = f"It waits for a worker; the next hint is due {due}. If it stays so, the workers are full: start more."
    return Next("waits_for_worker", said)


def _unscheduled(facts: Facts) -> Next:
    return Next("unscheduled", "The store has lost that it is due, so no worker hears of it. Fail it, then requeue it.")


_RULES: tuple[Callable[[Facts], Next | None], ...] = (
    _ended,
    _limit_reached,
    _held,
    _newer,
    _silent,
    _awaiting,
    _behind,
    _bank_gone,
    _waiting,
    _unscheduled,
)
