"""Documents that are text: encodings, JSON, CSV."""

import codecs

import pytest

from worker.documents.errors import UnreadableDocument
from worker.documents.limits import ReadingLimits
from worker.documents.reading import read_text

FRENCH = "Le café crème était déjà froid, à côté de la fenêtre."
RUSSIAN = "Привет, мир! Это обычный русский текст про погоду."


def refused(body: bytes, mime_type: str | None = None, **limits: int) -> UnreadableDocument:
    with pytest.raises(UnreadableDocument) as caught:
        read_text(body, mime_type=mime_type, limits=ReadingLimits(**limits))
    return caught.value


@pytest.mark.parametrize("charset", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"])
def test_text_is_read_in_the_encoding_that_its_bytes_show(charset: str) -> None:
    assert read_text(FRENCH.encode(charset), mime_type="text/plain") == FRENCH


@pytest.mark.parametrize("mark", [codecs.BOM_UTF16_BE, codecs.BOM_UTF16_LE])
def test_a_byte_order_mark_counts_more_than_what_is_said(mark: bytes) -> None:
    body = mark + FRENCH.encode("utf-16-be" if mark == codecs.BOM_UTF16_BE else "utf-16-le")
    assert read_text(body, mime_type="text/plain; charset=iso-8859-1") == FRENCH


def test_an_encoding_of_another_alphabet_is_found_without_a_word_about_it() -> None:
    assert read_text(RUSSIAN.encode("cp1251"), mime_type="text/plain") == RUSSIAN


def test_an_encoding_that_is_said_is_used() -> None:
    text = "日本語のテキストです。"
    assert read_text(text.encode("iso-2022-jp"), mime_type='text/plain; charset="ISO-2022-JP"') == text


def test_a_server_that_calls_everything_latin_1_is_not_believed_about_utf_8() -> None:
    assert read_text(FRENCH.encode(), mime_type="text/plain; charset=ISO-8859-1") == FRENCH


@pytest.mark.parametrize("charset", ["zip", "base64", "hex", "no-such-charset", "rot13", "a\0b"])
def test_what_is_no_encoding_of_text_is_not_used_as_one(charset: str) -> None:
    assert read_text(FRENCH.encode(), mime_type=f"text/plain; charset={charset}") == FRENCH


def test_bytes_that_are_no_text_are_refused() -> None:
    error = refused(bytes(range(256)) * 10, "text/plain")
    assert error.code == "malformed_document"
    assert "UTF-8" in error.message


def test_markdown_is_kept_as_it_is() -> None:
    text = "# Title\n\n* one\n* *two* <b>three</b>\n\n    code"
    assert read_text(text.encode(), mime_type="text/markdown") == text


def test_lines_end_with_newlines_wherever_they_come_from() -> None:
    assert read_text(b"one\r\ntwo\rthree\n", mime_type="text/plain") == "one\ntwo\nthree"


@pytest.mark.parametrize("body", [b"", b" \n\t\r\n", codecs.BOM_UTF8])
def test_a_document_without_text_is_empty(body: bytes) -> None:
    assert refused(body, "text/plain").code == "empty_document"


def test_a_document_larger_than_the_limit_is_not_looked_at() -> None:
    assert refused(b"x" * 101, "application/pdf", max_bytes=100).code == "document_too_large"


def test_text_counts_in_bytes() -> None:
    assert read_text("é".encode() * 50, mime_type="text/plain", limits=ReadingLimits(max_text_bytes=100))
    assert refused("é".encode() * 51, "text/plain", max_text_bytes=100).code == "document_too_large"


def test_json_is_kept_as_it_was_written() -> None:
    text = '{\n  "price": 1.10,\n  "id": 123456789012345678901234567890\n}'
    assert read_text(text.encode(), mime_type="application/json") == text


def test_escaped_characters_of_json_become_characters_and_numbers_stay() -> None:
    body = rb'{"name": "Jos\u00e9 \ud83d\ude00", "id": 123456789012345678901234567890}'
    assert read_text(body, mime_type="application/json") == (
        '{"name": "José 😀", "id": 123456789012345678901234567890}'
    )


def test_half_a_character_that_json_can_write_does_not_get_into_the_text() -> None:
    text = read_text(rb'["\ud83d is half, \u0000 is nothing"]', mime_type="application/json")
    assert text.encode().decode() == text
    assert "\0" not in text


def test_json_that_is_none_is_refused_with_the_place_and_without_the_content() -> None:
    error = refused(b'{"secret": "hunter2",\n oops}', "application/json")
    assert error.code == "malformed_document"
    assert "line 2, column 2" in error.message
    assert "hunter2" not in error.message


def test_json_nested_without_end_is_refused() -> None:
    assert refused(b"[" * 1_000_000, "application/json").code == "malformed_document"


def test_rows_of_csv_name_their_columns() -> None:
    body = b'name,city,note\nAda,London,"first, and\nfamous"\nAlan,,\n'
    assert read_text(body, mime_type="text/csv") == ("name: Ada; city: London; note: first, and famous\nname: Alan")


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_of_csv_is_found(delimiter: str) -> None:
    body = f"name{delimiter}city\nAda{delimiter}London\n".encode()
    assert read_text(body, mime_type="text/csv") == "name: Ada; city: London"


def test_csv_that_says_that_it_has_no_header_gets_numbered_columns() -> None:
    assert read_text(b"Ada,London\n", mime_type="text/csv; header=absent") == "column 1: Ada; column 2: London"


def test_rows_of_csv_may_be_longer_or_shorter_than_the_header() -> None:
    assert read_text(b"a,b\n1\n1,2,3\n", mime_type="text/csv") == "a: 1\na: 1; b: 2; 3"


def test_csv_with_a_header_alone_is_that() -> None:
    assert read_text(b"name,city\n", mime_type="text/csv") == "name, city"


def test_a_header_that_is_repeated_too_often_is_too_much_text() -> None:
    body = b"h" * 10_000 + b",b\n" + b"1,2\n" * 10_000
    assert refused(body, "text/csv", max_text_bytes=1_000_000).code == "document_too_large"
