"""Names and types of files: what may stand in a header, and on somebody's disk."""

import pytest

from shared.files import plain_mime_type, wrong_name


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "Bericht März.pdf",
        "9.41\u202fAM.png",
        "\U0001f469\u200d\U0001f467.txt",
        ".profile",
        "a..b",
        "x" * 255,
        "a:b",
    ],
)
def test_a_usual_name_is_taken(name: str) -> None:
    assert wrong_name(name) is None


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "a\\b", "/", "a\n", "a\0", "\x7f", "a\u2028b", "\ud800", "x\u202etxt.exe", "x" * 256]
)
def test_a_name_that_leads_elsewhere_or_shows_otherwise_is_not(name: str) -> None:
    assert wrong_name(name) is not None


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("text/plain", "text/plain"),
        ("text/plain; charset=utf-8", "text/plain; charset=utf-8"),
        (" application/vnd.oasis.opendocument.text ", "application/vnd.oasis.opendocument.text"),
        (None, "application/octet-stream"),
        ("", "application/octet-stream"),
        ("text", "application/octet-stream"),
        ("text/html\r\nX-Evil: 1", "application/octet-stream"),
        ("text/html, text/plain", "application/octet-stream"),
    ],
)
def test_a_type_is_one_or_says_nothing(given: str | None, kept: str) -> None:
    assert plain_mime_type(given) == kept
