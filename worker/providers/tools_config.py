"""What the configs of tool providers share: addresses, headers, TLS, and what a credential is."""

import re
import ssl
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
MaxResultKb = Annotated[int, Field(ge=1, le=16_384)]

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")
_OURS = frozenset({"connection", "content-length", "host", "idempotency-key", "transfer-encoding"})
# Other headers (a tenant, a region) may well be a tool's own words: they are left in its results.
_CREDENTIAL = re.compile(r"auth|cookie|credential|key|passw|secret|session|signature|token", re.IGNORECASE)


def _url(value: str) -> str:
    try:
        parts = urlsplit(value)
        parts.port  # noqa: B018  (reading it validates it)
    except ValueError:
        raise ValueError("this is no URL; write http://host:port/path.") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("has to be a URL such as http://host:port/path.")
    if "@" in parts.netloc:
        raise ValueError("must not hold a user or password; use `headers`.")
    if parts.fragment:
        raise ValueError("must end before #.")
    if not value.isascii() or any(sign.isspace() for sign in value):
        raise ValueError("must hold no spaces and ASCII only.")
    return value


def _headers(value: dict[str, SecretStr]) -> dict[str, SecretStr]:
    for name, secret in value.items():
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError("a header's name is made of letters, digits and hyphens.")
        if name.lower() in _OURS:
            raise ValueError(f"the header {name.lower()} is set by Turnstone; remove it.")
        if not _HEADER_VALUE.fullmatch(secret.get_secret_value().strip()):
            raise ValueError("must be printable ASCII to fit into an HTTP header.")
    # A value read from a file often brings its newline along.
    return {name.lower(): SecretStr(secret.get_secret_value().strip()) for name, secret in value.items()}


def _switch(value: object) -> object:
    # What comes from the environment is text.
    return {"true": True, "false": False}.get(value.lower(), value) if isinstance(value, str) else value


def _readable_authority(value: bool | str) -> bool | str:
    if isinstance(value, str):
        try:
            ssl.create_default_context(cafile=value)
        except OSError:
            raise ValueError("has to be true, false or the path of a readable PEM file.") from None
    return value


def plain(value: Any) -> Any:
    """`value` with every SecretStr in it as the text that it hides: the run config hides by the names of keys."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def hidden(value: Any) -> list[str]:
    """Every text in `value` that the run config hides."""
    if isinstance(value, SecretStr):
        return [value.get_secret_value()]
    if isinstance(value, Mapping):
        return hidden(list(value.values()))
    if isinstance(value, list | tuple):
        return [secret for item in value for secret in hidden(item)]
    return []


HttpUrl = Annotated[str, AfterValidator(_url)]
SecretHeaders = Annotated[dict[str, SecretStr], AfterValidator(_headers)]
TlsVerify = Annotated[bool | str, BeforeValidator(_switch), AfterValidator(_readable_authority)]


def sent_headers(headers: Mapping[str, SecretStr]) -> dict[str, str]:
    """The headers as they are sent."""
    return {name: secret.get_secret_value() for name, secret in headers.items()}


def credentials(headers: Mapping[str, str]) -> list[str]:
    """The values among `headers` that nobody may read, by the names of their headers."""
    values = [value for name, value in headers.items() if _CREDENTIAL.search(name)]
    # A server that repeats a token leaves its scheme out.
    return [*values, *(value.partition(" ")[2].strip() for value in values if " " in value)]
