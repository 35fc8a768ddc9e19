"""Reads documents into text.

What is imported here needs no library of the extra `memory`: formats are loaded when a document of theirs comes.
"""

from importlib import import_module
from typing import cast

from worker.documents.errors import UnreadableDocument
from worker.documents.kinds import Kind, MediaType, kind_of
from worker.documents.limits import ReadingLimits
from worker.documents.source import Format, Source, Text, malformed

__all__ = ["UnreadableDocument", "check_size", "load_libraries", "read_text"]


def check_size(body: bytes, limits: ReadingLimits) -> None:
    """Raises UnreadableDocument: `document_too_large`."""
    if len(body) > limits.max_bytes:
        problem = f"The document is larger than {limits.max_bytes:,} bytes. Split it."
        raise UnreadableDocument("document_too_large", problem)


def read_text(
    body: bytes, *, mime_type: str | None = None, name: str | None = None, limits: ReadingLimits | None = None
) -> str:
    """The text of a document, read here and now: a hostile one may take all memory and time (see `DocumentReader`).

    `mime_type` may have parameters, be missing or say nothing (`application/octet-stream`): then the content decides,
    and the extension of `name`. Raises UnreadableDocument; MemoryError.
    """
    limits = limits or ReadingLimits()
    check_size(body, limits)
    media_type = MediaType.parse(mime_type)
    kind = kind_of(body, media_type=media_type, name=name)
    source = Source(body=body, parameters=media_type.parameters, limits=limits)
    text = Text(max_bytes=limits.max_text_bytes)
    try:
        _format(kind).read(source, text)
    except RecursionError:
        raise malformed("The document is nested too deeply.") from None
    return text.finished()


def load_libraries() -> None:
    """Now, and not with the first document that needs them. Raises ImportError."""
    import_module("chardet")
    for kind in Kind:
        _format(kind)


def _format(kind: Kind) -> Format:
    return cast(Format, import_module(f"worker.documents.formats_{kind.value}"))
