"""Who wrote what into the banks, as far as clients' books and logs tell, and what may therefore be there.

Of two jobs the one that began later wins. When a job began is known in two ways: by its place among the bank's writers,
where its note was seen or one of its documents lies in the bank; and by the times of its step's start and end. Where
neither tells, both may have won. Of a job that was canceled, a batch behind its progress may be there or not.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from chaos.evidence import Entry, Evidence, Inserted, Json, Renewal
from chaos.log_checks import TERMINAL, end_of, payload_of, seconds
from chaos.memory_plans import BATCH


@dataclass(frozen=True, kw_only=True)
class Ran:
    """A job that a worker took up. It began at some moment from `begun` to `ended`, in seconds since 1970; of its
    documents the first `done` are stored, those up to `most` may be. `number` is its place, where that is known."""

    job: Inserted
    begun: float
    ended: float
    done: int
    most: int
    number: int | None

    def before(self, other: "Ran") -> bool:
        """Whether it certainly began before the other."""
        if self.number is not None and other.number is not None:
            return self.number < other.number
        return self.ended < other.begun


@dataclass(frozen=True)
class Write:
    """A document of a job. `sure`: it was stored, and in the bank that is there now."""

    ran: Ran
    place: int
    sure: bool

    @property
    def planned(self) -> Json:
        planned: Json = self.ran.job.documents[self.place]
        return planned

    def before(self, other: "Write") -> bool:
        """Whether the other certainly wins."""
        return self.place < other.place if self.ran is other.ran else self.ran.before(other.ran)


def ran_jobs(evidence: Evidence) -> list[Ran]:
    """The jobs that may have stored something."""
    numbers = dict(evidence.writers)
    authors = {planned["write"]: job.turn_id for job in evidence.jobs for planned in job.documents}
    for rows in evidence.banks.values():
        for row in rows:
            if (author := authors.get(row["metadata"].get("write"))) is not None:
                numbers.setdefault(author, row["writer"])
    found = (_ran(job, evidence.logs.get(job.turn_id, []), numbers.get(job.turn_id)) for job in evidence.jobs)
    return [ran for ran in found if ran is not None]


def _ran(job: Inserted, log: list[Entry], number: int | None) -> Ran | None:
    start = next((payload_of(entry) for entry in log if entry.type == "step_start"), None)
    if start is None:
        return None
    done = max((delta["done"] for delta in deltas_of(log)), default=0)
    end = end_of(log)
    ended = seconds(payload_of(end)["completed_at"]) if end is not None else float("inf")
    is_over = end is not None and end.type == "turn_complete"
    # A failed one has found its bank gone, with all that it had put there.
    is_gone = end is not None and TERMINAL[end.type] == "failed"
    most = 0 if is_gone else done if is_over else done + BATCH
    return Ran(
        job=job, begun=seconds(start["started_at"]), ended=ended, done=0 if is_gone else done, most=most, number=number
    )


def deltas_of(log: Iterable[Entry]) -> list[Json]:
    """An insert job's progress."""
    return [payload_of(entry)["delta"] for entry in log if entry.type == "step_progress"]


def writes_by_document(rans: Sequence[Ran], renewals: Sequence[Renewal]) -> dict[tuple[str, str], list[Write]]:
    """By bank and document what may be there: without what a bank held that was deleted."""
    found: dict[tuple[str, str], list[Write]] = defaultdict(list)
    for ran in rans:
        deleted = [renewal for renewal in renewals if renewal.bank_id == ran.job.bank_id]
        if deleted and _was_before(ran, deleted[-1], rans):
            continue
        surely_after = not deleted or _was_after(ran, deleted[-1], rans)
        for place, planned in enumerate(ran.job.documents[: ran.most]):
            if planned["fails"] is None:
                write = Write(ran, place, sure=surely_after and place < ran.done)
                found[(ran.job.bank_id, planned["document_id"])].append(write)
    return found


def _was_before(ran: Ran, renewal: Renewal, rans: Sequence[Ran]) -> bool:
    """Whether it certainly began before the deletion, or before one that did."""
    old = [one for one in rans if one.job.bank_id == ran.job.bank_id and one.ended < renewal.delete_asked]
    return ran in old or any(ran.before(one) for one in old)


def _was_after(ran: Ran, renewal: Renewal, rans: Sequence[Ran]) -> bool:
    """Whether it certainly began in the bank that was made anew, or after one that did."""
    new = [one for one in rans if one.job.bank_id == ran.job.bank_id and one.begun > (renewal.deleted or float("inf"))]
    return ran in new or any(one.before(ran) for one in new)


def admissible(writes: Sequence[Write]) -> tuple[list[Write], bool]:
    """Which of a document's writes may have won in the end, and whether it may not be there at all."""
    sure = [write for write in writes if write.sure]
    winners = [write for write in writes if not any(write.before(other) for other in sure)]
    return winners, not sure


def could_be_found(write: Write, writes: Sequence[Write], *, began: float, ended: float) -> bool:
    """Whether a search from `began` to `ended` may have found it: it had begun, and nothing later had replaced it."""
    if write.ran.begun > ended:
        return False
    return not any(other.sure and write.before(other) and other.ran.ended < began for other in writes)
