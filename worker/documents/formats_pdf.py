"""PDF: the text of its pages. What is only a picture of text is none."""

import io
from collections.abc import Iterator
from contextlib import contextmanager

from pypdf import PasswordType, PdfReader, apply_configuration
from pypdf.errors import FileNotDecryptedError, LimitReachedError

from worker.documents.errors import UnreadableDocument
from worker.documents.source import Source, Text, malformed

_HEADER_WITHIN = 1_024
"""Readers take a file whose header comes so late."""


def read(source: Source, text: Text) -> None:
    if b"%PDF-" not in source.body[:_HEADER_WITHIN]:
        raise malformed("The document is called a PDF and is none.")
    limit = source.limits.max_unpacked_bytes
    with apply_configuration(
        lzw_maximum_output_length=limit,
        run_length_maximum_output_length=limit,
        zlib_maximum_output_length=limit,
        disable_legacy_handling=True,
    ):
        _read(source, text)


def _read(source: Source, text: Text) -> None:
    with _faults("The document is no valid PDF, or is incomplete."):
        reader = PdfReader(io.BytesIO(source.body))
        # Most that are encrypted open without a password: it only forbids to print or to copy.
        if reader.is_encrypted and reader.decrypt("") is PasswordType.NOT_DECRYPTED:
            raise FileNotDecryptedError
        pages = len(reader.pages)
    for number in range(pages):
        with _faults(f"Page {number + 1} of the document cannot be read: the PDF is damaged there."):
            page = reader.pages[number].extract_text().strip()
        text.line(page)
        text.line()


@contextmanager
def _faults(problem: str) -> Iterator[None]:
    """As ours. A broken file makes pypdf raise errors of its own, and many others."""
    try:
        yield
    except FileNotDecryptedError:
        problem = "The document needs a password. Remove it and send the document again."
        raise UnreadableDocument("encrypted_document", problem) from None
    except LimitReachedError:
        problem = "The document has too much packed in it, or is more complicated than what is read."
        raise UnreadableDocument("document_too_large", problem) from None
    except MemoryError:
        raise
    except Exception:
        raise malformed(problem) from None
