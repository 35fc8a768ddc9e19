"""Fetching documents from real servers on loopback, which the operator has allowed."""

import datetime
import gzip
import ipaddress
import ssl
import threading
from collections.abc import Sequence
from pathlib import Path
from socket import socket
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from documentkit import Site, http

from worker.documents.addresses import Allowed
from worker.documents.errors import UnreadableDocument
from worker.documents.fetching import Fetched, fetch
from worker.documents.limits import FetchLimits

LOOPBACK = Allowed.of("127.0.0.0/8")
SECRET = "sig=s3cret"


def get(url: str, *, allowed: Allowed = LOOPBACK, addresses: Sequence[str] = ("127.0.0.1",), **limits: Any) -> Fetched:
    return fetch(
        url, allowed=allowed, limits=FetchLimits(**{"total_s": 20, **limits}), resolve=lambda host, port: addresses
    )


def refused(url: str, **options: Any) -> UnreadableDocument:
    with pytest.raises(UnreadableDocument) as caught:
        get(url, **options)
    error = caught.value
    assert error.__cause__ is None
    assert "127.0.0.1" not in error.message
    assert SECRET not in error.message
    return error


def redirect(location: str, status: int = 302) -> bytes:
    return http(status=status, location=location)


def test_a_document_comes_with_its_type_and_the_url_that_it_was_found_at() -> None:
    with Site({"/a": http(b"hello", content_type="text/plain; charset=utf-8")}) as site:
        fetched = get(site.url(f"/a?{SECRET}#part", host="docs.example"))
        assert fetched == Fetched(
            body=b"hello", mime_type="text/plain; charset=utf-8", url=site.url(f"/a?{SECRET}#part", host="docs.example")
        )


def test_the_request_names_the_host_and_holds_nothing_of_ours() -> None:
    with Site({"/a": http(b"x")}) as site:
        get(site.url("/a?b=c", host="docs.example"))
        lines = site.requests[0].split("\r\n")
    assert lines[0] == "GET /a?b=c HTTP/1.1"
    assert sorted(line.partition(":")[0] for line in lines[1:] if line) == sorted(
        ["Host", "Accept", "Accept-Encoding", "Connection", "User-Agent"]
    )
    assert f"Host: docs.example:{site.port}" in lines


def test_without_permission_nothing_is_sent_to_this_machine() -> None:
    with Site({"/": http(b"inside")}) as site:
        for host in ("127.0.0.1", "localhost", "docs.example"):
            assert refused(site.url(host=host), allowed=Allowed()).code == "url_not_allowed"
        assert site.requests == []


def test_a_name_is_looked_up_once_and_connected_to_where_it_was_checked() -> None:
    answers = [["127.0.0.1"], ["127.0.0.2"]]
    with Site({"/": http(b"checked")}) as site:
        fetched = fetch(site.url(host="rebinding.example"), allowed=LOOPBACK, resolve=lambda *_: answers.pop(0))
    assert fetched.body == b"checked"
    assert answers == [["127.0.0.2"]]


def test_a_name_with_one_address_that_is_not_allowed_is_not_connected_to_at_all() -> None:
    with Site({"/": http(b"x")}) as site:
        for addresses in (["127.0.0.1", "10.0.0.1"], ["10.0.0.1", "127.0.0.1"], ["127.0.0.1", "::1"]):
            assert refused(site.url(host="docs.example"), addresses=addresses).code == "url_not_allowed"
        assert site.requests == []


def test_the_next_address_is_tried_where_one_does_not_answer() -> None:
    with Site({"/": http(b"second")}) as site:
        assert get(site.url(host="docs.example"), addresses=["127.0.0.9", "127.0.0.1"]).body == b"second"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(status: int) -> None:
    with Site({"/a": redirect("b/../c?x=1", status), "/c": http(b"there")}) as site:
        fetched = get(site.url("/a"))
        assert (fetched.body, fetched.url, fetched.name) == (b"there", site.url("/c?x=1"), "c")


@pytest.mark.parametrize(
    "location",
    [
        pytest.param("http://10.0.0.1/", id="a private address"),
        pytest.param("http://169.254.169.254/latest/meta-data/", id="metadata"),
        pytest.param("//[::1]:6379/", id="IPv6 loopback"),
        pytest.param("http://0x7f000001/", id="a hexadecimal address"),
        pytest.param("http://user:pw@docs.example/", id="a password"),
        pytest.param("file:///etc/passwd", id="a file"),
        pytest.param("data:text/plain,hello", id="a data URL"),
        pytest.param("ftp://docs.example/", id="ftp"),
        pytest.param("http://", id="no host"),
        pytest.param("http://[::1", id="nonsense"),
        pytest.param("", id="nowhere"),
        pytest.param("http://\ufffd/", id="no text"),
    ],
)
def test_a_redirect_does_not_lead_where_a_url_may_not(location: str) -> None:
    with Site({"/a": redirect(location)}) as site:
        assert refused(site.url("/a")).code in {"url_not_allowed", "url_redirects", "malformed_url"}


