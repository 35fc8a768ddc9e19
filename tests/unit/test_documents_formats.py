"""HTML, PDF and DOCX as text."""

import io

import pytest
from documentkit import archive, docx, paragraph, pdf_of, shown, stream, word
from pypdf import PdfReader, PdfWriter

from worker.documents.errors import UnreadableDocument
from worker.documents.kinds import OLE
from worker.documents.reading import read_text

PAGE = """<!DOCTYPE html>
<html><head><title>Turnstones  in
winter</title><style>p { color: red }</style><script>if (1 < 2) track("</p>")</script></head>
<body>
<nav><a href="/">Home</a> <a href="/birds">Birds</a></nav>
<header>Field notes</header>
<main>
  <h1>Turnstones</h1>
  <p>They turn <b>sto</b>nes<!-- not this -->, and eat
     what is below.<br>Always.</p>
  <ul><li>crabs</li><li>flies <ul><li>small ones</ul></ul>
  <table><tr><th>Place<th>Seen<tr><td>Sylt<td>12</table>
  <pre>one
    two</pre>
  <p hidden>not shown</p><noscript>Enable scripts</noscript><svg><text>drawn</text></svg>
</main>
<footer>&copy; nobody</footer></body></html>"""

TEXT = """Turnstones in winter

Turnstones

They turn stones, and eat what is below.
Always.

- crabs
- flies

- small ones

Place | Seen
Sylt | 12

one
    two"""


def html(body: str | bytes, mime_type: str = "text/html") -> str:
    return read_text(body.encode() if isinstance(body, str) else body, mime_type=mime_type)


def refused(body: bytes, mime_type: str | None = None) -> UnreadableDocument:
    with pytest.raises(UnreadableDocument) as caught:
        read_text(body, mime_type=mime_type)
    return caught.value


def encrypted(body: bytes, *, user: str, algorithm: str) -> bytes:
    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(body)))
    writer.encrypt(user_password=user, owner_password="owner", algorithm=algorithm)
    output = io.BytesIO()
    writer.write(output)
    return output.getvalue()


def test_a_page_is_its_main_text_without_scripts_styles_and_menus() -> None:
    assert html(PAGE) == TEXT


def test_a_page_that_marks_no_main_part_is_read_without_what_is_around_it() -> None:
    assert html("<nav>Menu</nav><article>One</article><article>Two</article><footer>End</footer>") == "One\n\nTwo"


def test_a_page_whose_text_is_all_in_its_menu_is_read_all_the_same() -> None:
    assert html("<main></main><nav>Everything is here</nav>") == "Everything is here"


def test_the_encoding_that_a_page_names_is_used() -> None:
    page = '<meta http-equiv="Content-Type" content="text/html; charset=windows-1251"><p>Привет'
    assert html(page.encode("cp1251")) == "Привет"


def test_entities_and_broken_markup_are_what_browsers_make_of_them() -> None:
    assert html("<p>a &amp; b &eacute;<p>c < d<b>e") == "a & b é\n\nc < de"


@pytest.mark.parametrize("page", ["", "<html>", "<script>x</script>", "<!-- nothing -->", "<svg><text>x</text></svg>"])
def test_a_page_without_text_is_empty(page: str) -> None:
    assert refused(page.encode(), "text/html").code == "empty_document"


def test_a_page_nested_too_deeply_is_refused_and_not_cut() -> None:
    assert html("<div>" * 1_500 + "deep") == "deep"
    assert refused(b"<div>" * 3_000 + b"deep", "text/html").code == "malformed_document"


def test_the_pages_of_a_pdf_follow_each_other() -> None:
    assert read_text(pdf_of(shown("First page"), shown("Second page"))) == "First page\n\nSecond page"


def test_a_pdf_may_begin_with_something_else() -> None:
    assert read_text(b"\n\n" + pdf_of(shown("Late")), mime_type="application/pdf") == "Late"


@pytest.mark.parametrize("algorithm", ["RC4-128", "AES-128", "AES-256"])
def test_an_encrypted_pdf_that_opens_without_a_password_is_read(algorithm: str) -> None:
    assert read_text(encrypted(pdf_of(shown("Readable")), user="", algorithm=algorithm)) == "Readable"


