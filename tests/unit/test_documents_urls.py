"""Which URLs are fetched, and which addresses are connected to for them."""

import ipaddress
from collections.abc import Sequence

import pytest

from shared.errors import ConfigError
from worker.documents.addresses import Allowed, is_public
from worker.documents.data_urls import body_of, is_data_url
from worker.documents.errors import UnreadableDocument
from worker.documents.urls import parse, permitted

PUBLIC = "93.184.215.14"
NOT_PUBLIC = {
    "this machine": "127.0.0.1",
    "anywhere on loopback": "127.8.9.10",
    "unspecified": "0.0.0.0",
    "this network": "0.1.2.3",
    "private, 10": "10.0.0.1",
    "private, 172": "172.31.255.254",
    "private, 192": "192.168.1.1",
    "carriers' NAT": "100.64.0.1",
    "metadata of most clouds": "169.254.169.254",
    "metadata of containers": "169.254.170.2",
    "metadata of Alibaba Cloud": "100.100.100.200",
    "metadata of Oracle Cloud": "192.0.0.192",
    "Azure's own services": "168.63.129.16",
    "documentation": "192.0.2.7",
    "benchmarks": "198.19.255.1",
    "a 6to4 relay": "192.88.99.1",
    "multicast": "224.0.0.1",
    "broadcast": "255.255.255.255",
    "reserved": "240.0.0.1",
    "IPv6 loopback": "::1",
    "IPv6 unspecified": "::",
    "IPv6 unique local": "fd12:3456::1",
    "IPv6 metadata of AWS": "fd00:ec2::254",
    "IPv6 link-local": "fe80::1",
    "IPv6 link-local with a zone": "fe80::1%eth0",
    "IPv6 site-local": "fec0::1",
    "IPv6 multicast": "ff02::1",
    "IPv6 documentation": "2001:db8::1",
    "IPv6 discard": "100::1",
    "IPv4-mapped loopback": "::ffff:127.0.0.1",
    "IPv4-mapped private": "::ffff:10.0.0.1",
    "IPv4-mapped metadata": "::ffff:a9fe:a9fe",
    "IPv4-compatible loopback": "::127.0.0.1",
    "6to4 of a private address": "2002:0a00:0001::1",
    "NAT64 of loopback": "64:ff9b::7f00:1",
    "NAT64 of metadata": "64:ff9b::169.254.169.254",
    "NAT64 of a network's own": "64:ff9b:1::10.0.0.1",
    "Teredo": "2001:0:4136:e378:8000:63bf:f5ff:fffe",
}


def found(url: str, *addresses: str, allowed: Sequence[str] = ()) -> list[str]:
    def resolve(host: str, port: int) -> Sequence[str]:
        if not addresses:
            raise OSError("no such host")
        return addresses

    return permitted(parse(url), allowed=Allowed.of(*allowed), resolve=resolve)


def refused(url: str, *addresses: str, allowed: Sequence[str] = ()) -> UnreadableDocument:
    with pytest.raises(UnreadableDocument) as caught:
        found(url, *addresses, allowed=allowed)
    return caught.value


@pytest.mark.parametrize("address", NOT_PUBLIC.values(), ids=NOT_PUBLIC)
def test_a_name_that_leads_to_an_address_that_is_not_public_is_refused(address: str) -> None:
    error = refused("https://docs.example/a?key=s3cret", address)
    assert error.code == "url_not_allowed"
    assert address not in error.message
    assert "s3cret" not in error.message


@pytest.mark.parametrize("address", NOT_PUBLIC.values(), ids=NOT_PUBLIC)
def test_one_address_of_several_that_is_not_public_refuses_the_name(address: str) -> None:
    assert refused("https://docs.example/", PUBLIC, address).code == "url_not_allowed"
    assert refused("https://docs.example/", address, PUBLIC).code == "url_not_allowed"


