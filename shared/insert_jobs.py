"""Insert jobs as the log takes them: turns with another config, each in a hidden session of its own."""

from dataclasses import dataclass

from shared.clock import now_iso
from shared.events import Json, TurnCreated
from shared.ids import TurnRef, job_ids_for, new_job_id, new_session_id
from shared.job_view import INSERT, job_agent
from shared.log.sessions import Session

ROUTE = "memory/insert"


@dataclass(frozen=True, slots=True, kw_only=True)
class Insertion:
    """What is to be inserted. `documents` are as `shared.types.memory.MemoryDocument`, or with `chunks` in place of a
    content. `digest` names the request. Of a session's own bank `session_id` says whose it is; `bank_id` is its name
    for people then. `expires_at` is in seconds since the epoch."""

    bank_id: str
    documents: list[Json]
    digest: str
    idempotency_key: str | None = None
    expires_at: float | None = None
    chunk_size_in_tokens: int | None = None
    session_id: str | None = None
    retry_of: str = ""
    """The job that this one repeats."""
    route: str = ROUTE
    """Where its idempotency key holds."""

    def ref(self, tenant: str) -> TurnRef:
        """Where the job is to be. With an idempotency key it follows from the request: so whoever repeats one of which
        nothing is known but that it came (a process died behind the acceptance) finds the same job."""
        if self.idempotency_key is None:
            session_id = new_session_id()
            return TurnRef(tenant, session_id, new_job_id(session_id))
        return TurnRef(tenant, *job_ids_for("\n".join((tenant, self.digest, self.idempotency_key))))

    def config(self) -> Json:
        """What stands in the place of an agent's config."""
        job: Json = {
            "bank_id": self.bank_id,
            # Each id once, the last one. Batches are fenced against those of other jobs, not against each other: a
            # worker that was stopped with an early batch in hand must not bring back what a later one has replaced.
            "documents": list({document["document_id"]: document for document in self.documents}.values()),
            "expires_at": self.expires_at,
            "chunk_size_in_tokens": self.chunk_size_in_tokens,
        }
        return {INSERT: job if self.session_id is None else {**job, "session_id": self.session_id}}

    def session(self, ref: TurnRef, *, idle_ttl_s: float) -> Session:
        """The job's session: so that no job waits for another. The job can be read for `idle_ttl_s` after its end."""
        return Session(
            session_id=ref.session_id,
            agent_id=job_agent(self.bank_id),
            session_name=ROUTE,
            started_at=now_iso(),
            idle_ttl_s=idle_ttl_s,
        )

    def created(self, ref: TurnRef) -> TurnCreated:
        """The log's first event. The documents lie in the private record: who follows a job does not want them back."""
        return TurnCreated(
            turn_id=ref.turn_id,
            session_id=ref.session_id,
            agent_id=job_agent(self.bank_id),
            input_messages=[],
            documents=[],
            created_at=now_iso(),
        )
