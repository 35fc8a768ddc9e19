"""The API's metrics at /metrics, and one line in the log per request. Hooks around the views, which know neither."""

import logging
import time
from collections.abc import Iterable
from functools import cache

from flask import Flask, Response, g, request
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from api import metrics_files
from api.services import Services
from shared import logs
from shared.errors import StoreError
from shared.queues import MEMORY_QUEUE

PATH = "/metrics"
SUBMIT = ("POST", "/v1/agents/<agent_id>/session/<session_id>/turn")
_METHODS = frozenset({"GET", "HEAD", "POST", "DELETE", "OPTIONS"})
_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.3, 1, 3, 10, 30)

logger = logging.getLogger(__name__)


class ApiMetrics:
    """Counts requests. Labels are templates of routes, never paths."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "turnstone_api_requests", "Requests.", ("method", "route", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "turnstone_api_request_seconds",
            "Until the answer began; of a request that asks to wait, with its wait.",
            ("route",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._streams = Gauge(
            "turnstone_api_open_streams",
            "Streams of server-sent events that are open now.",
            multiprocess_mode="livesum",
            registry=self.registry,
        )
        self._submitted = Counter(
            "turnstone_turns_submitted", "Turns accepted: new, or repeated by their client.", ("how",),
            registry=self.registry,
        )  # fmt: skip

        # The library looks them up under a lock, each time.
        self._of_route = cache(
            lambda method, route, status: (self._requests.labels(method, route, status), self._seconds.labels(route))
        )

    def answered(self, response: Response, seconds: float) -> None:
        """A view has answered; a stream is only beginning."""
        route = request.url_rule.rule if request.url_rule is not None else "none"
        method = request.method if request.method in _METHODS else "other"
        requests, duration = self._of_route(method, route, response.status_code)
        requests.inc()
        duration.observe(seconds)
        if (method, route) == SUBMIT and response.status_code < 300:
            self._submitted.labels("repeated" if "Idempotent-Replayed" in response.headers else "new").inc()
        # A HEAD request gets no body, and so nothing that is closed.
        if response.mimetype == "text/event-stream" and method != "HEAD":
            self._streams.inc()
            response.call_on_close(self._streams.dec)


class AllProcesses(Collector):
    """What all processes of this API have counted, also those that have ended."""

    def collect(self) -> Iterable[Metric]:
        metrics: Iterable[Metric] = MultiProcessCollector.merge(metrics_files.filled())  # type: ignore[no-untyped-call]
        return metrics


class StoreMetrics(Collector):
    """What the store knows, asked when Prometheus asks. A store that is away costs these numbers and no others."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def collect(self) -> Iterable[Metric]:
        try:
            census, registry = self._services.census(), self._services.registry
            workers, memory_workers = registry.workers(), registry.workers(MEMORY_QUEUE)
        except StoreError:
            yield GaugeMetricFamily("turnstone_store_up", "Whether the store answers.", value=0)
            return
        yield GaugeMetricFamily("turnstone_store_up", "Whether the store answers.", value=1)
        yield GaugeMetricFamily("turnstone_workers_alive", "Workers heard of in the last 15 s.", value=workers)
        yield GaugeMetricFamily(
            "turnstone_memory_workers_alive",
            "Workers for insert jobs heard of in the last 15 s.",
            value=memory_workers,
        )
        yield GaugeMetricFamily("turnstone_jobs_running", "Insert jobs that a worker holds.", value=census.jobs_running)
        yield GaugeMetricFamily(
            "turnstone_jobs_waiting", "Insert jobs that no worker has taken up.", value=census.jobs_waiting
        )
        yield GaugeMetricFamily("turnstone_turns_running", "Turns that a worker holds.", value=census.running)
        yield GaugeMetricFamily(
            "turnstone_turns_waiting",
            "Turns at the head of their session that no worker has taken up.",
            value=census.waiting,
        )
        yield GaugeMetricFamily(
            "turnstone_due_overdue_seconds",
            "How late the first of what is due is: more than a few seconds means that no worker looks.",
            value=census.overdue_s,
        )
        yield GaugeMetricFamily(
            "turnstone_turns_unfolded", "Ended turns whose snapshot no worker has made yet.", value=census.unfolded
        )


def register_metrics(app: Flask, services: Services) -> None:
    """Count and log every request of `app`, and answer at /metrics for all of its processes."""
    metrics, store = ApiMetrics(), StoreMetrics(services)

    @app.before_request
    def begin() -> None:
        g.begun = time.monotonic()

    @app.after_request
    def end(response: Response) -> Response:
        seconds = time.monotonic() - g.begun
        metrics.answered(response, seconds)
        _log(response, seconds)
        return response

    def show() -> Response:
        # With several processes the numbers lie in files, and the registry of one has only its own.
        shown = AllProcesses() if metrics_files.is_made() else metrics.registry
        body = generate_latest(shown) + generate_latest(store)
        return Response(body, content_type=CONTENT_TYPE_LATEST)

    # As Flask's own: it is no part of the API, and so not of its document.
    app.add_url_rule(PATH, view_func=show)


def _log(response: Response, seconds: float) -> None:
    """Neither query nor body: what users wrote stays out of the log."""
    if response.status_code >= 500:
        level = logging.ERROR
    elif logger.isEnabledFor(logging.DEBUG):
        level = logging.DEBUG
    else:
        return
    # A submit names its turn in no other place.
    turn = response.headers.get("Location", "").partition("/turn/")[2] or None
    told = logs.fields(
        method=request.method, path=request.path, status=response.status_code, duration_s=seconds, turn=turn
    )
    logger.log(level, "request", extra=told)
