"""The application: routes, problems, and the OpenAPI document at /openapi/openapi.json with its page at /openapi."""

import re
import secrets
from functools import partial
from importlib.metadata import version

from flask import Response, current_app, g, redirect, request
from flask_openapi3.models.info import Info
from flask_openapi3.openapi import OpenAPI

from api import routes
from api.auth import KeyRing, is_open
from api.bodies import BODY_LIMIT
from api.metrics import register_metrics
from api.problems import register_problems
from api.routing import EXTENSION
from api.services import Services
from shared import logs
from shared.errors import InvalidRequest
from shared.types.catalog import Problem

_MEGABYTE = 1_000_000
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


def create_app(services: Services) -> OpenAPI:
    """The WSGI application on `services`."""
    app = OpenAPI(
        __name__,
        info=Info(title="Turnstone", version=version("turnstone"), description="Runs long agent turns."),
        # Every operation documents its 400 by itself; named here so that the library adds no 422 of its own shape.
        validation_error_status=400,
        validation_error_model=Problem,
        security_schemes={},  # the library would write null, which is no valid document
    )
    app.config[BODY_LIMIT] = int(services.limits.body_mb * _MEGABYTE)
    # One more than the limit, because a body without a length is cut there and not refused: see api.bodies.
    app.config["MAX_CONTENT_LENGTH"] = app.config[BODY_LIMIT] + 1
    app.config["SWAGGER_CONFIG"] = {"validatorUrl": None}  # the page asks nobody on the internet
    # An id may hold what it likes, also two slashes in a row: no redirects to a tidier path.
    app.url_map.merge_slashes = False
    app.extensions[EXTENSION] = services
    # The library's own page there is a menu with one entry.
    app.view_functions["openapi.openapi"] = lambda: redirect("/openapi/swagger")
    register_problems(app)
    register_metrics(app, services)
    app.before_request(_screen)
    app.after_request(_stamp)
    for group in routes.ALL:
        app.register_api(group)
    return app


def _screen() -> None:
    """Name the request and its tenant, and refuse what no route takes."""
    path, query, environ = request.path, request.query_string, request.environ  # each `request` is a lookup of its own
    given = environ.get("HTTP_X_REQUEST_ID", "")
    g.request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(16)
    ring: KeyRing = current_app.extensions[EXTENSION].key_ring
    logs.bind(request=g.request_id, turn=(request.view_args or {}).get("turn_id"))
    if not is_open(path):
        g.tenant = ring.tenant(environ.get("HTTP_AUTHORIZATION"))
    if "\0" in path or b"%00" in query or b"\0" in query:
        raise InvalidRequest("The URL holds the character NUL. Remove it.", code="nul_character")
    if "HTTP_X_LLAMASTACK_PROVIDER_DATA" in environ:
        raise InvalidRequest(
            "Keys per request are never taken: the operator gives each provider its credentials in the run config."
            " Leave the header X-LlamaStack-Provider-Data out.",
            param="X-LlamaStack-Provider-Data",
            code="provider_data_refused",
        )


def _stamp(response: Response) -> Response:
    response.headers["X-Request-Id"] = g.request_id
    # Later than the request: a stream is written after it.
    response.call_on_close(partial(logs.bind, request=None, turn=None))
    return response
