"""What a URL asks for, and which addresses may be connected to for it."""

import ipaddress
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

import httpx

from worker.documents.addresses import Address, Allowed, is_host_name, is_public
from worker.documents.errors import UnreadableDocument

Resolve = Callable[[str, int], Sequence[str]]
"""The addresses of a host for a port. Raises OSError."""

MAX_URL_LENGTH = 8_192
# What else listens on public machines is no web server: mail, shells, databases. An allowed host may use any port.
WEB_PORTS = frozenset({80, 443, 8080, 8443})
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A URL that is well-formed. `host` is in ASCII and lower case, without a dot at its end and without brackets."""

    url: httpx.URL
    scheme: str
    host: str
    port: int

    @property
    def host_header(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


def parse(url: str) -> Target:
    """Raises UnreadableDocument: `malformed_url`, or `url_not_allowed` for what is never fetched."""
    if len(url) > MAX_URL_LENGTH:
        raise UnreadableDocument("malformed_url", f"The URL is longer than {MAX_URL_LENGTH} characters.")
    try:
        return target_of(httpx.URL(url))
    except (httpx.InvalidURL, UnicodeError):
        raise UnreadableDocument("malformed_url", "That is no valid URL.") from None


def target_of(url: httpx.URL) -> Target:
    """As `parse`."""
    if url.scheme not in _DEFAULT_PORTS:
        raise UnreadableDocument("url_not_allowed", "Documents are fetched from http, https and data URLs only.")
    if url.userinfo:
        raise UnreadableDocument("url_not_allowed", "URLs with a user name or a password in them are not fetched.")
    host = url.raw_host.decode("ascii").lower().removesuffix(".")
    if not is_host_name(host) and _address(host) is None:
        raise UnreadableDocument("malformed_url", "The URL's host is no name, and no address like 192.0.2.1.")
    port = url.port if url.port is not None else _DEFAULT_PORTS[url.scheme]
    return Target(url=url, scheme=url.scheme, host=host, port=port)


def addresses_of(host: str, port: int) -> list[str]:
    """Asks the system's resolver."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def permitted(target: Target, *, allowed: Allowed, resolve: Resolve) -> list[str]:
    """The addresses to connect to, all of which may be. One that may not be refuses the whole host: which of them is
    connected to must not be for the owner of the name to choose.

    Raises UnreadableDocument: `url_not_allowed` or `url_unreachable`.
    """
    literal = _address(target.host)
    addresses = [literal] if literal is not None else _resolved(target, resolve)
    if not allowed.has_host(target.host):
        by_operator = [allowed.has_address(address) for address in addresses]
        if target.port not in WEB_PORTS and not all(by_operator):
            _refuse("a port that documents are not fetched from (80, 443, 8080 and 8443 are)")
        if not all(fine or is_public(address) for fine, address in zip(by_operator, addresses, strict=True)):
            _refuse("an address that is not public")
    return [str(address) for address in addresses]


def _resolved(target: Target, resolve: Resolve) -> list[Address]:
    try:
        found = [ipaddress.ip_address(address) for address in resolve(target.host, target.port)]
    except (OSError, UnicodeError):
        found = []
    if not found:
        raise UnreadableDocument("url_unreachable", "The URL's host has no address.", retryable=True)
    return found


def _address(host: str) -> Address | None:
    """Of the ordinary spelling only. One with a zone ('%eth0') names an interface of this machine."""
    try:
        return None if "%" in host else ipaddress.ip_address(host)
    except ValueError:
        return None


def _refuse(what: str) -> NoReturn:
    raise UnreadableDocument(
        "url_not_allowed", f"The URL leads to {what}. Send the document itself, or ask the operator to allow its host."
    )
