"""Files: upload, list, get, download, delete. Also where Llama Stack's client looks for them."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Annotated, Any, Literal

from flask import Response
from flask_openapi3.models.file import FileStorage
from pydantic import BaseModel, Field, field_validator
from werkzeug.datastructures import FileStorage as Sent

from api.answers import answer
from api.routes.parts import CreationHeaders
from api.routing import Answer, Query, Routes, View, services, tenant
from api.uploads import Upload, keep
from shared.errors import InvalidRequest, NotFound
from shared.files import KeptFile, wrong_name
from shared.types import files as types
from shared.types.base import Wire

routes = Routes("files", about="Files: documents that are uploaded, and what tools return besides text.")

_PREFIXES = {"/v1": "", "/v1/openai/v1": "openai_"}
"""Where the routes lie, and what their endpoints begin with. The second one is Llama Stack's client's."""
_FILES = "/files"
_FILE = f"{_FILES}/<file_id>"
_BYTES: Answer = {
    "description": "The file as it was sent. Browsers save it, and never show or run it.",
    "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}},
}
_ONLY_SAVED = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "private",
}


class UploadForm(Wire):
    """A file to upload."""

    file: Annotated[FileStorage, Field(description="The file itself, with its name and its type.")]
    purpose: types.UploadPurpose

    @field_validator("file")
    @classmethod
    def _usable(cls, value: Any) -> Any:
        if not isinstance(value, Sent):
            raise ValueError("has to be a file: a part of the form with a filename")
        problem = wrong_name(value.filename or "")
        if problem is not None:
            raise ValueError(problem)
        return value


class FilePath(BaseModel):
    """A file."""

    file_id: str


class FilesQuery(Query):
    """Which part of the list."""

    after: Annotated[str | None, Field(description="Go on behind the file with this id.")] = None
    limit: Annotated[int, Field(ge=1, le=10_000, description="How many at the most.")] = 10_000
    order: Annotated[Literal["asc", "desc"], Field(description="Oldest or newest first.")] = "desc"
    purpose: types.Purpose | None = None


def _on(method: str, rule: str, *, answers: dict[int, Answer], problems: Iterable[int]) -> Callable[[View], View]:
    """As `Routes.on`, under each prefix."""

    def decorator(view: View) -> View:
        for prefix, name in _PREFIXES.items():
            endpoint = f"{name}{view.__name__}"
            routes.on(method, f"{prefix}{rule}", answers=answers, problems=problems, endpoint=endpoint)(view)
        return view

    return decorator


@_on("POST", _FILES, answers={200: types.File}, problems=(409, 413, 415, 422, 503, 507))
def upload_file(form: UploadForm, header: CreationHeaders) -> Response:
    """Upload a file. It is kept for `limits.file_ttl_s`."""
    upload = Upload.of(form.file, purpose=form.purpose)
    kept, replayed = keep(services(), tenant(), upload, idempotency_key=header.idempotency_key)
    return answer(kept, headers={"Idempotent-Replayed": "true"} if replayed else None)


@_on("GET", _FILES, answers={200: types.FileList}, problems=(422, 503))
def list_files(query: FilesQuery) -> Response:
    """List the files that are there, newest first."""
    after = None if query.after is None else services().files.get(tenant(), query.after)
    if query.after is not None and after is None:
        problem = f"There is no file '{query.after}' any more to go on behind. Begin again without after."
        raise InvalidRequest(problem, param="after", code="file_not_found")
    found, has_more = services().files.page(
        tenant(), after=after, limit=query.limit, newest_first=query.order == "desc", purpose=query.purpose
    )
    ends = (found[0].file_id, found[-1].file_id) if found else ("", "")
    data = [file.as_json() for file in found]
    return answer({"object": "list", "data": data, "first_id": ends[0], "last_id": ends[1], "has_more": has_more})


@_on("GET", _FILE, answers={200: types.File}, problems=(404, 503))
def get_file(path: FilePath) -> Response:
    """Get what is told of a file."""
    return answer(_found(path.file_id).as_json())


@_on("GET", f"{_FILE}/content", answers={200: _BYTES}, problems=(404, 503))
def get_file_content(path: FilePath) -> Response:
    """Download a file."""
    file = _found(path.file_id)
    pieces = services().files.read(tenant(), file)
    first = next(pieces, None)  # before the answer begins: it may have gone just now
    if first is None:
        raise _no_file(path.file_id)
    response = Response(_whole(file, chain([first], pieces)), content_type=file.mime_type)
    response.headers.extend(_ONLY_SAVED)
    response.headers["Content-Length"] = str(file.size)
    response.headers.set("Content-Disposition", "attachment", filename=file.filename)
    return response


@_on("DELETE", _FILE, answers={200: types.FileDeleted}, problems=(404, 503))
def delete_file(path: FilePath) -> Response:
    """Delete a file. What was read of it stays where it was put."""
    if not services().files.delete(tenant(), path.file_id):
        raise _no_file(path.file_id)
    return answer({"id": path.file_id, "object": "file", "deleted": True})


def _found(file_id: str) -> KeptFile:
    file = services().files.get(tenant(), file_id)
    if file is None:
        raise _no_file(file_id)
    return file


def _no_file(file_id: str) -> NotFound:
    return NotFound("file", file_id, listing="GET /v1/files")


def _whole(file: KeptFile, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """A download that cannot be finished is broken off: an end would pass for the file's."""
    left = file.size
    for piece in pieces:
        left -= len(piece)
        yield piece
    if left:
        raise _no_file(file.file_id)