@pytest.mark.parametrize("address", [PUBLIC, "8.8.8.8", "2606:4700::1111", "64:ff9b::8.8.8.8", "::ffff:8.8.8.8"])
def test_public_addresses_are_connected_to(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))
    assert found("https://docs.example/", address) == [str(ipaddress.ip_address(address))]


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("http://127.0.0.1/", id="plain"),
        pytest.param("http://127.0.0.1./", id="a dot at the end"),
        pytest.param("http://127.1/", id="two parts"),
        pytest.param("http://127.0.1/", id="three parts"),
        pytest.param("http://2130706433/", id="decimal"),
        pytest.param("http://0x7f000001/", id="hexadecimal"),
        pytest.param("http://0X7F.0x0.0x0.0x1/", id="hexadecimal parts"),
        pytest.param("http://017700000001/", id="octal"),
        pytest.param("http://0177.0.0.1/", id="an octal part"),
        pytest.param("http://127.0.0.0x1/", id="a hexadecimal last part"),
        pytest.param("http://0/", id="zero"),
        pytest.param("http://127.0.0.1%00.example/", id="an escaped NUL"),
        pytest.param("http://%31%32%37.0.0.1/", id="escaped digits"),
        pytest.param("http://127\u30020\u30020\u30021/", id="ideographic dots"),
        pytest.param("http://127\uff0e0\uff0e0\uff0e1/", id="fullwidth dots"),
        pytest.param("http://\uff11\uff12\uff17.0.0.1/", id="fullwidth digits"),
        pytest.param("http://\u2460\u2461\u2466.0.0.1/", id="circled digits"),
        pytest.param("http://[::1]/", id="IPv6"),
        pytest.param("http://[::ffff:127.0.0.1]/", id="IPv6 around IPv4"),
        pytest.param("http://[0:0:0:0:0:0:0:1]/", id="IPv6 in full"),
        pytest.param("http://[fe80::1%25eth0]/", id="an IPv6 zone"),
        pytest.param("http://[::]/", id="IPv6 unspecified"),
        pytest.param("http://169.254.169.254/latest/meta-data/", id="metadata"),
        pytest.param("http://1.2.3.4.5/", id="five parts"),
        pytest.param("http://256.256.256.256/", id="parts that are too large"),
    ],
)
def test_no_spelling_of_an_address_gets_past(url: str) -> None:
    # The system's resolver would take some of these for addresses; this one would let them pass.
    assert refused(url, PUBLIC).code in {"url_not_allowed", "malformed_url"}


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("http://user:pw@docs.example/", id="user and password"),
        pytest.param("http://user@docs.example/", id="user"),
        pytest.param("http://docs.example@127.0.0.1/", id="a host in the place of the user"),
        pytest.param("http://docs.example\\@127.0.0.1/", id="a backslash before the real host"),
        pytest.param("http://127.0.0.1\\@docs.example/", id="a backslash after another host"),
        pytest.param("file:///etc/passwd", id="file"),
        pytest.param("ftp://docs.example/", id="ftp"),
        pytest.param("gopher://docs.example/", id="gopher"),
        pytest.param("dict://docs.example:11211/", id="dict"),
        pytest.param("javascript:alert(1)", id="javascript"),
        pytest.param("//docs.example/", id="no scheme"),
        pytest.param("docs.example", id="a host alone"),
        pytest.param("", id="nothing"),
        pytest.param("http://", id="no host"),
        pytest.param("http:///path", id="no host and a path"),
        pytest.param("http:docs.example/", id="no slashes"),
        pytest.param("http://docs..example/", id="an empty label"),
        pytest.param("http://docs.example../", id="two dots at the end"),
        pytest.param("http://./", id="a dot"),
        pytest.param("http://docs example/", id="a space"),
        pytest.param("http://docs.example\r\nHost: x/", id="a line break"),
        pytest.param("http://docs.example/\r\nX: y", id="a line break in the path"),
        pytest.param("http://docs.example\t/", id="a tab"),
        pytest.param("http://docs.example:port/", id="a port that is no number"),
        pytest.param("http://docs.example:70000/", id="a port that is too large"),
        pytest.param("http://[::1/", id="an open bracket"),
        pytest.param("http://" + "a" * 300 + ".example/", id="a name that is too long"),
        pytest.param("http://docs.example/" + "a" * 10_000, id="a URL that is too long"),
    ],
)
def test_no_other_kind_of_url_gets_past(url: str) -> None:
    assert refused(url, PUBLIC).code in {"url_not_allowed", "malformed_url"}


@pytest.mark.parametrize("port", [22, 25, 6379, 11211, 3306, 0, 8000])
def test_other_ports_than_those_of_the_web_are_refused(port: int) -> None:
    assert refused(f"http://docs.example:{port}/", PUBLIC).code == "url_not_allowed"


@pytest.mark.parametrize("port", [80, 443, 8080, 8443])
def test_ports_of_the_web_are_used(port: int) -> None:
    assert found(f"http://docs.example:{port}/", PUBLIC) == [PUBLIC]