@pytest.mark.parametrize("algorithm", ["RC4-128", "AES-256"])
def test_a_pdf_with_a_password_is_refused_as_that(algorithm: str) -> None:
    error = refused(encrypted(pdf_of(shown("Secret")), user="sesame", algorithm=algorithm))
    assert error.code == "encrypted_document"
    assert "password" in error.message


def test_a_scanned_pdf_is_empty_and_the_message_names_ocr() -> None:
    error = refused(pdf_of(stream(b"q 100 0 0 100 0 0 cm Q")))
    assert error.code == "empty_document"
    assert "OCR" in error.message


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(pdf_of(shown("hello"))[:200], id="cut off"),
        pytest.param(b"%PDF-1.7\n" + bytes(range(256)) * 20, id="noise"),
        pytest.param(b"%PDF-1.7\n", id="a header alone"),
        pytest.param(b"<html>Please log in</html>", id="a page in its place"),
    ],
)
def test_a_pdf_that_is_none_is_malformed(body: bytes) -> None:
    assert refused(body, "application/pdf").code == "malformed_document"


def test_a_docx_is_its_paragraphs_and_tables_in_order() -> None:
    cells = "".join(f"<w:tc>{paragraph(text)}</w:tc>" for text in ("Place", "Seen"))
    more = f"<w:tc>{paragraph('Sylt')}</w:tc><w:tc>{paragraph('12')}{paragraph('or more')}</w:tc>"
    table = f"<w:tbl><w:tr>{cells}</w:tr><w:tr>{more}</w:tr></w:tbl>"
    body = docx(word(paragraph("Turnstones") + table + paragraph("The end")))
    assert read_text(body) == "Turnstones\nPlace | Seen\nSylt | 12 or more\nThe end"


def test_runs_tabs_breaks_and_content_controls_of_a_docx_are_read() -> None:
    tabs = "<w:pPr><w:tabs><w:tab w:val='left'/></w:tabs></w:pPr>"
    runs = f"<w:p>{tabs}<w:r><w:t>tur</w:t></w:r><w:r><w:t>n</w:t><w:tab/><w:t>stone</w:t><w:br/></w:r></w:p>"
    control = f"<w:sdt><w:sdtContent>{paragraph('controlled')}</w:sdtContent></w:sdt>"
    assert read_text(docx(word(runs + control))) == "turn\tstone\ncontrolled"


def test_changes_of_a_docx_are_taken_as_accepted() -> None:
    changed = (
        "<w:p><w:ins><w:r><w:t>new</w:t></w:r></w:ins><w:del><w:r><w:delText>old</w:delText></w:r></w:del>"
        "<w:moveFrom><w:r><w:t>moved away</w:t></w:r></w:moveFrom></w:p>"
    )
    assert read_text(docx(word(changed))) == "new"


def test_a_text_box_of_a_docx_is_read_once() -> None:
    box = f"<w:txbxContent>{paragraph('boxed')}</w:txbxContent>"
    both = f"<mc:AlternateContent><mc:Choice>{box}</mc:Choice><mc:Fallback>{box}</mc:Fallback></mc:AlternateContent>"
    assert read_text(docx(word(f"<w:p><w:r>{both}</w:r><w:r><w:t>around</w:t></w:r></w:p>"))) == "boxed\naround"


def test_the_notes_of_a_docx_come_last() -> None:
    notes = word(paragraph("a note")).replace("w:document", "w:footnotes")
    assert read_text(docx(word(paragraph("text")), footnotes=notes)) == "text\na note"


def test_a_docx_with_a_password_is_refused_as_that() -> None:
    body = OLE + bytes(500) + "EncryptedPackage".encode("utf-16-le") + bytes(500)
    assert refused(body).code == "encrypted_document"


def test_word_before_2007_is_not_supported_and_the_message_says_what_to_do() -> None:
    error = refused(OLE + bytes(1_000), "application/msword")
    assert error.code == "unsupported_type"
    assert "DOCX" in error.message


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(docx(word(paragraph("hello")))[:-30], id="cut off"),
        pytest.param(docx(word(paragraph("hello"))[:-10]), id="XML that is cut off"),
        pytest.param(archive({"word/styles.xml": "<x/>"}), id="an archive without a document"),
        pytest.param(b"PK\x03\x04 word/ nothing", id="no archive"),
    ],
)
def test_a_docx_that_is_none_is_malformed(body: bytes) -> None:
    assert refused(body).code == "malformed_document"
