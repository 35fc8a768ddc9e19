"""The config of a `remote::openai` instance, and what every provider that is asked over HTTP has in common."""

import re
import ssl
from typing import Annotated, Literal
from urllib.parse import urlsplit

import httpx
from pydantic import Field, SecretStr, field_validator

from shared.runconfig.model import Section
from worker.providers.inference import PLACE_TIMEOUT_S

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
ExtraParam = Literal["top_k", "repetition_penalty"]

_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


class Endpoint(Section):
    """Where an HTTP service is, and what identifies us to it.

    `url` is the base below which the routes lie, for instance http://gpu-1:8000/v1. `tls_verify` is true, false or
    the path of a CA file.
    """

    url: str
    api_key: SecretStr | None = None
    headers: dict[str, SecretStr] = Field(default_factory=dict)
    connect_timeout_s: Seconds = 5
    tls_verify: bool | str = True

    def secrets(self) -> list[str]:
        """What no message may hold."""
        given = [*self.headers.values(), *([] if self.api_key is None else [self.api_key])]
        return [secret.get_secret_value() for secret in given]

    def request_headers(self) -> dict[str, str]:
        """What every request carries, names in lower case. A header of the config replaces ours of the same name."""
        key = "" if self.api_key is None else self.api_key.get_secret_value()
        own = {"user-agent": "turnstone", **({"authorization": f"Bearer {key}"} if key else {})}
        return own | {name.lower(): secret.get_secret_value() for name, secret in self.headers.items()}

    def tls_context(self) -> ssl.SSLContext | None:
        """None for plain HTTP: reading the authorities takes 20 ms and 1 MB for each instance."""
        if not self.url.startswith("https:"):
            return None
        if isinstance(self.tls_verify, str):
            return ssl.create_default_context(cafile=self.tls_verify)
        return httpx.create_ssl_context(verify=self.tls_verify, trust_env=False)

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


class Load(Section):
    """How many requests a worker process has under way at an instance, and how long others wait for a place there."""

    max_concurrency: Annotated[int, Field(ge=1)] | None = None
    place_timeout_s: Seconds = PLACE_TIMEOUT_S


class OpenAIConfig(Endpoint, Load):
    """An OpenAI-compatible server, and how long to wait for it.

    `first_token_timeout_s` is the wait for the reply to begin, `token_timeout_s` the longest silence afterwards; any
    byte is a sign of life, also a comment. `extra_params` names sampling parameters that are not OpenAI's and that
    this server takes. `max_tokens_field` is for models that refuse `max_tokens`.
    """

    first_token_timeout_s: Seconds = 120
    token_timeout_s: Seconds = 60
    max_retries: Annotated[int, Field(ge=0, le=20)] = 3
    max_connections: Annotated[int, Field(ge=1)] = 1000
    extra_params: tuple[ExtraParam, ...] = ()
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"


class ServerConfig(OpenAIConfig):
    """A server whose OpenAI-compatible routes lie below /v1, and others beside them.

    `url` may end with /v1 or leave it out.
    """

    @field_validator("url")
    @classmethod
    def _below_v1(cls, value: str) -> str:
        return value if value.endswith("/v1") else f"{value}/v1"

    @property
    def root(self) -> str:
        """Where the server's own routes begin."""
        return self.url.removesuffix("/v1")


class NoExtraParams(ServerConfig):
    """A server that ignores parameters that are not OpenAI's, so that none may be sent."""

    @field_validator("extra_params")
    @classmethod
    def _none(cls, value: tuple[ExtraParam, ...]) -> tuple[ExtraParam, ...]:
        if value:
            raise ValueError("this server ignores parameters that are not OpenAI's: leave it out.")
        return value


def _sendable(value: str) -> str:
    """`value`, or ValueError that does not quote it, where HTTP cannot carry it in a header."""
    if not _HEADER_VALUE.fullmatch(value):
        raise ValueError("must be printable ASCII to fit into an HTTP header.")
    return value
