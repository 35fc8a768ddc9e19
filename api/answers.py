"""Answers in JSON."""

from collections.abc import Mapping
from typing import Any

import orjson
from flask import Response


def answer(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """`body` as JSON. It is what the store holds or what was validated on its way in: nothing validates it again."""
    response = Response(orjson.dumps(body), status=status, mimetype="application/json")
    response.headers.extend(headers or {})
    return response


def nothing() -> Response:
    """204: done, and there is nothing to say."""
    response = Response(status=204)
    del response.headers["Content-Type"]
    return response