def test_a_redirect_to_a_name_is_looked_up_and_checked() -> None:
    with Site({"/a": redirect("http://inside.example/")}) as site:
        places = {"docs.example": ["127.0.0.1"], "inside.example": ["10.0.0.1"]}
        with pytest.raises(UnreadableDocument) as caught:
            fetch(site.url("/a", host="docs.example"), allowed=LOOPBACK, resolve=lambda host, _: places[host])
    assert caught.value.code == "url_not_allowed"


def test_redirects_without_end_end() -> None:
    with Site({"/a": redirect("/a")}) as site:
        assert refused(site.url("/a"), max_redirects=3).code == "url_redirects"
        assert len(site.requests) == 4


@pytest.mark.parametrize(("status", "retryable"), [(404, False), (403, False), (206, False), (429, True), (503, True)])
def test_another_status_is_no_document(status: int, retryable: bool) -> None:
    with Site({"/a": http(b"secret error", status=status)}) as site:
        error = refused(site.url(f"/a?{SECRET}"))
    assert (error.code, error.retryable) == ("url_refused", retryable)
    assert str(status) in error.message
    assert "secret error" not in error.message


def test_a_type_that_is_not_read_is_refused_before_its_body() -> None:
    with Site({"/a": http(content_type="video/mp4", content_length="1000000")}) as site:
        assert refused(site.url("/a")).code == "unsupported_type"


def test_a_body_that_says_that_it_is_too_large_is_not_read() -> None:
    with Site({"/a": http(content_length="1000000")}) as site:
        assert refused(site.url("/a"), max_bytes=1_000).code == "document_too_large"


def endless(connection: socket) -> None:
    connection.sendall(b"HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        connection.sendall(b"400\r\n" + b"x" * 1_024 + b"\r\n")


def endless_without_framing(connection: socket) -> None:
    connection.sendall(b"HTTP/1.1 200 X\r\n\r\n")
    while True:
        connection.sendall(b"x" * 1_024)


def endless_head(connection: socket) -> None:
    connection.sendall(b"HTTP/1.1 200 X\r\n")
    while True:
        connection.sendall(b"x: y\r\n" * 100)


def endless_interim(connection: socket) -> None:
    while True:
        connection.sendall(b"HTTP/1.1 103 X\r\n\r\n")


def gone(connection: socket) -> None:
    """Waits for the client to leave."""
    while connection.recv(1_024):
        pass


def silent(connection: socket) -> None:
    gone(connection)


def slow_body(connection: socket) -> None:
    connection.sendall(b"HTTP/1.1 200 X\r\ncontent-length: 10\r\n\r\nx")
    gone(connection)


def dripping(connection: socket) -> None:
    """A byte now and then, forever: each wait is short, all together are not."""
    connection.sendall(b"HTTP/1.1 200 X\r\ncontent-length: 1000000\r\n\r\n")
    pause = threading.Event()
    while not pause.wait(0.01):
        connection.sendall(b"x")


def dripping_head(connection: socket) -> None:
    pause = threading.Event()
    connection.sendall(b"HTTP/1.1 200 X\r\nx: ")
    while not pause.wait(0.01):
        connection.sendall(b"x")


@pytest.mark.parametrize("answer", [endless, endless_without_framing])
def test_a_body_without_end_is_too_large(answer: Any) -> None:
    with Site({"/a": answer}) as site:
        assert refused(site.url("/a"), max_bytes=100_000).code == "document_too_large"


@pytest.mark.parametrize("answer", [silent, slow_body, dripping, dripping_head, endless_interim])
def test_a_server_that_takes_its_time_is_left(answer: Any) -> None:
    with Site({"/a": answer}) as site:
        error = refused(site.url("/a"), total_s=0.5)
    assert (error.code, error.retryable) == ("url_too_slow", True)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(http(b"short", content_length="10"), id="a body shorter than it says"),
        pytest.param(b"HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel", id="a chunk that breaks off"),
        pytest.param(b"HTTP/1.1 200 X\r\ncontent-length: ten\r\n\r\n", id="a length that is none"),
        pytest.param(b"HTTP/1.1 200 X\r\ncontent-length: -5\r\n\r\n", id="a negative length"),
        pytest.param(b"220 mail.example ESMTP\r\n", id="another protocol"),
        pytest.param(b"", id="nothing"),
        pytest.param(endless_head, id="a head without end"),
    ],
)
def test_what_is_no_http_is_unreachable(answer: Any) -> None:
    with Site({"/a": answer}) as site:
        assert refused(site.url("/a")).code == "url_unreachable"


