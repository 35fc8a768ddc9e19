"""The facts of a turn, or of an insert job, as clients get them."""

from dataclasses import asdict, replace

from api.turn_answers import job_url, turn_url
from shared.events import Json
from shared.ids import TurnRef
from shared.log.reader import TurnRow
from shared.why import Facts, what_next

_PROGRESS = ("documents", "done", "chunks", "failed")


def why(ref: TurnRef, row: TurnRow, facts: Facts) -> Json:
    """The answer of `GET /v1/turns/{turn_id}/why`."""
    awaits = {"call_ids": facts.pending, "left_s": _rounded(facts.input_s)} if facts.pending else None
    return {
        "turn_id": ref.turn_id,
        "session_id": ref.session_id,
        "agent_id": row.agent_id,
        **_told(row, facts, turn_url(row.agent_id, ref)),
        "queue": None if facts.queue is None else asdict(facts.queue),
        "awaits": awaits,
    }


def why_job(ref: TurnRef, row: TurnRow, facts: Facts, *, job: Json, bank_there: bool) -> Json:
    """The answer of `GET /v1/jobs/{job_id}/why`. `job` is the job as clients get it."""
    bank_id = job["bank_id"]
    return {
        "job_id": ref.turn_id,
        "bank_id": bank_id,
        "bank_there": bank_there,
        "progress": {name: job[name] for name in _PROGRESS},
        **_told(row, facts if bank_there else replace(facts, gone_bank=bank_id), job_url(ref)),
    }


def _told(row: TurnRow, facts: Facts, url: str) -> Json:
    return {
        "status": facts.status,
        "retry_of": row.retry_of,
        "url": url,
        "age_s": _rounded(facts.age_s),
        "attempts": facts.attempts,
        "lost_in_a_row": facts.losses,
        "cancel_asked": facts.cancel,
        "lease": _lease(facts),
        "last_event": _last_event(facts),
        "hints": {"sent": facts.hints, "next_in_s": _rounded(facts.hint_s)},
        "limits": {"start_in_s": _rounded(facts.start_s), "end_in_s": _rounded(facts.end_s)},
        "workers_alive": facts.workers,
        "next": asdict(what_next(facts)),
    }


def _lease(facts: Facts) -> Json | None:
    owner = facts.owner
    if owner is None:
        return None
    return {
        "worker": owner.worker,
        "worker_alive": owner.alive,
        "lease_s": owner.lease_s,
        "renewed_s_ago": _rounded(owner.renewed_s),
        "left_s": _rounded(owner.left_s),
    }


def _last_event(facts: Facts) -> Json | None:
    last = facts.last_event
    return None if last is None else {"id": last.id, "type": last.type, "age_s": _rounded(last.age_s)}


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
