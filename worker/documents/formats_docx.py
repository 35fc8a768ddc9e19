"""DOCX: the text of its body, its tables and its notes, out of the archive of XML that it is."""

import io
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

from lxml import etree  # type: ignore[import-untyped]

from worker.documents.errors import UnreadableDocument
from worker.documents.kinds import OLE
from worker.documents.source import Source, Text, malformed
from worker.documents.word import Body

_MAX_PARTS = 10_000
_NO_DOCX = "The document is no valid DOCX, or is incomplete."
_NOTES = ("word/footnotes.xml", "word/endnotes.xml")
_MAIN = "/officeDocument"


def read(source: Source, text: Text) -> None:
    if source.body.startswith(OLE):
        raise _of_another_time(source.body)
    try:
        with zipfile.ZipFile(io.BytesIO(source.body)) as archive:
            _check(archive, source.limits.max_unpacked_bytes)
            names = set(archive.namelist())
            for part in (_main_part(archive, names), *_NOTES):
                if part in names:
                    _read_part(archive, part, text)
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, NotImplementedError, etree.XMLSyntaxError):
        raise malformed(_NO_DOCX) from None


def _check(archive: zipfile.ZipFile, max_unpacked_bytes: int) -> None:
    """By what the archive says. One that lies ends where its part does: no more is unpacked than it says."""
    parts = archive.infolist()
    if len(parts) > _MAX_PARTS or sum(part.file_size for part in parts) > max_unpacked_bytes:
        problem = f"The document has more than {max_unpacked_bytes:,} bytes, or {_MAX_PARTS:,} parts, packed in it."
        raise UnreadableDocument("document_too_large", problem)
    if any(part.flag_bits & 1 for part in parts):
        raise _encrypted()


def _main_part(archive: zipfile.ZipFile, names: set[str]) -> str:
    """Nearly always word/document.xml; the relationships of the package say it."""
    if "_rels/.rels" in names:
        for _, element in _events(archive, "_rels/.rels"):
            if element.get("Type", "").endswith(_MAIN):
                name = element.get("Target", "").lstrip("/")
                if name in names:
                    return str(name)
    if "word/document.xml" not in names:
        raise malformed(_NO_DOCX)
    return "word/document.xml"


def _read_part(archive: zipfile.ZipFile, part: str, text: Text) -> None:
    body = Body(text.line)
    for event, element in _events(archive, part):
        if event == "start":
            body.begin(element.tag)
            continue
        body.end(element.tag, element.text or "")
        element.clear()
        parent = element.getparent()
        while element.getprevious() is not None:  # an empty shell of each paragraph would stay otherwise
            del parent[0]


def _events(archive: zipfile.ZipFile, part: str) -> Iterator[tuple[str, Any]]:
    """No entity is expanded, nothing is loaded from elsewhere, and libxml2's limits on depth and length hold."""
    with archive.open(part) as content:
        events = etree.iterparse(
            content,
            events=("start", "end"),
            huge_tree=False,
            load_dtd=False,
            no_network=True,
            remove_comments=True,
            remove_pis=True,
            resolve_entities=False,
        )
        for number, (event, element) in enumerate(events):
            if number == 0 and element.getroottree().docinfo.internalDTD is not None:
                raise malformed("The document defines entities, as no word processor does.")
            yield event, element


def _of_another_time(body: bytes) -> UnreadableDocument:
    """The container of Word before 2007, which today's Word puts around what has a password."""
    if "EncryptedPackage".encode("utf-16-le") in body:
        return _encrypted()
    problem = "The document is in the format of Word before 2007. Save it as DOCX and send that."
    return UnreadableDocument("unsupported_type", problem)


def _encrypted() -> UnreadableDocument:
    problem = "The document needs a password. Remove it and send the document again."
    return UnreadableDocument("encrypted_document", problem)
