"""Errors as problem documents (RFC 9457), with the member `error` that OpenAI's and Llama Stack's clients look for."""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import orjson
from flask import Flask, Response, current_app, request
from werkzeug.exceptions import HTTPException

from api.bodies import BODY_LIMIT
from shared.errors import (
    Conflict,
    FilesFull,
    FileTooLarge,
    InvalidRequest,
    NotFound,
    ProviderError,
    QueueFull,
    SchemaTooNew,
    StoreError,
    TurnstoneError,
    Unauthorized,
    Unavailable,
)

MEDIA_TYPE = "application/problem+json"
UNPROCESSABLE = frozenset({"invalid_fields", "wrong_call_ids", "idempotency_key_reused"})
"""Codes of requests that can be read, but not be done as they are: 422. Others of InvalidRequest are 400."""

_REFUSED, _TAKEN, _FAULT, _BUSY = 400, 409, 502, 503
PROVIDER_STATUS: Mapping[str, int] = {
    "model_not_found": _REFUSED,
    "unsupported_parameter": _REFUSED,
    "provider_bad_request": _REFUSED,
    "shield_not_found": _REFUSED,
    "invalid_shield": _REFUSED,
    "shield_text_too_long": _REFUSED,
    "tool_not_found": _REFUSED,
    "toolgroup_not_found": _REFUSED,
    "toolgroup_refused": _REFUSED,
    "memory_bank_not_found": _REFUSED,
    "memory_bank_refused": _REFUSED,
    "memory_bank_taken": _TAKEN,
    "provider_rate_limited": _BUSY,
    "provider_busy": _BUSY,
    "tool_rate_limited": _BUSY,
    "internal_error": 500,
}
"""What the codes of ProviderError mean to a client that waits for the provider. All others are the provider's fault."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A problem document in the making. `code` is stable, `param` the dotted path of the field that is wrong."""

    status: int
    detail: str
    code: str
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Further members of `error`."""

    def response(self) -> Response:
        title = HTTPStatus(self.status).phrase
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        error = {"message": self.detail, "type": kind, "code": self.code, "param": self.param, **self.facts}
        # No page describes each type, so the type is the status, as section 4.2.1 has it; `error.code` says more.
        body = {"type": "about:blank", "title": title, "status": self.status, "detail": self.detail, "error": error}
        response = Response(orjson.dumps(body), status=self.status, mimetype=MEDIA_TYPE)
        response.headers.extend(self.headers)
        return response


def _invalid(error: InvalidRequest) -> Problem:
    status = 422 if error.code in UNPROCESSABLE else 400
    return Problem(status=status, detail=error.message, code=error.code, param=error.param)


def _not_found(error: NotFound) -> Problem:
    return Problem(status=404, detail=error.message, code="not_found")


def _conflict(error: Conflict) -> Problem:
    # The official SDKs send a POST again after a 409 unless they are told that it will stay.
    headers = {"x-should-retry": "false"} if error.lasting else {"Retry-After": "1"}
    return Problem(status=409, detail=error.message, code=error.code, headers=headers)


def _unavailable(error: Unavailable) -> Problem:
    headers = {"Retry-After": str(error.retry_after)}
    return Problem(status=503, detail=error.message, code=error.code, headers=headers, facts=error.facts)


def _queue_full(error: QueueFull) -> Problem:
    return Problem(status=429, detail=error.message, code="too_many_queued", headers={"Retry-After": "5"})


def _file_too_large(error: FileTooLarge) -> Problem:
    return Problem(status=413, detail=error.message, code="file_too_large", param="file")


def _files_full(error: FilesFull) -> Problem:
    # RFC 4918, section 11.5: not to be repeated by itself. The official SDKs would.
    headers = {"x-should-retry": "false"}
    return Problem(status=507, detail=error.message, code="files_full", param="file", headers=headers)


def _unauthorized(error: Unauthorized) -> Problem:
    # RFC 6750, section 3: no error code where no key was sent.
    challenge = 'Bearer realm="turnstone"' + (', error="invalid_token"' if error.given else "")
    return Problem(status=401, detail=error.message, code="invalid_api_key", headers={"WWW-Authenticate": challenge})


def _provider(error: ProviderError) -> Problem:
    status = PROVIDER_STATUS.get(error.code, _FAULT)
    headers = {}
    if status == _BUSY or error.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after or 1)))
    facts = {"provider_id": error.provider_id or None}
    return Problem(status=status, detail=error.message, code=error.code, headers=headers, facts=facts)


def _store(error: StoreError) -> Problem:
    logger.error("%s", error.message)
    detail = "The store cannot be reached or refuses to work. Try again; the log of the API says why."
    return Problem(status=503, detail=detail, code="store_unavailable", headers={"Retry-After": "1"})


def _too_new(error: SchemaTooNew) -> Problem:
    return Problem(status=503, detail=error.message, code="schema_too_new", headers={"Retry-After": "5"})


_TABLE: Mapping[type[Exception], Callable[[Any], Problem]] = {
    InvalidRequest: _invalid,
    Unauthorized: _unauthorized,
    ProviderError: _provider,
    NotFound: _not_found,
    Conflict: _conflict,
    QueueFull: _queue_full,
    FileTooLarge: _file_too_large,
    FilesFull: _files_full,
    Unavailable: _unavailable,
    StoreError: _store,
    SchemaTooNew: _too_new,
}


def problem_of(error: TurnstoneError) -> Problem:
    """The answer to an error: the entry of its nearest class in the table, else a 500."""
    for kind in type(error).__mro__:
        if (make := _TABLE.get(kind)) is not None:
            return make(error)
    return _unexpected(error)


def _unexpected(error: Exception) -> Problem:
    logger.error("unexpected error in %s %s", request.method, request.path, exc_info=error)
    detail = "Something went wrong in the service. Its log has the details, under this request's X-Request-Id."
    return Problem(status=500, detail=detail, code="internal_error")


def _of_http(error: HTTPException) -> Problem:
    status = error.code or 500
    headers = {name: value for name, value in error.get_headers() if name in ("Allow", "Retry-After")}
    phrase = HTTPStatus(status).phrase
    detail, template = error.description or phrase, _HTTP_DETAILS.get(status)
    if template is not None:
        limit = current_app.config[BODY_LIMIT]
        detail = template.format(method=request.method, path=request.path, limit=limit)
    return Problem(status=status, detail=detail, code=phrase.lower().replace(" ", "_"), headers=headers)


_HTTP_DETAILS = {
    404: "There is no route {method} {path}. GET /v1/inspect/routes lists what exists.",
    405: "{path} does not know {method}. The header Allow names what it knows.",
    413: "The body is larger than {limit} bytes. Send less, or raise limits.body_mb in the run config.",
}


def register_problems(app: Flask) -> None:
    """Have every error of `app` answered with a problem document."""

    @app.errorhandler(TurnstoneError)
    def on_purpose(error: TurnstoneError) -> Response:
        return problem_of(error).response()

    @app.errorhandler(HTTPException)
    def of_http(error: HTTPException) -> Response | HTTPException:
        # A redirect is an HTTPException too, and no problem.
        return error if (error.code or 500) < 400 else _of_http(error).response()

    @app.errorhandler(Exception)
    def unexpected(error: Exception) -> Response:
        return _unexpected(error).response()
