"""Insert jobs: accepted like turns, each in a session of its own, so that none waits for another."""

from dataclasses import replace

from api.file_checks import require_files
from api.services import Services
from api.submitting import confirm, require_durable, until_answered
from shared.events import Json
from shared.ids import TurnRef
from shared.insert_jobs import Insertion
from shared.log.turn_log import PLAIN


def accept_job(services: Services, tenant: str, insertion: Insertion) -> tuple[TurnRef, bool]:
    """Accept an insert job, and have a worker look at it; whether an earlier request had done so.

    Raises InvalidRequest for a bank that is not there, Conflict, and Unavailable.
    """
    services.served.look(tenant, lambda known: known.require_memory_banks([insertion.bank_id], param="bank_id"))
    require_durable(services)

    def create() -> Json:
        require_files(services, tenant, insertion.documents)
        ref = accepted_job(services, tenant, insertion)
        return {"session_id": ref.session_id, "job_id": ref.turn_id}

    created, replayed = services.idempotency.once(
        create, tenant=tenant, route=insertion.route, key=insertion.idempotency_key, digest=insertion.digest
    )
    ref = TurnRef(tenant, created["session_id"], created["job_id"])
    confirm(services, ref)
    return ref, replayed


def accepted_job(services: Services, tenant: str, insertion: Insertion) -> TurnRef:
    """A job, in a session of its own."""
    ref = insertion.ref(tenant)
    services.sessions.create(ref.session, insertion.session(ref, idle_ttl_s=services.turns.session_ttl_s))
    until_answered(
        services.log.accept,
        ref,
        event=insertion.created(ref),
        config=insertion.config(),
        digest=insertion.digest,
        terms=replace(PLAIN, retry_of=insertion.retry_of),
    )
    services.hints.send(ref)
    return ref
