"""Reads JSON bodies strictly: nothing that the log or a provider could choke on later gets in."""

import re
import time

import orjson
from flask import current_app, request
from gunicorn.http.errors import ParseException
from pydantic_core import from_json
from werkzeug.exceptions import RequestEntityTooLarge, UnsupportedMediaType

from shared.errors import InvalidRequest
from shared.events import Json

BODY_LIMIT = "BODY_LIMIT"
"""The key of the app's config that holds how many bytes a body may have."""
MAX_DEPTH = 64
_CHUNK = 1 << 16
_PASS_OVER_BYTES = 256 * 1_000_000
_PASS_OVER_S = 10.0
_CONTAINERS = (dict, list)
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_CHARSETS = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})


def read_object() -> Json:
    """The request's body. Raises InvalidRequest, or werkzeug's error for its size (413) or its type (415)."""
    _check_media_type()
    return parse_object(_read())


def is_empty() -> bool:
    """Whether the request has no body at all."""
    return not request.content_length and "Transfer-Encoding" not in request.headers


def parse_object(raw: bytes) -> Json:
    """A JSON object (RFC 8259) in UTF-8: no NUL, no NaN, whole numbers of 64 bits, at most 64 levels deep.

    Raises InvalidRequest.
    """
    try:
        orjson.loads(raw)  # refuses what is not JSON, and numbers beyond a double
        value = from_json(raw, allow_inf_nan=False, cache_strings="keys")  # keeps every whole number as it is
        text = orjson.dumps(value)  # refuses whole numbers beyond 64 bits: nothing could write them again
    except (ValueError, TypeError) as error:
        raise InvalidRequest(f"The body is not JSON that can be used: {error}.", code="malformed_json") from None
    if not isinstance(value, dict):
        raise InvalidRequest("The body has to be a JSON object.", code="malformed_json")
    if _NUL.search(text):
        raise InvalidRequest("The body holds the character NUL (\\u0000) in a text. Remove it.", code="nul_character")
    if is_deeper(value, MAX_DEPTH):
        raise InvalidRequest(f"The body nests deeper than {MAX_DEPTH} levels.", code="too_deep")
    return value


def is_deeper(value: object, levels: int) -> bool:
    """Whether lists and objects nest deeper than `levels`. Goes level by level: deep JSON hurts what recurses."""
    level = [value] if type(value) in _CONTAINERS else []
    for _ in range(levels):
        if not level:
            return False
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)  # type: ignore[attr-defined]
            if type(child) in _CONTAINERS
        ]
    return bool(level)


def _check_media_type() -> None:
    media_type = request.mimetype
    # Without a type it is taken for JSON: there is nothing else that it could be.
    if media_type not in ("", "application/json") and not media_type.endswith("+json"):
        raise UnsupportedMediaType("Send JSON, with the header 'Content-Type: application/json'.")
    if request.mimetype_params.get("charset", "utf-8").lower() not in _CHARSETS:
        raise UnsupportedMediaType("Send the JSON in UTF-8.")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("Send the body without a Content-Encoding.")


def _read() -> bytes:
    try:
        raw = request.get_data(cache=False)
    except RequestEntityTooLarge:
        pass_over()
        raise
    except ParseException as error:  # of the server: a chunk that is none
        raise InvalidRequest("The body's transfer encoding is broken.", code="malformed_body") from error
    if len(raw) > current_app.config[BODY_LIMIT]:
        pass_over()
        raise RequestEntityTooLarge
    if len(raw) < (request.content_length or 0):
        # What came may be JSON by chance; it is not what the client meant to send.
        raise InvalidRequest("The body ended before its Content-Length.", code="malformed_body")
    return raw


def pass_over() -> None:
    """Read what is left of a body that is too large, within bounds, and keep none of it.

    A client that is still sending when the connection closes sees a reset in place of the answer.
    """
    stream, passed, deadline = request.environ["wsgi.input"], 0, time.monotonic() + _PASS_OVER_S
    try:
        while passed < _PASS_OVER_BYTES and time.monotonic() < deadline:
            chunk = stream.read(_CHUNK)
            if not chunk:
                return
            passed += len(chunk)
    except (OSError, ParseException):
        return  # the client is gone, or sends no body that can be read: there is nobody to spare