def test_an_allowed_network_opens_its_addresses_at_any_port_and_no_others() -> None:
    assert found("http://files.internal:9000/", "10.1.2.3", allowed=["10.1.0.0/16"]) == ["10.1.2.3"]
    assert found("http://10.1.2.3:9000/", allowed=["10.1.0.0/16"]) == ["10.1.2.3"]
    assert found("http://x.internal/", "::ffff:10.1.2.3", allowed=["10.1.0.0/16"])
    assert refused("http://files.internal/", "10.2.0.1", allowed=["10.1.0.0/16"]).code == "url_not_allowed"
    assert refused("http://files.internal/", "10.1.0.1", "127.0.0.1", allowed=["10.1.0.0/16"])
    assert refused("http://docs.example:22/", PUBLIC, "10.1.0.1", allowed=["10.1.0.0/16"]).code == "url_not_allowed"


def test_an_allowed_name_opens_whatever_it_leads_to_and_no_name_beside_it() -> None:
    assert found("http://MinIO.internal.:9000/", "10.1.2.3", allowed=["minio.internal"]) == ["10.1.2.3"]
    assert refused("http://evil.minio.internal/", "10.1.2.3", allowed=["minio.internal"])
    assert refused("http://minio.internal.example/", "10.1.2.3", allowed=["minio.internal"])
    assert refused("http://10.1.2.3/", allowed=["minio.internal"])


@pytest.mark.parametrize("entry", ["http://minio", "minio:9000", "10.1.2.3/8", "10.0.0.0/99", "", "*.internal", "1"])
def test_what_cannot_be_allowed_is_said_at_start(entry: str) -> None:
    with pytest.raises(ConfigError, match="no network"):
        Allowed.of(entry)


def test_a_name_in_other_letters_is_looked_up_in_its_ascii_form() -> None:
    target = parse("https://bücher.example:443/straße?q=ü")
    assert target.host == "xn--bcher-kva.example"
    assert target.host_header == "xn--bcher-kva.example"
    assert target.url.raw_path == b"/stra%C3%9Fe?q=%C3%BC"


def test_an_address_of_ipv6_stands_in_brackets_where_it_is_sent() -> None:
    assert parse("http://[2606:4700::1111]:8080/").host_header == "[2606:4700::1111]:8080"


@pytest.mark.parametrize("url", ["http://docs.example#@127.0.0.1/", "http://docs.example?@127.0.0.1/"])
def test_what_follows_the_host_is_no_host(url: str) -> None:
    assert parse(url).host == "docs.example"


def test_a_name_without_an_address_is_unreachable_for_now() -> None:
    error = refused("https://docs.example/")
    assert error.code == "url_unreachable"
    assert error.retryable


@pytest.mark.parametrize(
    ("url", "body", "mime_type"),
    [
        ("data:,hello%20there", b"hello there", "text/plain;charset=US-ASCII"),
        ("data:text/html,<p>x", b"<p>x", "text/html"),
        ("data:text/plain;charset=utf-8;base64,aGk=", b"hi", "text/plain;charset=utf-8"),
        ("DATA:text/plain;BASE64,aGk", b"hi", "text/plain"),
        ("data:;base64,aGk%3D", b"hi", "text/plain;charset=US-ASCII"),
        ("data:;charset=utf-8,%C3%A9", "é".encode(), "text/plain;charset=utf-8"),
        ("data:application/pdf;base64,_-8\n", b"\xff\xef", "application/pdf"),
        ("data:,é", "é".encode(), "text/plain;charset=US-ASCII"),
        ("data:text/plain;base64x,aGk=", b"aGk=", "text/plain;base64x"),
    ],
)
def test_a_data_url_has_its_document_in_it(url: str, body: bytes, mime_type: str) -> None:
    assert is_data_url(url)
    assert body_of(url, max_bytes=1_000) == (body, mime_type)


@pytest.mark.parametrize("url", ["data:", "data:text/plain", "data:;base64,a", "data:;base64,!!!!", "data:;base64,é"])
def test_a_data_url_that_is_none_is_malformed(url: str) -> None:
    with pytest.raises(UnreadableDocument) as caught:
        body_of(url, max_bytes=1_000)
    assert caught.value.code == "malformed_url"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(",%41" + "a" * 2_000, id="escaped"),
        pytest.param(";base64," + "A" * 2_000, id="in base64"),
        pytest.param("," + "é" * 501, id="as it is"),
        pytest.param("," + "%41" * 400_000, id="with many escapes"),
    ],
)
def test_a_data_url_that_is_too_large_is_refused(data: str) -> None:
    with pytest.raises(UnreadableDocument) as caught:
        body_of(f"data:{data}", max_bytes=1_000)
    assert caught.value.code == "document_too_large"