def test_what_follows_a_body_is_not_part_of_it() -> None:
    with Site({"/a": http(b"hello") + b"HTTP/1.1 200 more"}) as site:
        assert get(site.url("/a")).body == b"hello"


def test_nobody_listening_is_unreachable_for_now() -> None:
    with Site() as site:
        url = site.url()
    error = refused(url)
    assert (error.code, error.retryable) == ("url_unreachable", True)


def test_gzip_that_was_not_asked_for_is_undone() -> None:
    body = gzip.compress(b"hello ") + gzip.compress(b"there")
    with Site({"/a": http(body, content_encoding="gzip")}) as site:
        assert get(site.url("/a")).body == b"hello there"
        assert "Accept-Encoding: identity" in site.requests[0]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(gzip.compress(bytes(100_000_000)), id="one member"),
        pytest.param(gzip.compress(bytes(1_000)) * 1_001, id="many members"),
    ],
)
def test_gzip_that_grows_too_large_is_refused(body: bytes) -> None:
    with Site({"/a": http(body, content_encoding="gzip")}) as site:
        assert refused(site.url("/a"), max_bytes=1_000_000).code == "document_too_large"


@pytest.mark.parametrize(
    "body", [gzip.compress(b"hello")[:-9], b"no gzip", b""], ids=["broken off", "something else", "nothing"]
)
def test_gzip_that_is_none_or_breaks_off_is_malformed(body: bytes) -> None:
    with Site({"/a": http(body, content_encoding="gzip")}) as site:
        assert refused(site.url("/a")).code == "malformed_document"


@pytest.mark.parametrize("encoding", ["br", "zstd", "deflate", "gzip, gzip"])
def test_other_compressions_are_refused(encoding: str) -> None:
    with Site({"/a": http(b"x", content_encoding=encoding)}) as site:
        assert refused(site.url("/a")).code == "url_unreachable"


def certificate(folder: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context with a certificate for `name`, and a client's that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a test")])
    now = datetime.datetime.now(datetime.UTC)
    names: list[x509.GeneralName] = [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.3"))]
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file = folder / "server.pem"
    file.write_bytes(pem + private)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    return server, ssl.create_default_context(cadata=pem.decode())


def test_certificates_are_checked_against_the_name_and_not_the_address(tmp_path: Path) -> None:
    server, client = certificate(tmp_path, "docs.example")
    asked: list[str | None] = []
    server.sni_callback = lambda _, name, __: asked.append(name)
    with Site({"/": http(b"safe")}, tls=server) as site:

        def secure(host: str) -> Fetched:
            url = site.url(host=host, scheme="https")
            return fetch(url, allowed=LOOPBACK, resolve=lambda *_: ["127.0.0.1"], ssl_context=client)

        assert secure("docs.example").body == b"safe"
        assert secure("Docs.Example.").body == b"safe"
        assert asked == ["docs.example", "docs.example"]
        for host in ("other.example", "127.0.0.1"):
            with pytest.raises(UnreadableDocument, match="certificate") as caught:
                secure(host)
            assert caught.value.code == "url_unreachable"


def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    server, _ = certificate(tmp_path, "docs.example")
    with Site({"/": http(b"x")}, tls=server) as site:
        error = refused(site.url(host="docs.example", scheme="https"))
        assert error.code == "url_unreachable"
        assert "certificate" in error.message
        assert site.requests == []


def test_https_does_not_redirect_to_http(tmp_path: Path) -> None:
    server, client = certificate(tmp_path, "docs.example")
    with Site({"/": http(b"plain")}) as plain, Site({"/": redirect(plain.url())}, tls=server) as site:
        url = site.url(host="docs.example", scheme="https")
        with pytest.raises(UnreadableDocument, match="https to http") as caught:
            fetch(url, allowed=LOOPBACK, resolve=lambda *_: ["127.0.0.1"], ssl_context=client)
        assert caught.value.code == "url_redirects"
        assert plain.requests == []


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with Site({"/": http(b"direct")}) as site, Site() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url())
        monkeypatch.setenv("ALL_PROXY", proxy.url())
        assert get(site.url()).body == b"direct"
        assert proxy.requests == []


def test_a_data_url_is_fetched_like_any_other() -> None:
    assert get("data:text/html;base64,PHA+") == Fetched(body=b"<p>", mime_type="text/html", url="data:")
