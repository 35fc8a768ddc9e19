"""Reads multipart forms with a file in them, and no more of a body than a file may have."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from tempfile import SpooledTemporaryFile
from typing import Any

from flask import request
from gunicorn.http.errors import ParseException
from werkzeug.datastructures import FileStorage
from werkzeug.exceptions import RequestEntityTooLarge, UnsupportedMediaType
from werkzeug.formparser import FormDataParser

from api.bodies import pass_over
from api.validation import M, validate
from shared.errors import InvalidRequest
from shared.files import FileLimits

_BESIDE_THE_FILE = 64 * 1024
"""Bytes of a body for its boundaries, its headers and its other fields."""
_PARTS = 32
_IN_MEMORY = 512 * 1024


class _Part(SpooledTemporaryFile[bytes]):
    """A file of a form, on disk once it is large. Parsing a large one takes tenths of a second: others go first."""

    def write(self, data: Any) -> int:
        time.sleep(0)
        return super().write(data)


def read_form(model: type[M], limits: FileLimits) -> M:
    """The current request's form. Its files lie on disk where they are large, until the request is over.

    Raises InvalidRequest, FileTooLarge, or werkzeug's error for its type (415). A body that says that it is too large
    is refused before any of it is kept.
    """
    if request.mimetype != "multipart/form-data":
        raise UnsupportedMediaType("Send a form, with the header 'Content-Type: multipart/form-data; boundary=…'.")
    request.max_content_length = limits.file_bytes + _BESIDE_THE_FILE
    request.max_form_parts = _PARTS
    try:
        with _strictly_parsed():
            fields, files = request.form.to_dict(), request.files
    except RequestEntityTooLarge:
        pass_over()
        if 0 < (request.content_length or 0) <= request.max_content_length:
            problem = "The form has more fields, or longer ones, than an upload needs: send `file` and `purpose` alone."
            raise InvalidRequest(problem, code="malformed_body") from None
        raise limits.refusal() from None
    except (ValueError, ParseException) as error:
        problem = str(error).rstrip(".")
        raise InvalidRequest(f"The form cannot be read: {problem}.", code="malformed_body") from None
    return validate(model, {**fields, **{name: _only(name, files.getlist(name)) for name in files}})


@contextmanager
def _strictly_parsed() -> Iterator[None]:
    """Have the form parsed by werkzeug, which by itself takes what it cannot parse for an empty one."""
    opened: list[_Part] = []

    def stream(*_: object, **__: object) -> _Part:
        opened.append(_Part(max_size=_IN_MEMORY))
        return opened[-1]

    request._get_file_stream = stream  # type: ignore[method-assign]
    request.form_data_parser_class = partial(FormDataParser, silent=False)  # type: ignore[assignment]
    try:
        yield
    except BaseException:
        for part in opened:
            part.close()
        raise


def _only(name: str, sent: list[FileStorage]) -> FileStorage:
    if len(sent) > 1:
        raise InvalidRequest(f"{name}: send one file in each request.", param=name, code="invalid_fields")
    return sent[0]
