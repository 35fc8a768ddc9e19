"""What a development stack consists of: which processes, with which commands and environment."""

import sys
from collections.abc import Mapping

from shared.cli.child import ChildSpec
from shared.cli.store import LocalStore
from shared.queues import CALLS_QUEUE, MEMORY_QUEUE, TURNS_QUEUE
from shared.settings import Settings

API_COMMAND: tuple[str, ...] = (sys.executable, "-m", "gunicorn", "-c", "python:api.gunicorn_conf", "api.wsgi:app")
WORKER_COMMAND: tuple[str, ...] = (sys.executable, "-m", "worker")

# Stages, in the order of starting; stopping goes the other way round. Their graces add up to less than the
# ten seconds in which a stop has to be done.
STORE, WORKER, API = 0, 1, 2
STORE_GRACE_S, WORKER_GRACE_S, API_GRACE_S = 2.0, 3.5, 3.5
JOBS_AT_ONCE = 4
"""Insert jobs of a worker: reading and cutting documents takes a core."""
WORKER_DRAIN_S = 2  # and a moment to give turns back


def store_child(store: LocalStore, *, environ: Mapping[str, str]) -> ChildSpec:
    """The store's own server. `environ` is what it inherits."""
    return ChildSpec(
        name="store",
        command=store.command(),
        environ=store.environ(environ),
        stage=STORE,
        grace_s=STORE_GRACE_S,
    )


def room_children(settings: Settings, *, environ: Mapping[str, str], memory: bool) -> list[ChildSpec]:
    """The workers, one for calls, one for insert jobs where there is `memory` to put documents into, and the API.
    `environ` is what they inherit; the settings go on top of it."""
    env = {
        **environ,
        **settings.as_environ(),
        "TURNSTONE_QUEUE": TURNS_QUEUE,
        "TURNSTONE_DRAIN_S": str(min(settings.drain_s, WORKER_DRAIN_S)),
        "PYTHONUNBUFFERED": "1",
    }
    workers = [
        ChildSpec(
            name=f"worker-{number}",
            command=WORKER_COMMAND,
            environ={**env, **_metrics_port(settings, number - 1)},
            stage=WORKER,
            grace_s=WORKER_GRACE_S,
        )
        for number in range(1, settings.workers + 1)
    ]
    calls = ChildSpec(
        name="calls",
        command=WORKER_COMMAND,
        environ={**env, "TURNSTONE_QUEUE": CALLS_QUEUE, **_metrics_port(settings, settings.workers)},
        stage=WORKER,
        grace_s=WORKER_GRACE_S,
    )
    jobs = ChildSpec(
        name="memory",
        command=WORKER_COMMAND,
        environ={
            **env,
            "TURNSTONE_QUEUE": MEMORY_QUEUE,
            "TURNSTONE_CONCURRENCY": str(JOBS_AT_ONCE),
            **_metrics_port(settings, settings.workers + 1),
        },
        stage=WORKER,
        grace_s=WORKER_GRACE_S,
    )
    api = ChildSpec(name="api", command=API_COMMAND, environ=env, stage=API, grace_s=API_GRACE_S)
    return [*workers, calls, *([jobs] if memory else []), api]


def _metrics_port(settings: Settings, place: int) -> dict[str, str]:
    """Each worker process serves its metrics on a port of its own, from TURNSTONE_METRICS_PORT upwards."""
    port = settings.metrics_port
    return {"TURNSTONE_METRICS_PORT": str(port + place if port else 0)}
