"""Documents that were made to do harm: each is refused, and the child that read it reads the next one."""

import io
import zipfile
import zlib
from collections.abc import Iterator

import pytest
from documentkit import RELATIONSHIPS, docx, paragraph, pdf, pdf_of, shown, stream, word

from worker.documents.errors import UnreadableDocument
from worker.documents.limits import MB, ReadingLimits
from worker.documents.reader import DocumentReader

LIMITS = ReadingLimits(children=1, max_unpacked_bytes=20 * MB, max_text_bytes=MB // 2, max_memory_bytes=512 * MB)
FLATE = b"/Filter /FlateDecode"
LAUGHTER = "".join(f"<!ENTITY a{n + 1} '{f'&a{n};' * 10}'>" for n in range(9))
LAUGHS = f"<!DOCTYPE x [<!ENTITY a0 'ha'>{LAUGHTER}]>"
SHOWN = b"BT /F1 12 Tf (aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa) Tj ET\n"
LOOP = b"<< /Type /Pages /Kids [2 0 R] /Count 1 >>"


@pytest.fixture(scope="module")
def reader() -> Iterator[DocumentReader]:
    one = DocumentReader(limits=LIMITS)
    yield one
    one.close()


def lying_about_its_size(document: str) -> bytes:
    """The directory of this archive says that its document has ten bytes."""
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("_rels/.rels", RELATIONSHIPS)
        archive.writestr("word/document.xml", document)
        archive.getinfo("word/document.xml").file_size = 10
    return output.getvalue()


def with_entities(definitions: str, body: str) -> bytes:
    return docx(word(body).replace("?>", f"?>{definitions}", 1))


def overlapping() -> bytes:
    """A thousand names for the same packed bytes."""
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", word(paragraph("x" * MB)))
        first = archive.infolist()[0]
        archive.filelist.extend([first] * 1_000)
    return output.getvalue()


HOSTILE = {
    "a DOCX that unpacks to more than the limit": (
        docx(word(paragraph("x" * 30_000_000))),
        "document_too_large",
    ),
    "a DOCX of few bytes and of much text": (
        docx(word(paragraph("words of it") * 60_000)),
        "document_too_large",
    ),
    "a DOCX that lies about its size": (
        lying_about_its_size(word(paragraph("x" * 10_000_000))),
        "malformed_document",
    ),
    "a DOCX of parts that overlap": (overlapping(), "document_too_large"),
    "a DOCX with more parts than any": (
        docx(word(""), **{f"part{n}": "" for n in range(10_001)}),
        "document_too_large",
    ),
    "a billion laughs": (with_entities(LAUGHS, paragraph("&a9;")), "malformed_document"),
    "a billion laughs in an attribute": (with_entities(LAUGHS, '<w:p w:x="&a9;"/>'), "malformed_document"),
    "an external entity": (
        with_entities('<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>', paragraph("hello &e;")),
        "malformed_document",
    ),
    "an external definition": (
        with_entities('<!DOCTYPE x SYSTEM "http://127.0.0.1:1/x.dtd">', paragraph("hello &e;")),
        "malformed_document",
    ),
    "a parameter entity": (
        with_entities('<!DOCTYPE x [<!ENTITY % e SYSTEM "file:///etc/passwd"> %e;]>', paragraph("hello")),
        "malformed_document",
    ),
    "a DOCX nested without end": (docx(word("<w:tbl>" * 100_000)), "malformed_document"),
    "a PDF stream that unpacks to more than the limit": (
        pdf_of(stream(zlib.compress(bytes(100_000_000), 9), FLATE)),
        "document_too_large",
    ),
    "a PDF stream that is packed twice": (
        pdf_of(stream(zlib.compress(zlib.compress(bytes(100_000_000), 9), 9), b"/Filter [/FlateDecode /FlateDecode]")),
        "document_too_large",
    ),
    "a PDF with more filters than any": (
        pdf_of(stream(b"x", b"/Filter [" + b"/ASCIIHexDecode " * 1_000 + b"]")),
        "document_too_large",
    ),
    "a PDF of few bytes and of much text": (
        pdf_of(stream(zlib.compress(SHOWN * 20_000, 9), FLATE)),
        "document_too_large",
    ),
    "a PDF with an array nested without end": (pdf_of(b"[" * 100_000 + b"]" * 100_000), "malformed_document"),
    "a PDF page with an array nested without end": (
        pdf_of(stream(b"BT " + b"[" * 100_000 + b"]" * 100_000 + b" TJ ET")),
        "malformed_document",
    ),
    "a PDF whose pages are in themselves": (pdf(b"<< /Type /Catalog /Pages 2 0 R >>", LOOP), "malformed_document"),
    "HTML nested without end": (b"<html>" + b"<div>" * 1_000_000, "malformed_document"),
    "HTML with comments that do not end": (b"<html><body>" + b"<!--" * 500_000, "empty_document"),
    "JSON nested without end": (b'{"a":' * 1_000_000 + b"1" + b"}" * 1_000_000, "malformed_document"),
}


@pytest.mark.parametrize(("body", "code"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_document_fails_alone(reader: DocumentReader, body: bytes, code: str) -> None:
    mime_type = "application/json" if body.startswith(b"{") else None
    with pytest.raises(UnreadableDocument) as caught:
        reader.read(body, mime_type=mime_type)
    assert caught.value.code == code
    assert "root:" not in caught.value.message
    assert reader.read(pdf_of(shown("the next one"))) == "the next one"


def test_xml_that_is_text_is_never_parsed(reader: DocumentReader) -> None:
    text = f"{LAUGHS}<x>&a9;</x>"
    assert reader.read(text.encode(), mime_type="application/xml") == text


def test_html_defines_no_entities(reader: DocumentReader) -> None:
    page = '<!DOCTYPE html [<!ENTITY e SYSTEM "file:///etc/passwd">]><p>&e; stays'
    assert "root:" not in reader.read(page.encode(), mime_type="text/html")
