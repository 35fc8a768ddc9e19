"""The text of what a client sent as a document: the text itself, an address, a file's bytes in a data URL, or the id of
a file that was uploaded."""

import logging
from typing import Any

import gevent

from shared.errors import StoreError
from shared.files import Files, joined
from worker.documents.addresses import Allowed
from worker.documents.errors import UnreadableDocument
from worker.documents.fetching import Fetched, fetch
from worker.documents.kinds import can_be_read
from worker.documents.reader import DocumentReader
from worker.memory.query import text_of
from worker.memory.turn_documents import is_address

_STORE_RETRY_S = 0.5

logger = logging.getLogger(__name__)


class Contents:
    """Reads contents. Many greenlets use one; none of it blocks the others of the process."""

    def __init__(self, *, reader: DocumentReader, files: Files, allowed: Allowed | None = None) -> None:
        self._reader = reader
        self._files = files
        self._allowed = allowed or Allowed()

    def __call__(self, content: Any, mime_type: str | None, *, tenant: str) -> str:
        """The text of a document's content (`shared.types.content.DocumentContent`), which may be a file of the tenant.

        Raises UnreadableDocument. A store that is away is waited for.
        """
        if isinstance(content, dict) and "file_id" in content:
            return self._uploaded(content["file_id"], mime_type, tenant)
        if isinstance(content, dict) and "uri" in content:
            return self._fetched(content["uri"], mime_type)
        if isinstance(content, str):
            if is_address(content):
                return self._fetched(content.strip(), mime_type)
            if mime_type is not None and not can_be_read(mime_type):
                raise UnreadableDocument("unsupported_type", _HOW.format(mime_type))
            return self._reader.read(content.encode(errors="replace"), mime_type=mime_type or "text/plain")
        items = content if isinstance(content, list) else [content]
        if any(item.get("type") != "text" for item in items):
            raise UnreadableDocument("unsupported_type", "Images are not read. Send their text.")
        return text_of(items)

    def _fetched(self, url: str, mime_type: str | None) -> str:
        found: Fetched = fetch(url, allowed=self._allowed)
        return self._reader.read(found.body, mime_type=found.mime_type or mime_type, name=found.name)

    def _uploaded(self, file_id: str, mime_type: str | None, tenant: str) -> str:
        while True:
            try:
                file = self._files.get(tenant, file_id)
                body = None if file is None else joined(self._files.read(tenant, file), file.size)
            except StoreError as error:
                logger.warning("a file waits for the store: %s", error)
                gevent.sleep(_STORE_RETRY_S)
                continue
            if file is None or body is None:
                raise UnreadableDocument("file_not_found", _GONE.format(file_id))
            # Plain text is what clients write where they do not know; the file's own name and type say more.
            said = file.mime_type if mime_type in (None, "text/plain") else mime_type
            return self._reader.read(body, mime_type=said, name=file.filename)

    def close(self) -> None:
        """End what reads."""
        self._reader.close()


_GONE = "There is no file '{}': it has expired, was deleted, or never was. Upload it again."
_HOW = "Documents of type {} are not read as text. Send the file as a data URL, or the address where it lies."
