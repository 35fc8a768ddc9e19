"""Which documents of a turn its model reads as they are, which have to be read first, and which a session keeps. Pure.

Short texts and images go to the model as they came. Everything else (addresses, files, what is no plain text, long
texts) is read within the turn's `memory_retrieval` step. Texts that are too long for the context are put into a bank of
the session, and what is found there is shown, in this turn and in later ones.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from shared.events import Json
from worker.memory.query import text_of

SHORT_CHARS = 16_000
"""So much text together is shown without being looked at any further: some 4,000 tokens."""

_PLAIN = frozenset({"", "text/plain", "text/markdown"})
# A text that is an address and nothing else means what lies there, as in Llama Stack.
_ADDRESS = re.compile(r"\s*(?:https?://|data:)\S+\s*", re.IGNORECASE)


def is_address(text: str) -> bool:
    """Whether a document's text stands for what lies there."""
    return _ADDRESS.fullmatch(text) is not None


def as_they_are(documents: Iterable[Json]) -> list[Any]:
    """The contents that the model reads as they are, in order."""
    return [content for _, content in _divided(documents) if content is not None]


def to_read(documents: Iterable[Json]) -> list[tuple[str, Json]]:
    """The documents that have to be read, each with a name that no other one of the turn has, in order."""
    waiting = [document for document, content in _divided(documents) if content is None]
    return list(zip(_names(waiting), waiting, strict=True))


def kept_in(turns: Iterable[Json]) -> dict[str, str]:
    """What a session's bank holds of earlier turns: the documents' names, and what each is called in the bank. Of those
    with one name the last one counts."""
    return {
        name: bank_name(step["step_id"], name)
        for turn in turns
        for step in turn["steps"]
        if step["step_type"] == "memory_retrieval"
        for name in step.get("documents") or ()
    }


def bank_name(step_id: str, name: str) -> str:
    """What a document is called in its session's bank. A step that is run again puts its documents there anew: those
    of the one that was abandoned are never asked for."""
    return f"{step_id}/{name}"


def name_in(bank_name: str) -> str:
    """The inverse of `bank_name`."""
    return bank_name.partition("/")[2]


def _divided(documents: Iterable[Json]) -> list[tuple[Json, Any]]:
    """Each document with what the model reads of it as it is; None for one that has to be read."""
    divided: list[tuple[Json, Any]] = []
    room = SHORT_CHARS
    for document in documents:
        content = _image(document) or _text(document)
        if isinstance(content, str) or isinstance(content, list):
            room -= len(text_of(content))
            content = content if room >= 0 else None
        divided.append((document, content))
    return divided


def _image(document: Json) -> Json | None:
    """The document as an image for the model, which fetches it itself or has it in the address."""
    content = document["content"]
    if isinstance(content, dict) and content.get("type") == "image":
        return content
    uri = content.get("uri") if isinstance(content, dict) else content if isinstance(content, str) else None
    if not isinstance(uri, str) or not is_address(uri):
        return None
    is_image = document.get("mime_type", "").lower().startswith("image/")
    if is_image or uri.lstrip()[:11].lower() == "data:image/":
        return {"type": "image", "image": {"url": {"uri": uri.strip()}}}
    return None


def _text(document: Json) -> Any:
    content = document["content"]
    if document.get("mime_type", "").partition(";")[0].strip().lower() not in _PLAIN:
        return None
    if isinstance(content, str):
        return None if is_address(content) else content
    if isinstance(content, dict):
        return [content] if content.get("type") == "text" else None
    return content


def _names(documents: Sequence[Json]) -> list[str]:
    names: list[str] = []
    for number, document in enumerate(documents, start=1):
        name = base = document.get("document_id") or _file_name(document["content"]) or f"document-{number}"
        times = 1
        while name in names:
            times += 1
            name = f"{base} ({times})"
        names.append(name)
    return names


def _file_name(content: Any) -> str:
    """A file's id, or what a browser would save an address as; empty where that says nothing."""
    if isinstance(content, dict) and "file_id" in content:
        return str(content["file_id"])
    uri = content.get("uri") if isinstance(content, dict) else content
    if not isinstance(uri, str) or not uri.lower().lstrip().startswith("http") or not is_address(uri):
        return ""
    try:
        return PurePosixPath(urlsplit(uri.strip()).path).name[:255]
    except ValueError:
        return ""
