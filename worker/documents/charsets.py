"""Bytes into characters."""

import codecs
from typing import NoReturn

from worker.documents.source import malformed

# The ones of four bytes first: that of UTF-16 is the beginning of one of them.
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# What programs say that do not know: it does not count where the bytes are UTF-8. As browsers do, all are Windows-1252.
_SAID_BY_DEFAULT = frozenset({"ascii", "iso8859-1", "cp1252"})
# A line or two of a Western language gets less, with any guess: then it is what browsers take it for.
_SURE = 0.15


def decoded(body: bytes, charset: str | None = None) -> str:
    """By its byte order mark, by `charset` (what was said about it), as UTF-8, or as it looks.

    Raises UnreadableDocument for what is no text.
    """
    for mark, name in _BOMS:
        if body.startswith(mark):
            text = _attempt(body, name)
            return _refuse() if text is None else text
    said = _canonical(charset)
    order = ("utf-8", "cp1252", said) if said in _SAID_BY_DEFAULT else (said, "utf-8")
    for known in filter(None, order):
        text = _attempt(body, known)
        if text is not None:
            return _refuse() if "\0" in text else text
    return _detected(body)


def _canonical(charset: str | None) -> str | None:
    try:
        return codecs.lookup(charset).name if charset else None
    except (LookupError, ValueError):
        return None


def _attempt(body: bytes, charset: str) -> str | None:
    try:
        return body.decode(charset)
    except (LookupError, ValueError):  # also of codecs that are no charsets
        return None


def _detected(body: bytes) -> str:
    from chardet import EncodingEra, detect  # of the extra; slow to import, and seldom needed

    if b"\0" in body:
        _refuse()
    found = detect(body, encoding_era=EncodingEra.MODERN_WEB, prefer_superset=True, compat_names=False)
    guess = found["encoding"] if found["confidence"] >= _SURE else None
    return _attempt(body, guess or "cp1252") or body.decode("cp1252", "replace")


def _refuse() -> NoReturn:
    raise malformed("The document is no text, or is in an encoding that is not recognised. Send it as UTF-8.")
