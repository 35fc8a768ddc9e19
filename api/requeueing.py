"""Runs again what failed or was canceled: a turn as a new turn with its input and its config, in its session; an
insert job as a new job with its documents."""

import time
from hashlib import sha256

import orjson

from api.configs import check_config
from api.jobs import accept_job
from api.services import Services
from api.submitting import Submitted, take_in
from shared.clock import now_iso, seconds_of
from shared.errors import Conflict
from shared.events import Entry, Json, PrivateEntry, TurnCreated, decode
from shared.fold import CONFIG_RECORD, TurnState
from shared.ids import TurnRef, new_turn_id
from shared.insert_jobs import Insertion
from shared.job_view import INSERT
from shared.log.blobs import BlobGone
from shared.log.reader import TurnRow
from shared.log.turn_log import Terms
from shared.status import ACTIVE, TurnStatus


def requeue(services: Services, ref: TurnRef, row: TurnRow, *, idempotency_key: str | None) -> Submitted:
    """Accept a turn that repeats `ref`. Raises what submitting one raises, and Conflict where `ref` cannot be repeated.

    It waits for the session's unfinished turns, whatever the session's strategy is: nobody's turn ends for it.
    """
    _require_repeatable(ref, row)
    created, config = _kept(services, ref)
    services.served.look(ref.tenant, lambda registry: check_config(config, registry))
    new = TurnRef(ref.tenant, ref.session_id, new_turn_id(ref.session_id))
    event = TurnCreated(
        turn_id=new.turn_id,
        session_id=new.session_id,
        agent_id=created.agent_id,
        input_messages=created.input_messages,
        documents=created.documents,
        created_at=now_iso(),
    )
    queue_ttl_s, deadline_s = services.reader.time_limits(ref)
    accepted = take_in(
        services,
        new,
        event=event,
        config=config,
        digest=_digest(ref),
        terms=Terms(strategy="enqueue", queue_ttl_s=queue_ttl_s, deadline_s=deadline_s, retry_of=ref.turn_id),
        idempotency_key=idempotency_key,
    )
    if accepted.repeated:
        return Submitted(ref=TurnRef(new.tenant, new.session_id, accepted.turn_id), turn=None)
    state = TurnState()
    state.apply(event)
    return Submitted(ref=new, turn={**state.as_turn(), "retry_of": ref.turn_id})


def requeue_job(services: Services, ref: TurnRef, row: TurnRow, *, idempotency_key: str | None) -> tuple[TurnRef, bool]:
    """Accept an insert job that repeats `ref`; whether an earlier request had done so.

    Its documents stay as long as those of `ref` would have stayed, counted anew. Raises what inserting raises, and
    Conflict where `ref` cannot be repeated.
    """
    _require_repeatable(ref, row)
    created, config = _kept(services, ref)
    job = config[INSERT]
    if "session_id" in job:
        raise Conflict(f"The job '{ref.turn_id}' is part of a turn. Requeue the turn.", code="job_of_a_turn")
    ttl_s = None if job["expires_at"] is None else round(job["expires_at"] - seconds_of(created.created_at))
    insertion = Insertion(
        bank_id=job["bank_id"],
        documents=job["documents"],
        digest=_digest(ref),
        idempotency_key=idempotency_key,
        expires_at=None if ttl_s is None else time.time() + ttl_s,
        chunk_size_in_tokens=job["chunk_size_in_tokens"],
        retry_of=ref.turn_id,
        route="jobs/requeue",
    )
    return accept_job(services, ref.tenant, insertion)


def _digest(ref: TurnRef) -> str:
    return sha256(f"requeue {ref.member}".encode()).hexdigest()


def _require_repeatable(ref: TurnRef, row: TurnRow) -> None:
    if row.status in ACTIVE:
        raise Conflict(
            f"{_named(ref)} has not ended: it is {row.status}. Wait for its end, cancel it, or fail it first.",
            code="not_ended",
        )
    if row.status is TurnStatus.COMPLETED:
        raise Conflict(f"{_named(ref)} completed: there is nothing to run again.", code="completed")


def _named(ref: TurnRef) -> str:
    return f"{'Job' if ref.is_job else 'Turn'} '{ref.turn_id}'"


def _kept(services: Services, ref: TurnRef) -> tuple[TurnCreated, Json]:
    """The turn's input and config. Both stay for `turns.events_ttl_s` after its end."""
    try:
        first = services.reader.entry(ref, 1)
        private = services.reader.private(ref)
    except BlobGone:
        first, private = None, []
    return _input(ref, first), _config(ref, private)


def _input(ref: TurnRef, first: Entry | None) -> TurnCreated:
    event = None if first is None else decode(first)
    if not isinstance(event, TurnCreated):
        raise _expired(ref)
    return event


def _config(ref: TurnRef, private: list[PrivateEntry]) -> Json:
    if not private or private[0].kind != CONFIG_RECORD:
        raise _expired(ref)
    config: Json = orjson.loads(private[0].payload)
    return config


def _expired(ref: TurnRef) -> Conflict:
    instead = "Insert its documents anew." if ref.is_job else "Submit a new turn; GET the old one for its messages."
    said = f"What it ran with is gone: {_named(ref)} ended more than turns.events_ttl_s ago. {instead}"
    return Conflict(said, code="input_expired")
