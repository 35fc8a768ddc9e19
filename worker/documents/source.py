"""What formats read from, and what they write to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from worker.documents.errors import UnreadableDocument
from worker.documents.limits import ReadingLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A document. `parameters` are those of its mime type."""

    body: bytes
    parameters: Mapping[str, str] = field(default_factory=dict)
    limits: ReadingLimits = field(default_factory=ReadingLimits)

    @property
    def charset(self) -> str | None:
        """What the mime type says about it."""
        return self.parameters.get("charset")


class Text:
    """The text of a document as it grows."""

    def __init__(self, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._room = max_bytes
        self._pieces: list[str] = []

    def add(self, piece: str) -> None:
        """Raises UnreadableDocument: `document_too_large`."""
        self._room -= len(piece) if piece.isascii() else len(piece.encode("utf-8", "surrogatepass"))
        if self._room < 0:
            problem = f"The document has more than {self._max_bytes:,} bytes of text. Split it."
            raise UnreadableDocument("document_too_large", problem)
        self._pieces.append(piece)

    def line(self, line: str = "") -> None:
        """As `add`."""
        self.add(line + "\n")

    def finished(self) -> str:
        """As it can be stored everywhere: lines end with a newline, no NUL, no halves of characters.

        Raises UnreadableDocument: `empty_document`.
        """
        text = "".join(self._pieces).replace("\r\n", "\n").replace("\r", "\n").replace("\0", "").strip("\n")
        if not text or text.isspace():
            problem = "There is no text in the document. If its pages are pictures, they have to go through OCR first."
            raise UnreadableDocument("empty_document", problem)
        return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


class Format(Protocol):
    """A module that reads documents of one kind."""

    def read(self, source: Source, text: Text) -> None:
        """Write the document's text. Raises UnreadableDocument; anything else says that it is malformed."""


def malformed(problem: str) -> UnreadableDocument:
    """For a document that is not what it should be."""
    return UnreadableDocument("malformed_document", problem)
