"""Keeps what tools return besides text: images in their results, and files."""

import logging
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from hashlib import sha256
from io import BytesIO
from itertools import chain, repeat
from mimetypes import MimeTypes
from pathlib import PurePath

import gevent

from shared.errors import FilesFull, FileTooLarge, StoreError, Unavailable
from shared.events import Json
from shared.files import OCTETS, Files, KeptFile, NewFile, plain_mime_type, wrong_name
from shared.fold import ATTACHMENTS
from shared.ids import file_id_for
from shared.types.files import OUTPUT
from worker.documents.data_urls import body_of, is_data_url
from worker.documents.errors import UnreadableDocument
from worker.providers.tools import ToolFile, ToolResult

logger = logging.getLogger(__name__)

Keep = Callable[[str, str, ToolResult], ToolResult]
"""From a tool's name, the call's idempotency key and its result to the result that names its files."""

_AGAIN_S = (0.1, 0.3, 1.0)
_TRIES = 60
"""A minute: longer than a failover of the store takes."""
_TYPES = MimeTypes()  # the same on each machine, whatever is installed there
_TYPES.add_type("audio/wav", ".wav")
_SIGNATURES = {
    b"\x89PNG": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"RIFF": "image/webp",
}


class Attachments:
    """Keeps files of results. One per worker process.

    A file's id follows from its call, its place in the result and its content. So a call that is made again, or a
    worker that goes on after others have taken its turn over, makes no second file of the same bytes, and none changes.
    """

    def __init__(self, *, files: Files) -> None:
        self._files = files

    def keep(self, tenant: str, tool: str, key: str, result: ToolResult) -> ToolResult:
        """The result with its files kept, named in its metadata and, for the model, at the end of its content.

        What cannot be kept is said there; nothing is raised for it.
        """
        kept: list[Json] = []
        said: list[str] = []
        for index, file in enumerate(_files_of(result)):
            name = _name(tool, index, file)
            new = NewFile(
                file_id=file_id_for(f"{key}:{index}:{sha256(file.data).hexdigest()}"),
                filename=name,
                mime_type=plain_mime_type(file.mime_type),
                purpose=OUTPUT,
                size=len(file.data),
            )
            found = self._put(tenant, new, file.data)
            if isinstance(found, str):
                said.append(f"[not kept: {name} ({new.mime_type}): {found}]")
            else:
                kept.append(_told(found))
                said.append(f"[kept as a file: {name} ({new.mime_type}, {new.size} bytes), {new.file_id}]")
        return _said(result, said, kept)

    def _put(self, tenant: str, new: NewFile, data: bytes) -> KeptFile | str:
        """The file, or why it is not kept. A store that is away is waited for, as for all that the turn writes."""
        for _, pause_s in zip(range(_TRIES), chain(_AGAIN_S, repeat(_AGAIN_S[-1])), strict=False):
            try:
                return self._files.put(tenant, new, BytesIO(data))
            except FileTooLarge:
                return f"it is larger than {self._files.limits.file_bytes} bytes (limits.file_mb)"
            except FilesFull:
                return "the files that are kept leave no room for it (limits.files_mb_per_tenant)"
            except (StoreError, Unavailable) as error:
                logger.warning("a tool's file waits for the store: %s", error)
            gevent.sleep(pause_s)
        return "the store did not take it"


def without_files(result: ToolResult) -> ToolResult:
    """The result where nothing keeps its files: what is left out is said."""
    return _said(result, [f"[left out: {file.mime_type}]" for file in result.files], [])


def _said(result: ToolResult, lines: Sequence[str], kept: Sequence[Json]) -> ToolResult:
    """The result with these lines behind its content. What it says of attachments by itself names no files of ours."""
    metadata = {name: value for name, value in result.metadata.items() if name != ATTACHMENTS}
    if kept:
        metadata[ATTACHMENTS] = list(kept)
    content = result.content
    if isinstance(content, str):
        content = "\n".join([*([content] if content else []), *lines])
    else:
        content = [*content, *({"type": "text", "text": line} for line in lines)]
    return replace(result, content=content, metadata=metadata, files=())


def _told(file: KeptFile) -> Json:
    return {"file_id": file.file_id, "mime_type": file.mime_type, "filename": file.filename, "bytes": file.size}


def _files_of(result: ToolResult) -> Iterator[ToolFile]:
    """The images in its content, in their order, then its files. Of images that lie elsewhere there are no bytes."""
    items: Iterable[Json] = result.content if isinstance(result.content, list) else ()
    images = (_image(item["image"]) for item in items if item.get("type") == "image")
    return (file for file in chain(images, result.files) if file is not None and file.data)


def _image(image: Json) -> ToolFile | None:
    url = (image.get("url") or {}).get("uri") or ""
    try:
        if is_data_url(url):
            data, mime_type = body_of(url, max_bytes=len(url))
        else:
            data, mime_type = b64decode(image.get("data") or "", validate=True), OCTETS
    except (UnreadableDocument, Base64Error, ValueError):
        return None
    known = (kind for sign, kind in _SIGNATURES.items() if data.startswith(sign))
    return ToolFile(data=data, mime_type=next(known, mime_type) if mime_type == OCTETS else mime_type)


def _name(tool: str, index: int, file: ToolFile) -> str:
    """The file's own name without what no name may have, else one of the tool's."""
    given = PurePath(file.filename.replace("\\", "/")).name
    if given and wrong_name(given) is None:
        return given
    ending = _TYPES.guess_extension(file.mime_type.partition(";")[0].strip()) or ""
    return f"{tool}-{index + 1}{ending}"
