"""What a document is taken for."""

import pytest
from documentkit import archive, docx, paragraph, pdf_of, shown, word

from worker.documents.errors import UnreadableDocument
from worker.documents.kinds import DOCX, Kind, MediaType, can_be_read, is_as_it_is, kind_of

A_PDF = pdf_of(shown("hello"))
A_DOCX = docx(word(paragraph("hello")))
AN_HTML = b"<!-- made by hand --> <!DOCTYPE html><title>x</title>"


def kind(body: bytes, mime_type: str | None = None, name: str | None = None) -> Kind:
    return kind_of(body, media_type=MediaType.parse(mime_type), name=name)


@pytest.mark.parametrize("mime_type", [None, "", "application/octet-stream", "Binary/Octet-Stream", "application/zip"])
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(A_PDF, Kind.PDF, id="a PDF"),
        pytest.param(A_DOCX, Kind.DOCX, id="a DOCX"),
        (AN_HTML, Kind.HTML),
        (b'<?xml version="1.0"?>\n<html xmlns="x">', Kind.HTML),
        (b'{"a": 1}', Kind.JSON),
        (b"[a note] about something", Kind.TEXT),
        (b"just words", Kind.TEXT),
        ("words".encode("utf-16"), Kind.TEXT),
    ],
)
def test_the_content_decides_where_the_type_says_nothing(body: bytes, expected: Kind, mime_type: str | None) -> None:
    assert kind(body, mime_type) is expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a/rows.CSV", Kind.CSV), ("notes.md", Kind.TEXT), ("page.htm", Kind.HTML), ("x.json", Kind.JSON)],
)
def test_a_name_helps_where_the_content_says_nothing(name: str, expected: Kind) -> None:
    assert kind(b"a,b\n1,2", None, name) is expected


def test_the_content_counts_more_than_a_name() -> None:
    assert kind(A_PDF, None, "notes.txt") is Kind.PDF


@pytest.mark.parametrize("mime_type", ["text/plain", "text/html; charset=utf-8", "application/json"])
def test_a_pdf_or_docx_that_is_called_text_is_not_read_as_text(mime_type: str) -> None:
    assert kind(A_PDF, mime_type) is Kind.PDF
    assert kind(A_DOCX, mime_type) is Kind.DOCX
    assert not is_as_it_is(A_PDF, mime_type)


@pytest.mark.parametrize(
    ("mime_type", "expected"),
    [
        ("TEXT/HTML;Charset=x", Kind.HTML),
        ("application/ld+json", Kind.JSON),
        ("application/pdf", Kind.PDF),
        ("application/xhtml+xml", Kind.HTML),
        ("application/xml", Kind.TEXT),
        ("text/tab-separated-values", Kind.CSV),
        ("text/x-python", Kind.TEXT),
        (DOCX, Kind.DOCX),
    ],
)
def test_types_that_are_said_are_used(mime_type: str, expected: Kind) -> None:
    assert kind(b"words", mime_type) is expected
    assert can_be_read(mime_type)


@pytest.mark.parametrize("mime_type", ["image/png", "video/mp4", "application/vnd.ms-excel", "text/rtf", "nonsense"])
def test_other_types_are_refused_with_a_list_of_those_that_are_read(mime_type: str) -> None:
    with pytest.raises(UnreadableDocument, match="text, Markdown, CSV, JSON, HTML, PDF and DOCX") as caught:
        kind(b"words", mime_type)
    assert caught.value.code == "unsupported_type"
    assert not can_be_read(mime_type)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(archive({"xl/workbook.xml": "<x/>"}), id="a spreadsheet"),
        pytest.param(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", id="a picture"),
        pytest.param(b"{\\rtf1 hello}", id="RTF"),
        pytest.param(b"\x7fELF\x02\x01\x01\0\0\0", id="a program"),
    ],
)
def test_what_is_nothing_known_is_refused(body: bytes) -> None:
    with pytest.raises(UnreadableDocument) as caught:
        kind(body)
    assert caught.value.code == "unsupported_type"


def test_comments_before_markup_are_looked_through_in_reasonable_time() -> None:
    assert kind(b"<!---->" * 500) is Kind.TEXT


@pytest.mark.parametrize("mime_type", ["text/plain", "text/markdown; charset=UTF-8", "application/yaml"])
def test_text_in_utf_8_is_read_without_a_child(mime_type: str) -> None:
    assert is_as_it_is("é".encode(), mime_type)
    assert not is_as_it_is("é".encode("latin-1"), mime_type)


@pytest.mark.parametrize("mime_type", [None, "text/csv", "text/html", "text/plain; charset=punycode"])
def test_whatever_may_cost_more_than_its_length_is_read_in_a_child(mime_type: str | None) -> None:
    assert not is_as_it_is(b"words", mime_type)
