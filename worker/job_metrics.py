"""What a worker process counts of insert jobs, beside what it counts of turns."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from shared.fold import TurnState
from shared.ids import is_job_id
from shared.log.turn_log import Claim
from worker.ended_line import seconds_between
from worker.observer import Observer

_LONG_S = (0.1, 0.3, 1, 3, 10, 30, 60, 180, 600, 1800, 3600, 14400)
_QUEUE_S = (0.005, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 60, 300, 1800)
_BATCH_S = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 60, 180)
INSERTED = "inserted"
"""The outcome of a document that went in; of any other it is the code of its failure."""


class JobMetrics(Observer):
    """Counts insert jobs. Labels are names of code, never ids."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._running = Gauge("turnstone_worker_jobs_running", "Insert jobs that this worker runs.", registry=registry)
        self._claimed = Counter(
            "turnstone_jobs_claimed",
            "Insert jobs taken up: start, or recovered from a lost worker.",
            ("kind",),
            registry=registry,
        )
        self._ended = Counter(
            "turnstone_jobs_ended", "Insert jobs that have ended.", ("status", "code"), registry=registry
        )
        self._duration = Histogram(
            "turnstone_job_duration_seconds",
            "From acceptance to the end.",
            ("status",),
            buckets=_LONG_S,
            registry=registry,
        )
        self._queue = Histogram(
            "turnstone_job_queue_seconds",
            "From acceptance until a worker took the job up.",
            buckets=_QUEUE_S,
            registry=registry,
        )
        self._documents = Counter(
            "turnstone_job_documents", "Documents, by what became of them.", ("outcome",), registry=registry
        )
        self._chunks = Counter("turnstone_job_chunks", "Chunks that were stored.", registry=registry)
        self._batch = Histogram(
            "turnstone_job_batch_seconds",
            "Batches of documents: fetched, read, cut, embedded and stored.",
            buckets=_BATCH_S,
            registry=registry,
        )

    def claimed(self, claim: Claim, turn: TurnState) -> None:
        if not claim.ref.is_job:
            return
        self._running.inc()
        self._claimed.labels(claim.kind).inc()
        waited = seconds_between(turn.created_at, claim.claimed_at) if claim.kind == "start" else None
        if waited is not None:
            self._queue.observe(max(0.0, waited))

    def left(self, claim: Claim) -> None:
        if claim.ref.is_job:
            self._running.dec()

    def ended(self, turn: TurnState) -> None:
        if not is_job_id(turn.turn_id):
            return
        self._ended.labels(turn.status.value, turn.error["code"] if turn.error else "").inc()
        duration = seconds_between(turn.created_at, turn.completed_at)
        if duration is not None:
            self._duration.labels(turn.status.value).observe(max(0.0, duration))

    def inserted(self, *, documents: int, chunks: int, failures: Sequence[str], seconds: float) -> None:
        self._documents.labels(INSERTED).inc(documents)
        for code in failures:
            self._documents.labels(code).inc()
        self._chunks.inc(chunks)
        self._batch.observe(seconds)
