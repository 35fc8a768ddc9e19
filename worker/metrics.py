"""A worker's metrics, and the small HTTP server that Prometheus reads them from."""

from bisect import bisect_left
from collections.abc import Iterable
from importlib.metadata import version

from gevent import socket
from gevent.pywsgi import WSGIServer
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, ProcessCollector, make_wsgi_app
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from shared.errors import ConfigError, ProviderError
from shared.fold import TurnState
from shared.ids import is_job_id
from shared.log.turn_log import Claim
from worker.ended_line import seconds_between
from worker.observer import Observer

_LONG_S = (0.1, 0.3, 1, 3, 10, 30, 60, 180, 600, 1800, 3600)
_QUEUE_S = (0.005, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 60, 300, 1800)
_FIRST_S = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120)
_FLUSH_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5)
_BATCH = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Tally:
    """A histogram for what happens very often: adding costs a tenth of what it costs in the library's own.

    For greenlets of one thread: between reading and writing a number there is no switch.
    """

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Iterable[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def family(self, name: str, about: str) -> HistogramMetricFamily:
        """As Prometheus takes it: each bucket with what the smaller ones hold."""
        buckets, total = [], 0
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            total += count
            buckets.append((str(float(bound)) if bound != float("inf") else "+Inf", total))
        return HistogramMetricFamily(name, about, buckets=buckets, sum_value=self._sum)


class WorkerMetrics(Observer, Collector):
    """Counts what a worker process does, but for insert jobs (`worker.job_metrics`). Labels are names from the run
    config and of code, never ids."""

    def __init__(self, *, queue: str) -> None:
        self.registry = CollectorRegistry()
        self._flush_s, self._flush_turns, self._flush_events = Tally(_FLUSH_S), Tally(_BATCH), Tally(_BATCH)
        self.registry.register(self)
        ProcessCollector(registry=self.registry)
        info = Gauge("turnstone_build_info", "1.", ("version", "queue"), registry=self.registry)
        info.labels(version("turnstone"), queue).set(1)
        self._running = self._gauge("turnstone_worker_turns_running", "Turns that this worker runs now.")
        self._claimed = self._counter(
            "turnstone_turns_claimed", "Turns taken up: start, resumed, or recovered from a lost worker.", "kind"
        )
        self._ended = self._counter("turnstone_turns_ended", "Turns that have ended.", "status", "code")
        self._duration = self._histogram(
            "turnstone_turn_duration_seconds", "From acceptance to the end.", _LONG_S, "status"
        )
        self._queue = self._histogram(
            "turnstone_turn_queue_seconds", "From acceptance until a worker took the turn up.", _QUEUE_S
        )
        self._steps = self._counter("turnstone_turn_steps", "Finished steps of turns that have ended.", "step_type")
        self._first = self._histogram(
            "turnstone_first_token_seconds", "From the request to the first piece of the reply.", _FIRST_S, "provider"
        )
        self._relayed = self._counter(
            "turnstone_tokens_relayed", "Pieces of replies, as the provider cuts them.", "provider"
        )
        self._tool_calls = self._counter(
            "turnstone_tool_calls", "Calls of server tools: done, error or failed.", "provider", "outcome"
        )
        self._tool_s = self._histogram("turnstone_tool_call_seconds", "Calls of server tools.", _FIRST_S, "provider")
        self._faults = self._counter(
            "turnstone_provider_errors", "Faults of provider instances, retries left out.", "api", "provider", "code"
        )

    def collect(self) -> Iterable[Metric]:
        yield self._flush_s.family("turnstone_journal_flush_seconds", "Round trips of the journal to the store.")
        yield self._flush_turns.family("turnstone_journal_flush_turns", "Turns that a round trip wrote for.")
        yield self._flush_events.family("turnstone_journal_flush_events", "Events that a round trip wrote.")

    def claimed(self, claim: Claim, turn: TurnState) -> None:
        if claim.ref.is_job:
            return
        self._running.inc()
        self._claimed.labels(claim.kind).inc()
        waited = seconds_between(turn.created_at, claim.claimed_at) if claim.kind == "start" else None
        if waited is not None:
            self._queue.observe(max(0.0, waited))

    def left(self, claim: Claim) -> None:
        if not claim.ref.is_job:
            self._running.dec()

    def ended(self, turn: TurnState) -> None:
        if is_job_id(turn.turn_id):
            return
        self._ended.labels(turn.status.value, turn.error["code"] if turn.error else "").inc()
        duration = seconds_between(turn.created_at, turn.completed_at)
        if duration is not None:
            self._duration.labels(turn.status.value).observe(max(0.0, duration))
        for step in turn.steps:
            self._steps.labels(step["step_type"]).inc()

    def flushed(self, *, turns: int, events: int, seconds: float) -> None:
        self._flush_s.add(seconds)
        self._flush_turns.add(turns)
        self._flush_events.add(events)

    def replied(self, provider_id: str, *, first_s: float | None, deltas: int) -> None:
        if first_s is not None:
            self._first.labels(provider_id).observe(first_s)
        self._relayed.labels(provider_id).inc(deltas)

    def tool_called(self, provider_id: str, *, outcome: str, seconds: float) -> None:
        self._tool_calls.labels(provider_id, outcome).inc()
        self._tool_s.labels(provider_id).observe(seconds)

    def provider_failed(self, api: str, error: ProviderError) -> None:
        self._faults.labels(api, error.provider_id, error.code).inc()

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(name, about, labels, registry=self.registry)

    def _gauge(self, name: str, about: str, *labels: str) -> Gauge:
        return Gauge(name, about, labels, registry=self.registry)

    def _histogram(self, name: str, about: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(name, about, labels, buckets=buckets, registry=self.registry)


def serve(metrics: WorkerMetrics, *, host: str, port: int) -> WSGIServer:
    """Answer Prometheus from now on. Raises ConfigError where the port cannot be had."""
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ConfigError(
            f"The worker cannot serve its metrics on {host}:{port}: {error.strerror}. Each worker process of a machine "
            "needs a TURNSTONE_METRICS_PORT of its own; 0 turns them off."
        ) from error
    server = WSGIServer(listener, make_wsgi_app(metrics.registry), log=None)
    server.start()
    return server
