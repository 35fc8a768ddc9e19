"""Documents made by hand, and a server that sends whatever a test wants it to."""

import io
import socketserver
import ssl
import threading
import zipfile
from collections.abc import Callable, Mapping
from socket import socket
from typing import Self

WORD = (
    'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main" '
    'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"'
)
_PACKAGE = "http://schemas.openxmlformats.org/package/2006/relationships"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
RELATIONSHIPS = (
    f'<Relationships xmlns="{_PACKAGE}"><Relationship Id="rId1" Type="{_OFFICE}/officeDocument" '
    'Target="/word/document.xml"/></Relationships>'
)
Answer = bytes | Callable[[socket], None]


def word(body: str) -> str:
    """The main part of a DOCX."""
    return f'<?xml version="1.0"?><w:document {WORD}><w:body>{body}</w:body></w:document>'


def paragraph(text: str) -> str:
    return f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>"


def archive(parts: Mapping[str, str | bytes]) -> bytes:
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in parts.items():
            packed.writestr(name, content)
    return output.getvalue()


def docx(document: str, **others: str) -> bytes:
    """A DOCX of a main part (see `word`), and of others by their name in word/ ."""
    more = {f"word/{name}.xml": content for name, content in others.items()}
    return archive({"_rels/.rels": RELATIONSHIPS, "word/document.xml": document, **more})


def pdf(*objects: bytes) -> bytes:
    """A PDF of these objects; the first is its catalog."""
    body, offsets = b"%PDF-1.7\n", []
    for number, content in enumerate(objects, 1):
        offsets.append(len(body))
        body += b"%d 0 obj\n%b\nendobj\n" % (number, content)
    count = len(objects) + 1
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    end = b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (count, len(body))
    return body + b"xref\n0 %d\n0000000000 65535 f \n%b%b" % (count, table, end)


def pdf_of(*pages: bytes) -> bytes:
    """A PDF with these contents of pages (see `stream` and `shown`)."""
    first = 4
    kids = b" ".join(b"%d 0 R" % (first + 2 * number) for number in range(len(pages)))
    page = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R %b >>"
    fonts = b"/Resources << /Font << /F1 3 0 R >> >>"
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [%b] /Count %d >>" % (kids, len(pages)),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for number, content in enumerate(pages):
        objects += [page % (first + 2 * number + 1, fonts), content]
    return pdf(*objects)


def stream(content: bytes, filters: bytes = b"") -> bytes:
    return b"<< /Length %d %b >>\nstream\n%b\nendstream" % (len(content), filters, content)


def shown(text: str) -> bytes:
    """The content of a page with a line on it."""
    return stream(b"BT /F1 12 Tf 72 720 Td (%b) Tj ET" % text.encode("latin-1"))


def http(body: bytes = b"", *, status: int = 200, **headers: str) -> bytes:
    """A response with the length of its body; `content_type="text/plain"` is a header."""
    fields = {"content-length": str(len(body)), **{name.replace("_", "-"): value for name, value in headers.items()}}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} X\r\n{lines}\r\n".encode() + body


class Site:
    """An HTTP server on loopback. `answers` has what is sent, or what is done with the connection, for each path."""

    def __init__(self, answers: Mapping[str, Answer] | None = None, *, tls: ssl.SSLContext | None = None) -> None:
        self.answers = dict(answers or {})
        self.requests: list[str] = []
        self._tls = tls
        self._server = _Server(("127.0.0.1", 0), self._handle)
        self.port: int = self._server.server_address[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def url(self, path: str = "/", *, host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"

    def _handle(self, connection: socket, *_: object) -> None:
        try:
            with self._tls.wrap_socket(connection, server_side=True) if self._tls else connection as talk:
                self._talk(talk)
        except OSError:
            connection.close()  # the client has left

    def _talk(self, connection: socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            more = connection.recv(65_536)
            if not more:
                return
            head += more
        self.requests.append(head.decode("latin-1"))
        answer = self.answers[head.split(b" ")[1].decode().partition("?")[0]]
        if isinstance(answer, bytes):
            connection.sendall(answer)
        else:
            answer(connection)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = True
    allow_reuse_address = True

    def shutdown_request(self, request: object) -> None:
        """The handler has closed it."""
