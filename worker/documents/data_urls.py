"""Documents that stand in their URL (RFC 2397)."""

import base64
import binascii
import re
from urllib.parse import unquote_to_bytes

from worker.documents.errors import UnreadableDocument
from worker.documents.limits import MB

# Undoing escapes holds up everything else in the process, base64 hardly does.
MAX_ESCAPED_BYTES = 1 * MB
_WHITESPACE = re.compile(r"\s+")


def is_data_url(url: str) -> bool:
    """Whether `body_of` is for it."""
    return url[:5].lower() == "data:"


def body_of(url: str, *, max_bytes: int) -> tuple[bytes, str]:
    """The document and its mime type.

    Raises UnreadableDocument: `malformed_url` or `document_too_large`.
    """
    head, comma, data = url[5:].partition(",")
    if not comma:
        raise UnreadableDocument("malformed_url", "The data URL has no comma, and so no data.")
    mime_type, _, encoding = head.rpartition(";")
    if encoding.strip().lower() == "base64":
        body = _from_base64(data, max_bytes)
    else:
        mime_type, body = head, _from_escapes(data, max_bytes)
    if len(body) > max_bytes:
        raise too_large(max_bytes)
    if mime_type.startswith(";"):
        mime_type = f"text/plain{mime_type}"
    return body, mime_type or "text/plain;charset=US-ASCII"


def too_large(max_bytes: int) -> UnreadableDocument:
    """What is raised for more than so many bytes."""
    problem = f"The document is larger than {max_bytes:,} bytes. Split it, or ask the operator to raise the limit."
    return UnreadableDocument("document_too_large", problem)


def _from_base64(data: str, max_bytes: int) -> bytes:
    if len(data) > 2 * max_bytes + 1_000:  # at its end there may be whitespace
        raise too_large(max_bytes)
    if "%" in data:
        data = _from_escapes(data, max_bytes).decode("latin-1")
    data = _WHITESPACE.sub("", data).rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(data + "=" * (-len(data) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise UnreadableDocument("malformed_url", "The data URL's base64 is not valid.") from None


def _from_escapes(data: str, max_bytes: int) -> bytes:
    if "%" not in data:
        return data.encode("utf-8", "replace")
    if len(data) > min(MAX_ESCAPED_BYTES, 3 * max_bytes):
        problem = f"The data URL has more than {MAX_ESCAPED_BYTES:,} bytes with escapes: send it in base64."
        raise UnreadableDocument("document_too_large", problem)
    return unquote_to_bytes(data)
