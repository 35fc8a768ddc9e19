"""Reads multipart forms with a file in them, and no more of a body than a file may have."""

from functools import partial

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


def read_form(model: type[M], limits: FileLimits) -> M:
    """The current request's form; files lie on disk where they are large.

    Raises InvalidRequest, FileTooLarge, or werkzeug's error for its type (415). A body that says that it is too large
    is refused before any of it is kept.
    """
    if request.mimetype != "multipart/form-data":
        raise UnsupportedMediaType("Send a form, with the header 'Content-Type: multipart/form-data; boundary=…'.")
    request.max_content_length = limits.file_bytes + _BESIDE_THE_FILE
    request.max_form_memory_size = _BESIDE_THE_FILE
    request.max_form_parts = _PARTS
    # By itself it takes what it cannot parse for an empty form.
    request.form_data_parser_class = partial(FormDataParser, silent=False)  # type: ignore[assignment]
    try:
        fields, files = request.form.to_dict(), request.files
    except RequestEntityTooLarge:
        pass_over()
        raise limits.refusal() from None
    except (ValueError, ParseException) as error:
        raise InvalidRequest(f"The form cannot be read: {error}.", code="malformed_body") from None
    return validate(model, {**fields, **{name: _only(name, files.getlist(name)) for name in files}})


def _only(name: str, sent: list[FileStorage]) -> FileStorage:
    if len(sent) > 1:
        raise InvalidRequest(f"{name}: send one file in each request.", param=name, code="invalid_fields")
    return sent[0]
