"""What a worker's metrics count, and what the observed providers tell."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from shared.errors import ConfigError, ProviderError
from shared.fold import TurnState
from shared.ids import TurnRef
from shared.log.turn_log import Claim
from shared.status import TurnStatus
from worker.ended_line import EndedLine
from worker.metrics import Tally, WorkerMetrics, serve
from worker.observed import observed_inference, observed_safety, observed_tools
from worker.observer import Observer, Observers
from worker.providers.inference import Finished, StopReason, TextDelta
from worker.providers.tools import ToolResult

CREATED, CLAIMED, ENDED = (f"2026-01-01T00:00:0{second}.000000Z" for second in (0, 2, 5))


class Provider:
    """An instance of any kind, which does what the test says."""

    provider_id = "big"
    max_retries = 3

    def __init__(self, *does: Any) -> None:
        self._does = does

    def chat(self, request: object) -> Iterator[Any]:
        for one in self._does:
            if isinstance(one, Exception):
                raise one
            yield one

    def _one(self) -> Any:
        if isinstance(self._does[0], Exception):
            raise self._does[0]
        return self._does[0]

    def run_shield(self, *_: Any) -> Any:
        return self._one()

    def invoke(self, *_: Any, **__: Any) -> Any:
        return self._one()


@pytest.fixture
def metrics() -> WorkerMetrics:
    return WorkerMetrics(queue="turns")


def samples(registry: CollectorRegistry) -> dict[str, float]:
    """Every sample as `name{label="value"}`."""
    found = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def turn(status: TurnStatus = TurnStatus.COMPLETED, **more: Any) -> TurnState:
    return TurnState(turn_id="turn_01_secretive", created_at=CREATED, completed_at=ENDED, status=status, **more)


def claim(kind: str = "start") -> Claim:
    ref = TurnRef("default", "sess_01_a", "turn_01_secretive")
    return Claim(
        ref=ref, token="t", kind=kind, epoch=1, last=1, private_last=1, attempts=1, ordinal=1, claimed_at=CLAIMED,
        first=[], config=[],
    )  # fmt: skip


def test_a_turn_is_counted_from_its_claim_to_its_end(metrics: WorkerMetrics) -> None:
    metrics.claimed(claim(), turn(TurnStatus.QUEUED))
    during = samples(metrics.registry)
    metrics.ended(turn(steps=[{"step_type": "inference"}, {"step_type": "shield_call"}]))
    metrics.left(claim())
    after = samples(metrics.registry)

    assert during["turnstone_worker_turns_running{}"] == 1
    assert after["turnstone_worker_turns_running{}"] == 0
    assert after["turnstone_turns_claimed_total{kind=start}"] == 1
    assert after["turnstone_turn_queue_seconds_sum{}"] == 2
    assert after["turnstone_turns_ended_total{code=,status=completed}"] == 1
    assert after["turnstone_turn_duration_seconds_sum{status=completed}"] == 5
    assert after["turnstone_turn_steps_total{step_type=shield_call}"] == 1


def test_a_resumed_turn_does_not_count_its_clients_time_as_time_in_the_queue(metrics: WorkerMetrics) -> None:
    metrics.claimed(claim("resumed"), turn(TurnStatus.QUEUED))

    assert samples(metrics.registry)["turnstone_turn_queue_seconds_count{}"] == 0


def test_a_failed_turn_is_counted_under_its_code(metrics: WorkerMetrics) -> None:
    metrics.ended(turn(TurnStatus.FAILED, error={"code": "provider_timeout", "message": "No answer."}))

    assert samples(metrics.registry)["turnstone_turns_ended_total{code=provider_timeout,status=failed}"] == 1


def test_no_label_holds_an_id(metrics: WorkerMetrics) -> None:
    metrics.claimed(claim(), turn(TurnStatus.QUEUED))
    metrics.ended(turn())

    assert "secretive" not in generate_latest(metrics.registry).decode()


def test_a_reply_tells_when_it_began_and_how_many_pieces_it_had(metrics: WorkerMetrics) -> None:
    deltas = [TextDelta("a"), TextDelta("b"), Finished(stop_reason=StopReason.END_OF_TURN)]

    read = list(observed_inference(Provider(*deltas), metrics).chat(None))  # type: ignore[arg-type]

    assert read == deltas
    found = samples(metrics.registry)
    assert found["turnstone_first_token_seconds_count{provider=big}"] == 1
    assert found["turnstone_tokens_relayed_total{provider=big}"] == 3


def test_a_provider_that_fails_is_counted_by_its_code_and_the_error_goes_on(metrics: WorkerMetrics) -> None:
    broken = ProviderError("It broke.", provider_id="big", code="provider_timeout")

    with pytest.raises(ProviderError):
        list(observed_inference(Provider(broken), metrics).chat(None))  # type: ignore[arg-type]
    with pytest.raises(ProviderError):
        observed_safety(Provider(broken), metrics).run_shield(None, [])  # type: ignore[arg-type]
    with pytest.raises(ProviderError):
        observed_tools(Provider(broken), metrics).invoke(None, {}, idempotency_key="k")  # type: ignore[arg-type]

    found = samples(metrics.registry)
    for api in ("inference", "safety", "tool_runtime"):
        assert found[f"turnstone_provider_errors_total{{api={api},code=provider_timeout,provider=big}}"] == 1
    assert found["turnstone_tool_calls_total{outcome=failed,provider=big}"] == 1
    assert "turnstone_first_token_seconds_count{provider=big}" not in found


@pytest.mark.parametrize(("error", "outcome"), [(False, "done"), (True, "error")])
def test_a_tools_call_is_counted_by_its_outcome(metrics: WorkerMetrics, error: bool, outcome: str) -> None:
    provider = observed_tools(Provider(ToolResult(content="x", error=error)), metrics)  # type: ignore[arg-type]
    provider.invoke(None, {}, idempotency_key="k")  # type: ignore[arg-type]

    assert samples(metrics.registry)[f"turnstone_tool_calls_total{{outcome={outcome},provider=big}}"] == 1


def test_an_observed_provider_is_itself_in_everything_else() -> None:
    assert observed_inference(Provider(), Observer()).max_retries == 3  # type: ignore[arg-type]


def test_a_reply_that_is_left_closes_the_providers_own(metrics: WorkerMetrics) -> None:
    closed = []

    class Endless(Provider):
        def chat(self, request: object) -> Iterator[Any]:
            try:
                while True:
                    yield TextDelta("a")
            finally:
                closed.append(True)

    reply = observed_inference(Endless(), metrics).chat(None)  # type: ignore[arg-type]
    next(reply)
    reply.close()  # type: ignore[attr-defined]

    assert closed == [True]
    assert samples(metrics.registry)["turnstone_tokens_relayed_total{provider=big}"] == 1


def test_a_tally_counts_each_bucket_with_those_below_it() -> None:
    tally = Tally((1, 10))
    for value in (0.5, 1, 5, 50):
        tally.add(value)

    found = {
        (sample.name, sample.labels.get("le")): sample.value for sample in tally.family("batch", "Batches.").samples
    }
    assert found[("batch_bucket", "1.0")] == 2
    assert found[("batch_bucket", "10.0")] == 3
    assert found[("batch_bucket", "+Inf")] == found[("batch_count", None)] == 4
    assert found[("batch_sum", None)] == 56.5


def test_a_taken_port_is_an_error_that_names_the_variable(metrics: WorkerMetrics) -> None:
    server = serve(metrics, host="127.0.0.1", port=0)
    try:
        with pytest.raises(ConfigError, match="TURNSTONE_METRICS_PORT"):
            serve(metrics, host="127.0.0.1", port=server.server_port)
    finally:
        server.stop()


def test_the_line_of_an_ended_turn_says_how_and_nothing_of_what_was_said(caplog: pytest.LogCaptureFixture) -> None:
    line = Observers([EndedLine()])
    with caplog.at_level(logging.INFO):
        line.claimed(claim(), turn(TurnStatus.QUEUED))
        line.replied("big", first_s=0.1, deltas=3)
        line.replied("big", first_s=0.1, deltas=3)
        line.ended(
            turn(
                TurnStatus.FAILED,
                attempts=2,
                input_messages=[{"role": "user", "content": "my diary"}],
                error={"code": "provider_timeout", "message": "They said my diary."},
            )
        )

    (record,) = caplog.records
    assert record.__dict__["fields"] == {
        "turn": "turn_01_secretive",
        "status": "failed",
        "duration_s": 5.0,
        "steps": 0,
        "attempts": 2,
        "provider": "big",
        "error_code": "provider_timeout",
    }
