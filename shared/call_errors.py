"""Errors that cross from the worker of a call to its caller, as JSON."""

from typing import Any

from shared.errors import Conflict, InvalidRequest, NotFound, ProviderError, TurnstoneError, Unavailable

Json = dict[str, Any]

_FACTS: dict[type[TurnstoneError], tuple[str, ...]] = {
    InvalidRequest: ("param", "code"),
    NotFound: ("kind", "identifier", "listing"),
    Conflict: ("code", "lasting"),
    Unavailable: ("code", "retry_after"),
    ProviderError: ("provider_id", "code", "status", "retryable", "retry_after"),
}
_CLASSES = {kind.__name__: kind for kind in _FACTS}


def error_as_json(error: TurnstoneError) -> Json:
    """What rebuilds the error elsewhere. One that is not meant for clients becomes an internal one."""
    kind = next((kind for kind in type(error).__mro__ if kind in _FACTS), None)
    if kind is None:
        message = "An unexpected fault in the worker; its log has the details."
        return error_as_json(ProviderError(message, provider_id="", code="internal_error"))
    facts = {name: getattr(error, name) for name in _FACTS[kind]}
    return {"class": kind.__name__, "message": error.message, "facts": facts}


def error_from_json(body: Json) -> TurnstoneError:
    """The inverse of `error_as_json`."""
    facts: Json = body["facts"]
    if body["class"] == NotFound.__name__:
        return NotFound(facts["kind"], facts["identifier"], listing=facts["listing"])
    error: TurnstoneError = _CLASSES[body["class"]](body["message"], **facts)
    return error
