"""The text of what a client sent as a document: the text itself, an address, or a file's bytes in a data URL."""

from typing import Any

from worker.documents.addresses import Allowed
from worker.documents.errors import UnreadableDocument
from worker.documents.fetching import Fetched, fetch
from worker.documents.kinds import can_be_read
from worker.documents.reader import DocumentReader
from worker.memory.query import text_of
from worker.memory.turn_documents import is_address


class Contents:
    """Reads contents. Many greenlets use one; none of it blocks the others of the process."""

    def __init__(self, *, reader: DocumentReader, allowed: Allowed | None = None) -> None:
        self._reader = reader
        self._allowed = allowed or Allowed()

    def __call__(self, content: Any, mime_type: str | None) -> str:
        """The text of a document's content (`shared.types.content.DocumentContent`). Raises UnreadableDocument."""
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

    def close(self) -> None:
        """End what reads."""
        self._reader.close()


_HOW = "Documents of type {} are not read as text. Send the file as a data URL, or the address where it lies."
