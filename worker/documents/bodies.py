"""Bodies of HTTP responses: whole, decompressed, and not larger than they may be."""

import zlib

import httpcore

from worker.documents.data_urls import too_large
from worker.documents.errors import UnreadableDocument

_GZIP_WINDOW = zlib.MAX_WBITS + 16


def header(response: httpcore.Response, name: bytes) -> str:
    """The last value of a header; empty where there is none."""
    values = [value for key, value in response.headers if key.lower() == name]
    return values[-1].decode("utf-8", "replace").strip() if values else ""


def read_body(response: httpcore.Response, *, max_bytes: int) -> bytes:
    """Raises UnreadableDocument, and httpcore's errors."""
    length = header(response, b"content-length")
    if length.isdecimal() and int(length) > max_bytes:
        raise too_large(max_bytes)
    # It was not asked for, but some stores hand out nothing else.
    encoding = header(response, b"content-encoding").lower()
    if encoding in ("gzip", "x-gzip"):
        unpack = _Gzip(max_bytes)
        body = b"".join(unpack.feed(piece) for piece in _pieces(response, max_bytes))
        unpack.end()
        return body
    if encoding not in ("", "identity"):
        raise UnreadableDocument("url_unreachable", "The URL's server compresses the document in an unknown way.")
    return b"".join(_pieces(response, max_bytes))


def _pieces(response: httpcore.Response, max_bytes: int) -> list[bytes]:
    pieces: list[bytes] = []
    size = 0
    for piece in response.iter_stream():
        size += len(piece)
        if size > max_bytes:
            raise too_large(max_bytes)
        pieces.append(piece)
    return pieces


class _Gzip:
    """Undoes gzip (RFC 1952), of several members as well."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._room = max_bytes
        self._member = zlib.decompressobj(_GZIP_WINDOW)

    def feed(self, data: bytes) -> bytes:
        out: list[bytes] = []
        while data:
            if self._member.eof:
                self._member = zlib.decompressobj(_GZIP_WINDOW)
            try:
                out.append(self._member.decompress(data, self._room + 1))
            except zlib.error:
                raise _broken() from None
            self._room -= len(out[-1])
            if self._room < 0:
                raise too_large(self._max_bytes)
            data = self._member.unused_data
        return b"".join(out)

    def end(self) -> None:
        if not self._member.eof:
            raise _broken()


def _broken() -> UnreadableDocument:
    problem = "What the URL's server sent is no valid gzip, or broke off."
    return UnreadableDocument("malformed_document", problem, retryable=True)
