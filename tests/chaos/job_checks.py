"""What insert jobs tell: their logs, their views, and what their documents have become."""

from collections import Counter

from chaos.evidence import Entry, Evidence, Inserted, Json
from chaos.findings import CONTENT, JOB, STEP, Findings
from chaos.log_checks import TERMINAL, check_order, end_of, payload_of, seconds
from chaos.writes import deltas_of

_GONE = "memory_bank_not_found"
_SLACK_S = 0.5
_STEP = "memory_insert"


def check_jobs(evidence: Evidence, findings: Findings) -> None:
    """Every job, and that there are no others."""
    for job in evidence.jobs:
        log = evidence.logs.get(job.turn_id, [])
        check_order(job, log, findings, may_fail=_bank_was_gone(job, log, evidence))
        _check_step(job, log, findings)
        _check_documents(job, log, findings)
        _check_view(job, log, evidence.turns.get(job.turn_id, {}), findings)
        if other := [one for one in job.again if one != job.turn_id]:
            findings.add(JOB, job.turn_id, f"its key was answered with {other} when it came again")
        if (end := end_of(log)) is not None:
            findings.counts[f"{TERMINAL[end.type]} jobs"] += 1
    times = Counter(evidence.listed)
    for job_id in times.keys() - {job.turn_id for job in evidence.jobs}:
        findings.add(JOB, job_id, "nobody has it in the books: a key has two jobs")
    for job in evidence.jobs:
        if times[job.turn_id] != 1:
            findings.add(JOB, job.turn_id, f"is listed {times[job.turn_id]} times")
    findings.counts["jobs"] += len(evidence.jobs)


def _bank_was_gone(job: Inserted, log: list[Entry], evidence: Evidence) -> bool:
    """Whether it failed for want of its bank, which was deleted while it waited or ran."""
    end = end_of(log)
    if end is None or end.type != "turn_failed" or payload_of(end)["error"]["code"] != _GONE:
        return False
    created, ended = (
        seconds(payload_of(entry)[name]) for entry, name in ((log[0], "created_at"), (end, "completed_at"))
    )
    return any(
        renewal.bank_id == job.bank_id
        and renewal.delete_asked - _SLACK_S <= ended
        and (renewal.made or ended) + _SLACK_S >= created
        for renewal in evidence.renewals
    )


def _check_step(job: Inserted, log: list[Entry], findings: Findings) -> None:
    """One step, which goes on where it was, whoever takes the job over."""
    kinds = [entry.type for entry in log if entry.type.startswith("step_")]
    ids = {payload_of(entry)["step_id"] for entry in log if entry.type.startswith("step_")}
    progress = kinds.count("step_progress")
    whole = ["step_start", *["step_progress"] * progress, "step_complete"]
    end = end_of(log)
    if kinds != (whole if end is not None and end.type == "turn_complete" else whole[: len(kinds)]) or len(ids) > 1:
        findings.add(STEP, job.turn_id, f"its steps are {kinds} of {len(ids)}")
    for entry in log:
        payload = payload_of(entry)
        if entry.type.startswith("step_") and payload["step_type"] != _STEP:
            findings.add(STEP, job.turn_id, f"at {entry.seq}: a step of the type {payload['step_type']}")


def _check_documents(job: Inserted, log: list[Entry], findings: Findings) -> None:
    """Progress counts every document once, and names exactly those that cannot be read."""
    before = chunks = 0
    for delta in deltas_of(log):
        batch = job.documents[before : delta["done"]]
        failed = [(one["document_id"], one["code"]) for one in delta["failures"]]
        planned = [(one["document_id"], one["fails"]) for one in batch if one["fails"]]
        chunks += sum(len(one["chunks"]) for one in batch)
        if not before < delta["done"] <= len(job.documents):
            findings.add(JOB, job.turn_id, f"is done with {delta['done']} after {before} of {len(job.documents)}")
        elif failed != planned:
            findings.add(JOB, job.turn_id, f"could not read {failed}; unreadable are {planned}")
        elif delta["chunks"] != chunks:
            findings.add(JOB, job.turn_id, f"tells of {delta['chunks']} chunks, and {chunks} were stored")
        before = delta["done"]
    end = end_of(log)
    if end is not None and end.type == "turn_complete" and before != len(job.documents):
        findings.add(JOB, job.turn_id, f"is complete with {before} of {len(job.documents)} documents")
    findings.counts["unreadable documents"] += sum(one["fails"] is not None for one in job.documents[:before])


def _check_view(job: Inserted, log: list[Entry], shown: Json, findings: Findings) -> None:
    """GET says what the log says."""
    end = end_of(log)
    if end is None:
        return
    last = (deltas_of(log) or [{"done": 0, "chunks": 0}])[-1]
    has_begun = any(entry.type == "step_start" for entry in log)
    failures = [one for delta in deltas_of(log) for one in delta["failures"]]
    expected = {
        "job_id": job.turn_id,
        "bank_id": job.bank_id,
        "status": TERMINAL[end.type],
        "attempts": sum(entry.type in ("turn_start", "turn_recovered") for entry in log),
        "documents": len(job.documents) if has_begun else None,
        "done": last["done"],
        "chunks": last["chunks"],
        "failed": len(failures),
        "failures": failures,
        "completed_at": payload_of(end)["completed_at"],
    }
    for name, value in expected.items():
        if shown.get(name) != value:
            findings.add(CONTENT, job.turn_id, f"GET has {name} {shown.get(name)!r}, and the log {value!r}")
    for entry in log:
        if entry.type == "step_complete":
            details = payload_of(entry)["step_details"]
            if wrong := [name for name in ("documents", "done", "chunks", "failed") if details[name] != expected[name]]:
                findings.add(CONTENT, job.turn_id, f"at {entry.seq}: the step's {wrong} differ from its progress")
