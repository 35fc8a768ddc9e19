"""The config of a `remote::http` tool provider."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr, field_validator

from shared.runconfig.model import Section
from worker.providers.tools import Replay
from worker.providers.tools_config import HttpUrl, MaxResultKb, Seconds, SecretHeaders, TlsVerify, plain
from worker.providers.tools_schema import object_schema


def _schema(value: object) -> object:
    # A parameter that is called `token` or `headers` is no credential.
    value = plain(value)
    if not isinstance(value, dict | list):
        raise ValueError("has to be a JSON Schema (a mapping) or a list of parameters.")
    return object_schema(value)


class HttpTool(Section):
    """A tool behind a URL.

    `parameters` is a JSON Schema of type object, or a list of `{name, parameter_type, description, required,
    default}`. `timeout_s` is for a whole call. `replay: safe` says that a call may be repeated with the same
    Idempotency-Key when its outcome is unknown.
    """

    name: str
    description: str = ""
    parameters: Annotated[dict[str, Any], BeforeValidator(_schema)] = Field(default_factory=lambda: object_schema({}))
    url: HttpUrl
    method: Literal["POST", "GET", "PUT", "PATCH", "DELETE"] = "POST"
    headers: SecretHeaders = Field(default_factory=dict[str, SecretStr])
    timeout_s: Seconds = 30
    replay: Replay = Replay.NEVER

    @field_validator("name")
    @classmethod
    def _callable_name(cls, value: str) -> str:
        if not 1 <= len(value) <= 64 or not all(sign.isascii() and (sign.isalnum() or sign in "_.-") for sign in value):
            raise ValueError("use letters, digits and _ . - only, at most 64.")
        return value

    @field_validator("method", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value


class HttpToolsConfig(Section):
    """Tools behind URLs, as one tool group: `toolgroup_id`, or else the provider's id."""

    tools: Annotated[tuple[HttpTool, ...], Field(min_length=1)]
    toolgroup_id: Annotated[str, Field(min_length=1)] | None = None
    max_result_kb: MaxResultKb = 256
    connect_timeout_s: Seconds = 5
    max_connections: Annotated[int, Field(ge=1)] = 1000
    tls_verify: TlsVerify = True

    @field_validator("tools")
    @classmethod
    def _unique(cls, value: tuple[HttpTool, ...]) -> tuple[HttpTool, ...]:
        names = [tool.name for tool in value]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"'{twice[0]}' stands twice; rename one.")
        return value
