"""Takes uploaded files in."""

import os
import time
from dataclasses import dataclass
from hashlib import sha256
from typing import IO

from werkzeug.datastructures import FileStorage

from api.idempotency import digest_of
from api.services import Services
from shared.errors import InvalidRequest
from shared.events import Json
from shared.files import NewFile, pieces_of, plain_mime_type
from shared.ids import file_id_for, new_file_id

_ROUTE = "files"


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A file as a client has sent it."""

    body: IO[bytes]
    filename: str
    mime_type: str
    purpose: str
    size: int

    @classmethod
    def of(cls, sent: FileStorage, *, purpose: str) -> "Upload":
        """Raises InvalidRequest for an empty file."""
        size = sent.stream.seek(0, os.SEEK_END)
        if size == 0:
            raise InvalidRequest("file: the file is empty.", param="file", code="invalid_fields")
        return cls(
            body=sent.stream,
            filename=sent.filename or "",
            mime_type=plain_mime_type(sent.content_type),
            purpose=purpose,
            size=size,
        )

    def digest(self) -> str:
        """Names what was sent: not the form's text, whose boundary is another one each time."""
        content = sha256()
        self.body.seek(0)
        for piece in pieces_of(self.body):
            content.update(piece)
            time.sleep(0)  # under gevent: others have their turn
        told = {"filename": self.filename, "mime_type": self.mime_type, "purpose": self.purpose}
        return digest_of({**told, "content": content.hexdigest()})


def keep(services: Services, tenant: str, upload: Upload, *, idempotency_key: str | None) -> tuple[Json, bool]:
    """The file as clients get it, and whether an earlier request has sent it.

    With an idempotency key its id follows from the request. So whoever repeats one of which nothing is known but that
    it came (this process died behind the writing) finds the same file. Raises FileTooLarge, FilesFull, InvalidRequest,
    Conflict and Unavailable.
    """
    if upload.size > services.files.limits.file_bytes:
        raise services.files.limits.refusal()
    digest = "" if idempotency_key is None else upload.digest()
    file_id = new_file_id() if idempotency_key is None else file_id_for("\n".join((tenant, digest, idempotency_key)))

    def create() -> Json:
        upload.body.seek(0)
        new = NewFile(
            file_id=file_id,
            filename=upload.filename,
            mime_type=upload.mime_type,
            purpose=upload.purpose,
            size=upload.size,
        )
        return services.files.put(tenant, new, upload.body).as_json()

    return services.idempotency.once(create, tenant=tenant, route=_ROUTE, key=idempotency_key, digest=digest)
