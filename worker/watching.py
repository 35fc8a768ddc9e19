"""Who watches a worker process, as its settings say."""

from shared.settings import Settings
from worker.ended_line import EndedLine
from worker.job_metrics import JobMetrics
from worker.metrics import WorkerMetrics, serve
from worker.observer import Observer, Observers


def build_observer(settings: Settings) -> Observer:
    """The observer of this process; its metrics are served from now on. Raises ConfigError."""
    if not settings.metrics_port:
        return EndedLine()
    metrics = WorkerMetrics(queue=settings.queue)
    jobs = JobMetrics(metrics.registry)
    serve(metrics, host=settings.metrics_host, port=settings.metrics_port)
    return Observers([EndedLine(), metrics, jobs])
