"""What is counted of insert jobs, and not of turns."""

import logging
from typing import Any

import pytest
from prometheus_client.exposition import generate_latest
from test_worker_metrics import CLAIMED, CREATED, ENDED, claim, samples, turn

from shared.fold import TurnState
from shared.ids import TurnRef
from shared.log.turn_log import Claim
from shared.status import TurnStatus
from worker.ended_line import EndedLine
from worker.job_metrics import JobMetrics
from worker.metrics import WorkerMetrics
from worker.observer import Observers


@pytest.fixture
def metrics() -> WorkerMetrics:
    return WorkerMetrics(queue="memory")


@pytest.fixture
def both(metrics: WorkerMetrics) -> Observers:
    return Observers([metrics, JobMetrics(metrics.registry)])


def job(status: TurnStatus = TurnStatus.COMPLETED, **more: Any) -> TurnState:
    return TurnState(turn_id="job_01_secretive", created_at=CREATED, completed_at=ENDED, status=status, **more)


def job_claim(kind: str = "start") -> Claim:
    ref = TurnRef("default", "sess_01_a", "job_01_secretive")
    return Claim(
        ref=ref, token="t", kind=kind, epoch=1, last=1, private_last=1, attempts=1, ordinal=1, claimed_at=CLAIMED,
        first=[], config=[],
    )  # fmt: skip


def moved(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """What has another value than before, but for buckets, times of creation and what every process has."""
    return {
        name: value
        for name, value in after.items()
        if before.get(name, 0) != value
        and name.startswith("turnstone_")
        and "_bucket" not in name
        and "_created" not in name
    }


def test_a_job_is_counted_from_its_claim_to_its_end_and_no_turn_is(metrics: WorkerMetrics, both: Observers) -> None:
    begin = samples(metrics.registry)

    both.claimed(job_claim(), job(TurnStatus.QUEUED))
    during = moved(begin, samples(metrics.registry))
    both.inserted(documents=48, chunks=90, failures=["malformed_document", "malformed_document"], seconds=0.5)
    both.ended(job(steps=[{"step_type": "memory_insert"}]))
    both.left(job_claim())

    assert during == {
        "turnstone_worker_jobs_running{}": 1,
        "turnstone_jobs_claimed_total{kind=start}": 1,
        "turnstone_job_queue_seconds_sum{}": 2,
        "turnstone_job_queue_seconds_count{}": 1,
    }
    assert moved(begin, samples(metrics.registry)) == {
        "turnstone_jobs_claimed_total{kind=start}": 1,
        "turnstone_job_queue_seconds_sum{}": 2,
        "turnstone_job_queue_seconds_count{}": 1,
        "turnstone_job_documents_total{outcome=inserted}": 48,
        "turnstone_job_documents_total{outcome=malformed_document}": 2,
        "turnstone_job_chunks_total{}": 90,
        "turnstone_job_batch_seconds_sum{}": 0.5,
        "turnstone_job_batch_seconds_count{}": 1,
        "turnstone_jobs_ended_total{code=,status=completed}": 1,
        "turnstone_job_duration_seconds_sum{status=completed}": 5,
        "turnstone_job_duration_seconds_count{status=completed}": 1,
    }


def test_a_turn_is_counted_and_no_job_is(metrics: WorkerMetrics, both: Observers) -> None:
    begin = samples(metrics.registry)

    both.claimed(claim(), turn(TurnStatus.QUEUED))
    both.ended(turn())
    both.left(claim())

    found = moved(begin, samples(metrics.registry))
    assert "turnstone_turns_ended_total{code=,status=completed}" in found
    assert [name for name in found if "job" in name] == []


def test_a_failed_job_is_counted_under_its_code_and_one_taken_over_as_recovered(
    metrics: WorkerMetrics, both: Observers
) -> None:
    both.claimed(job_claim("recovered"), job(TurnStatus.QUEUED))
    both.ended(job(TurnStatus.FAILED, error={"code": "memory_bank_not_found", "message": "It is gone."}))

    found = samples(metrics.registry)
    assert found["turnstone_jobs_ended_total{code=memory_bank_not_found,status=failed}"] == 1
    assert found["turnstone_jobs_claimed_total{kind=recovered}"] == 1
    assert found["turnstone_job_queue_seconds_count{}"] == 0


def test_no_label_holds_an_id(metrics: WorkerMetrics, both: Observers) -> None:
    both.claimed(job_claim(), job(TurnStatus.QUEUED))
    both.ended(job())

    assert "secretive" not in generate_latest(metrics.registry).decode()


def test_the_line_of_an_ended_job_says_how_far_it_came_and_nothing_of_its_documents(
    caplog: pytest.LogCaptureFixture,
) -> None:
    step = {"step_type": "memory_insert", "done": 50, "chunks": 90, "failed": 2, "failures": [{"document_id": "diary"}]}
    with caplog.at_level(logging.INFO):
        line = EndedLine()
        line.claimed(job_claim(), job(TurnStatus.QUEUED))
        line.ended(job(steps=[step], attempts=1))

    (record,) = caplog.records
    assert record.getMessage() == "job ended"
    assert record.__dict__["fields"] == {
        "turn": "job_01_secretive",
        "status": "completed",
        "duration_s": 5.0,
        "done": 50,
        "chunks": 90,
        "failed": 2,
        "attempts": 1,
    }
