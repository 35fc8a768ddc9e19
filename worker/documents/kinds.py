"""What a document is: by its mime type, and by its content where that says nothing or cannot be right."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import PurePath

import orjson

from worker.documents.errors import UnreadableDocument

DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"


class Kind(StrEnum):
    """What documents are read as. The value names the module that reads it."""

    TEXT = "text"
    """Text as it is: also Markdown, YAML, XML and programs."""
    CSV = "csv"
    JSON = "json"
    HTML = "html"
    PDF = "pdf"
    DOCX = "docx"


_KINDS = {
    "application/csv": Kind.CSV,
    "application/json": Kind.JSON,
    "application/pdf": Kind.PDF,
    "application/toml": Kind.TEXT,
    "application/x-ndjson": Kind.TEXT,
    "application/x-pdf": Kind.PDF,
    "application/x-yaml": Kind.TEXT,
    "application/xhtml+xml": Kind.HTML,
    "application/xml": Kind.TEXT,
    "application/yaml": Kind.TEXT,
    DOCX: Kind.DOCX,
    "text/csv": Kind.CSV,
    "text/html": Kind.HTML,
    "text/json": Kind.JSON,
    "text/tab-separated-values": Kind.CSV,
}
# What servers and browsers send for documents that they do not know.
_VAGUE = frozenset(
    {
        "",
        "*/*",
        "application/download",
        "application/force-download",
        "application/msword",
        "application/octet-stream",
        "application/x-download",
        "application/x-zip-compressed",
        "application/zip",
        "binary/octet-stream",
    }
)
_EXTENSIONS = {
    ".csv": Kind.CSV,
    ".docx": Kind.DOCX,
    ".htm": Kind.HTML,
    ".html": Kind.HTML,
    ".json": Kind.JSON,
    ".log": Kind.TEXT,
    ".markdown": Kind.TEXT,
    ".md": Kind.TEXT,
    ".pdf": Kind.PDF,
    ".tsv": Kind.CSV,
    ".txt": Kind.TEXT,
    ".xhtml": Kind.HTML,
}
_MARKUP = re.compile(
    rb"\s*(<\?xml[^>]*>\s*)?(?><!--(?:(?!-->).)*-->\s*)*+<(!doctype\s+html|html|head|body)[\s>]", re.I | re.S
)
_SNIFFED = 4_096
_SIGNATURES = (b"%PDF-", b"PK\x03\x04", b"{\\rtf", b"\xd0\xcf\x11\xe0")
OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
UTF_BOMS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")


@dataclass(frozen=True, slots=True)
class MediaType:
    """A mime type in lower case, and its parameters."""

    name: str
    parameters: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str | None) -> "MediaType":
        """Of a Content-Type header or the like; what is not said is empty."""
        name, *rest = (text or "").split(";")
        pairs = (part.partition("=") for part in rest)
        return cls(name.strip().lower(), {key.strip().lower(): value.strip(" \t\"'") for key, _, value in pairs})


def can_be_read(mime_type: str) -> bool:
    """Whether documents of this type can be read, or have to be looked into first."""
    name = MediaType.parse(mime_type).name
    return name in _VAGUE or _declared(name) is not None


def is_as_it_is(body: bytes, mime_type: str | None) -> bool:
    """Whether reading it is no more than decoding UTF-8."""
    media_type = MediaType.parse(mime_type)
    charset = media_type.parameters.get("charset", "utf-8").lower()
    if _declared(media_type.name) is not Kind.TEXT or charset != "utf-8" or body.startswith(_SIGNATURES):
        return False
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def kind_of(body: bytes, *, media_type: MediaType, name: str | None = None) -> Kind:
    """Raises UnreadableDocument: `unsupported_type`. `name` is a file's, for its extension."""
    declared = _declared(media_type.name)
    if declared is None and media_type.name not in _VAGUE:
        raise _unsupported("of that type")
    if declared in (Kind.PDF, Kind.DOCX):
        return declared
    # A server that knows nothing about a file calls it text as often as it calls it bytes.
    found = _by_signature(body)
    if found is not None or declared is not None:
        return found or declared or Kind.TEXT
    return _by_content(body, _EXTENSIONS.get(PurePath(name or "").suffix.lower()))


def _declared(name: str) -> Kind | None:
    if name in _KINDS:
        return _KINDS[name]
    if name.endswith("+json"):
        return Kind.JSON
    is_text = name.startswith("text/") and name not in ("text/rtf", "text/richtext")
    return Kind.TEXT if is_text else None


def _by_signature(body: bytes) -> Kind | None:
    if body.startswith(b"%PDF-"):
        return Kind.PDF
    if body.startswith(OLE):
        return Kind.DOCX  # one with a password, or of Word before 2007: its reader tells them apart
    if body.startswith(b"PK\x03\x04"):
        if b"word/" in body:
            return Kind.DOCX
        raise _unsupported("a ZIP archive that is no DOCX")
    if body.startswith(b"{\\rtf"):
        raise _unsupported("RTF")
    return None


def _by_content(body: bytes, by_name: Kind | None) -> Kind:
    head = body[:_SNIFFED]
    if by_name is not None:
        return by_name
    if b"\0" in head and not head.startswith(UTF_BOMS):
        raise _unsupported("not text, and nothing else that is known here")
    if _MARKUP.match(head):
        return Kind.HTML
    return Kind.JSON if head.lstrip()[:1] in (b"{", b"[") and _is_json(body) else Kind.TEXT


def _is_json(body: bytes) -> bool:
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return True


def _unsupported(what: str) -> UnreadableDocument:
    problem = f"The document is {what}. What is read: text, Markdown, CSV, JSON, HTML, PDF and DOCX."
    return UnreadableDocument("unsupported_type", problem)
