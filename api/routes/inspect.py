"""What this service is and how it is."""

import re
from importlib.metadata import version

from flask import Response, current_app

from api.answers import answer
from api.routing import Routes, services
from shared.errors import StoreError
from shared.events import Json
from shared.queues import MEMORY_QUEUE
from shared.types import catalog as types

routes = Routes("inspect", about="The service itself.")

_VERSION = version("turnstone")
_METHODS = frozenset({"GET", "POST", "DELETE"})
_NOT_READY = {
    "description": "Not ready; `detail` says why.",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Health"}}},
}


@routes.on("GET", "/v1/inspect/routes", answers={200: types.RouteList})
def list_routes() -> Response:
    """List the routes of this service."""
    rules = [rule for rule in current_app.url_map.iter_rules() if rule.rule.startswith("/v1/")]
    entries = [
        {"route": _template(rule.rule), "method": method, "provider_types": []}
        for rule in rules
        for method in sorted(_METHODS & (rule.methods or set()))
    ]
    return answer({"data": sorted(entries, key=lambda entry: (entry["route"], entry["method"]))})


def _template(rule: str) -> str:
    return re.sub(r"<(?:[^<>:]+:)?([^<>]+)>", r"{\1}", rule)


@routes.on("GET", "/v1/health", answers={200: types.Health, 503: _NOT_READY})
def health() -> Response:
    """Whether turns can be submitted: the store answers, and a worker has reported what its providers serve.

    A later loss of workers keeps the 200: turns are accepted, and `workers` says how many there are, `memory_workers`
    how many for insert jobs.
    """
    try:
        known = services().registry.read() is not None
        registry = services().registry
        workers = {"workers": registry.workers(), "memory_workers": registry.workers(MEMORY_QUEUE)}
    except StoreError as error:
        return _unhealthy({"detail": f"The store does not answer: {type(error.__cause__).__name__}."})
    if not known:
        detail = "No worker with this run config has reported what its providers serve."
        return _unhealthy({**workers, "detail": detail})
    return answer({"status": "OK", **workers})


def _unhealthy(members: Json) -> Response:
    return answer({"status": "Error", **members}, 503, {"Retry-After": "1"})


@routes.on("GET", "/v1/health/live", answers={200: types.Health})
def live() -> Response:
    """Whether this process answers at all."""
    return answer({"status": "OK"})


@routes.on("GET", "/v1/version", answers={200: types.Version})
def get_version() -> Response:
    """Which release this is."""
    return answer({"version": _VERSION})
