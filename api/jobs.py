"""Insert jobs: accepted like turns, each in a session of its own, so that none waits for another."""

from dataclasses import dataclass

from api.services import Services
from api.submitting import confirm, require_durable, until_answered
from shared.clock import now_iso
from shared.errors import InvalidRequest
from shared.events import Json, TurnCreated
from shared.ids import SessionRef, TurnRef, job_ids_for, new_job_id, new_session_id
from shared.job_view import job_agent
from shared.log.sessions import Session
from shared.log.turn_log import PLAIN

_ROUTE = "memory/insert"


@dataclass(frozen=True, slots=True, kw_only=True)
class Insertion:
    """What a client wants to have inserted. `documents` are as `shared.types.memory.MemoryDocument`, or with `chunks`
    in place of a content. `digest` names the request's body."""

    bank_id: str
    documents: list[Json]
    digest: str
    idempotency_key: str | None = None
    ttl_s: int | None = None
    chunk_size_in_tokens: int | None = None


def accept_job(services: Services, tenant: str, insertion: Insertion, *, now_s: float) -> tuple[TurnRef, bool]:
    """Accept an insert job, and have a worker look at it; whether an earlier request had done so.

    Raises InvalidRequest for a bank that is not there, Conflict, and Unavailable.
    """
    services.served.look(tenant, lambda known: known.require_memory_banks([insertion.bank_id], param="bank_id"))
    require_durable(services)

    def create() -> Json:
        _require_files(services, tenant, insertion.documents)
        ref = accepted_job(services, tenant, insertion, now_s)
        return {"session_id": ref.session_id, "job_id": ref.turn_id}

    created, replayed = services.idempotency.once(
        create, tenant=tenant, route=_ROUTE, key=insertion.idempotency_key, digest=insertion.digest
    )
    ref = TurnRef(tenant, created["session_id"], created["job_id"])
    confirm(services, ref)
    return ref, replayed


def accepted_job(services: Services, tenant: str, insertion: Insertion, now_s: float) -> TurnRef:
    """A job, in a session of its own. `now_s` is in seconds since the epoch.

    With an idempotency key its ids follow from the request. So whoever repeats one of which nothing is known but that
    it came (this process died behind the acceptance) finds the same job.
    """
    session_id, job_id = _ids(tenant, insertion)
    agent_id, session = job_agent(insertion.bank_id), SessionRef(tenant, session_id)
    services.sessions.create(
        session,
        Session(
            session_id=session.session_id,
            agent_id=agent_id,
            session_name=_ROUTE,
            started_at=now_iso(),
            idle_ttl_s=services.turns.session_ttl_s,  # the job can be read for so long
        ),
    )
    ref = TurnRef(tenant, session.session_id, job_id)
    event = TurnCreated(
        turn_id=ref.turn_id,
        session_id=ref.session_id,
        agent_id=agent_id,
        input_messages=[],
        documents=[],  # they lie in the private record: who follows a job does not want them back
        created_at=now_iso(),
    )
    config = {
        "insert": {
            "bank_id": insertion.bank_id,
            "documents": insertion.documents,
            "expires_at": None if insertion.ttl_s is None else now_s + insertion.ttl_s,
            "chunk_size_in_tokens": insertion.chunk_size_in_tokens,
        }
    }
    until_answered(services.log.accept, ref, event=event, config=config, digest=insertion.digest, terms=PLAIN)
    services.hints.send(ref)
    return ref


def _require_files(services: Services, tenant: str, documents: list[Json]) -> None:
    """Raise InvalidRequest for a document whose file is not there. One that goes later fails that document alone."""
    named = {at: one["content"]["file_id"] for at, one in enumerate(documents) if _is_file(one.get("content"))}
    known = services.files.known(tenant, set(named.values()))
    for at, file_id in named.items():
        if file_id not in known:
            raise InvalidRequest(
                f"There is no file '{file_id}': it has expired, was deleted, or never was. GET /v1/files lists what is"
                " there.",
                param=f"documents.{at}.content.file_id",
                code="file_not_found",
            )


def _is_file(content: object) -> bool:
    return isinstance(content, dict) and "file_id" in content


def _ids(tenant: str, insertion: Insertion) -> tuple[str, str]:
    """The ids of the job's session and of the job."""
    if insertion.idempotency_key is None:
        session_id = new_session_id()
        return session_id, new_job_id(session_id)
    return job_ids_for("\n".join((tenant, insertion.digest, insertion.idempotency_key)))
