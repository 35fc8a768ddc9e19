"""The config of a `remote::openai` instance."""

import re
import ssl
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from shared.runconfig.model import Section

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
ExtraParam = Literal["top_k", "repetition_penalty"]

_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


class OpenAIConfig(Section):
    """Where an OpenAI-compatible server is, and how long to wait for it.

    `url` is the base below which the routes lie, for instance http://gpu-1:8000/v1. `first_token_timeout_s` is the
    wait for the reply to begin, `token_timeout_s` the longest silence afterwards; any byte is a sign of life,
    also a comment. `extra_params` names sampling parameters that are not OpenAI's and that this server
    takes. `max_tokens_field` is for models that refuse `max_tokens`. `tls_verify` is true, false or the path
    of a CA file.
    """

    url: str
    api_key: SecretStr | None = None
    headers: dict[str, SecretStr] = Field(default_factory=dict)
    connect_timeout_s: Seconds = 5
    first_token_timeout_s: Seconds = 120
    token_timeout_s: Seconds = 60
    max_retries: Annotated[int, Field(ge=0, le=20)] = 3
    max_connections: Annotated[int, Field(ge=1)] = 1000
    extra_params: tuple[ExtraParam, ...] = ()
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    tls_verify: bool | str = True

    @field_validator("url")
    @classmethod
    def _base_url(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            parts.port  # noqa: B018  (reading it validates it)
        except ValueError:
            raise ValueError("this is no URL; write http://host:port/v1.") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("has to be a URL such as http://host:port/v1.")
        if "@" in parts.netloc:
            raise ValueError("must not hold a user or password; use `api_key` or `headers`.")
        if parts.query or parts.fragment:
            raise ValueError("must end before ? and #: it is the base below which the routes lie.")
        if not value.isascii() or any(sign.isspace() for sign in value):
            raise ValueError("must hold no spaces and ASCII only.")
        return value.rstrip("/")

    @field_validator("tls_verify", mode="before")
    @classmethod
    def _switch(cls, value: object) -> object:
        # What comes from the environment is text.
        return {"true": True, "false": False}.get(value.lower(), value) if isinstance(value, str) else value

    @field_validator("tls_verify")
    @classmethod
    def _readable_authority(cls, value: bool | str) -> bool | str:
        if isinstance(value, str):
            try:
                ssl.create_default_context(cafile=value)
            except OSError:
                raise ValueError("has to be true, false or the path of a readable PEM file.") from None
        return value

    @field_validator("api_key")
    @classmethod
    def _sendable_key(cls, value: SecretStr | None) -> SecretStr | None:
        # A key read from a file often brings its newline along.
        return None if value is None else SecretStr(_sendable(value.get_secret_value().strip()))

    @field_validator("headers")
    @classmethod
    def _sendable_headers(cls, value: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name, secret in value.items():
            if not _HEADER_NAME.fullmatch(name):
                raise ValueError("a header's name is made of letters, digits and hyphens.")
            _sendable(secret.get_secret_value())
        return value


def _sendable(value: str) -> str:
    """`value`, or ValueError that does not quote it, where HTTP cannot carry it in a header."""
    if not _HEADER_VALUE.fullmatch(value):
        raise ValueError("must be printable ASCII to fit into an HTTP header.")
    return value
