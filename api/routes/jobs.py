"""Insert jobs: read, wait for, follow, cancel; and for operators, as of turns: why one waits, run again, end."""

from typing import Annotated

from flask import Response
from pydantic import BaseModel, Field

from api.answers import answer
from api.requeueing import requeue_job
from api.routes.parts import STATUSES, CreationHeaders, statuses_of
from api.routes.turn_reads import EventsHeaders, EventsQuery, TurnQuery, events_answer
from api.routing import Query, Routes, Streamed, services, tenant
from api.submitting import cancel, end_as_failed
from api.turn_answers import job_url
from api.waiting import current, within
from api.why import why_job
from shared.clock import iso_of
from shared.errors import Conflict, InvalidRequest, NotFound
from shared.events import Json
from shared.ids import SessionRef
from shared.job_view import bank_of, job_agent
from shared.log.listing import MOST, Listed, Place
from shared.status import RESTING, TurnStatus
from shared.types import memory as types
from shared.types import operating
from shared.types.turns import EventPage

routes = Routes("jobs", about="Insert jobs: what becomes of documents that were sent to a memory bank.")

_JOB = "/v1/jobs/<job_id>"


class JobPath(BaseModel):
    """An insert job."""

    job_id: str


class JobsQuery(Query):
    """Which part of the list."""

    status: Annotated[str | None, Field(description=f"Only these: of {STATUSES}; several with commas in between.")] = (
        None
    )
    bank_id: Annotated[str | None, Field(description="Only those of this bank.")] = None
    limit: Annotated[int, Field(ge=1, le=MOST, description="How many at the most.")] = 50
    after: Annotated[str | None, Field(description="Go on behind the page that gave this.")] = None


@routes.on("GET", "/v1/jobs", answers={200: types.JobList}, problems=(422, 503))
def list_jobs(query: JobsQuery) -> Response:
    """List the insert jobs, newest first; failed ones alone by the time they failed.

    A job is there for `turns.session_ttl_s` after its end.
    """
    statuses = statuses_of(query.status)
    place = None if query.after is None else Place.parse(query.after)
    agent_id = None if query.bank_id is None else job_agent(query.bank_id)
    page = services().jobs.page(tenant(), statuses=statuses, agent_id=agent_id, limit=query.limit, after=place)
    after = None if page.after is None else page.after.cursor
    return answer({"data": [_listed(job) for job in page.turns], "has_more": after is not None, "after": after})


@routes.on("GET", _JOB, answers={200: types.Job}, problems=(404, 422, 503))
def get_job(path: JobPath, query: TurnQuery) -> Response:
    """Get an insert job as it is now. With `wait`: as soon as it has ended."""
    ref, row = services().lookup.job(tenant(), path.job_id)
    if query.wait and row.status not in RESTING:
        return within(services(), ref, query.wait)
    return answer(current(services(), ref))


@routes.on(
    "GET",
    f"{_JOB}/events",
    answers={200: Streamed(EventPage, "Server-sent events, or a page of events."), 204: None},
    problems=(404, 422, 503),
)
def get_job_events(path: JobPath, query: EventsQuery, header: EventsHeaders) -> Response:
    """Follow an insert job: the events of a turn with one step, whose progress has `{done, chunks, failures}`."""
    return events_answer(*services().lookup.job(tenant(), path.job_id), query, header)


@routes.on("POST", f"{_JOB}/cancel", answers={200: types.Job, 202: types.Job}, problems=(404, 409, 503))
def cancel_job(path: JobPath) -> Response:
    """Cancel an insert job. What is stored by then stays. 202: a worker was told, and it ends shortly."""
    ref, _ = services().lookup.job(tenant(), path.job_id)
    outcome, detail = cancel(services(), ref)
    if outcome == "terminal" and detail != TurnStatus.CANCELED:
        raise Conflict(f"Job '{ref.turn_id}' has ended already: it is {detail}.", code="already_ended")
    return answer(current(services(), ref), 202 if outcome == "asked" else 200)


@routes.on("GET", f"{_JOB}/why", answers={200: operating.WhyJob}, problems=(404, 503))
def why_job_waits(path: JobPath) -> Response:
    """Tell where an insert job is, what happens next with it, and what can be done; nothing of its documents."""
    ref, row = services().lookup.job(tenant(), path.job_id)
    facts = services().facts.facts(ref)
    if facts is None:
        raise NotFound("job", path.job_id, listing="GET /v1/jobs")
    job = current(services(), ref)
    return answer(why_job(ref, row, facts, job=job, bank_there=_is_there(job["bank_id"])))


def _is_there(bank_id: str) -> bool:
    """Whether there is such a bank. Those of sessions are in no registry, and have their names."""
    if services().served.registry(tenant()).memory_bank(bank_id) is not None:
        return True
    try:
        return services().sessions.is_there(SessionRef(tenant(), bank_id))
    except InvalidRequest:
        return False  # it is no session's id


@routes.on("POST", f"{_JOB}/requeue", answers={202: types.Job}, problems=(404, 409, 422, 503))
def requeue_job_again(path: JobPath, header: CreationHeaders) -> Response:
    """Run an insert job again that failed or was canceled: as a new job with the same documents, which is the answer.

    What the old one has stored is replaced, not doubled. 409 where the old one has not ended (`not_ended`), completed
    (`completed`), or ended longer than `turns.events_ttl_s` ago (`input_expired`). Each request makes another job,
    unless it has the same Idempotency-Key.
    """
    ref, row = services().lookup.job(tenant(), path.job_id)
    made, replayed = requeue_job(services(), ref, row, idempotency_key=header.idempotency_key)
    headers = {"Location": job_url(made), "Retry-After": "1"} | ({"Idempotent-Replayed": "true"} if replayed else {})
    return answer(current(services(), made), 202, headers)


@routes.on("POST", f"{_JOB}/fail", answers={200: types.Job}, problems=(404, 409, 413, 415, 422, 503))
def fail_job(path: JobPath, body: operating.FailTurn) -> Response:
    """End an unfinished insert job as failed, whoever runs it: `failed_by_operator`. What is stored by then stays."""
    ref, _ = services().lookup.job(tenant(), path.job_id)
    end_as_failed(services(), ref, body.reason)
    return answer(current(services(), ref))


def _listed(job: Listed) -> Json:
    optional = {"worker": job.worker, "error": job.error, "retry_of": job.retry_of}
    return {
        "job_id": job.ref.turn_id,
        "bank_id": bank_of(job.agent_id),
        "status": job.status,
        "attempts": job.attempts,
        "created_at": iso_of(job.created_us),
        **{name: value for name, value in optional.items() if value is not None},
        "url": job_url(job.ref),
    }
