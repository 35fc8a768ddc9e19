"""The shape of the run config."""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    field_validator,
)

from shared.runconfig.origin import Origin
from shared.runconfig.secrets import mask, protect

Durability = Literal["none", "fsync", "replicated"]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Megabytes = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(min_length=1)]

_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")

NO_FILE_DIGEST = "default"


class Section(BaseModel):
    """A mapping of the config: unknown keys are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Turns(Section):
    """How turns run. Times are in seconds; None means without bound.

    `deadline_s` and `queue_ttl_s` count from a turn's acceptance: until it has ended, and until a worker has taken it
    up. `max_queued` and `max_queued_per_agent` bound the turns that nobody has taken up yet.
    """

    lease_s: Seconds = 15
    max_attempts: Count = 5
    deadline_s: Seconds | None = None
    queue_ttl_s: Seconds | None = None
    input_timeout_s: Seconds = 86_400
    events_ttl_s: Seconds = 86_400
    session_ttl_s: Seconds = 86_400
    max_queued: Count | None = None
    max_queued_per_agent: Count | None = None


class Limits(Section):
    """How large a request may be: its body in MB (10^6 bytes), and the messages of a turn.

    Of files: the size of one, all of a tenant's together (both in MB), and for how long one is kept, in seconds.
    """

    body_mb: Megabytes = 8
    messages: Count = 1000
    file_mb: Megabytes = 32
    files_mb_per_tenant: Megabytes = 1024
    file_ttl_s: Annotated[float, Field(ge=1, le=365 * 86_400)] = 7 * 86_400


class Fetching(Section):
    """Where documents may be fetched from by their URLs, besides the public internet: networks (`10.1.0.0/16`),
    addresses and host names."""

    allow: tuple[Name, ...] = ()


class SessionDocuments(Section):
    """Documents that come with turns: up to `context_tokens` of them the model reads whole. Longer ones are put into a
    memory bank of the session: of the provider instance `provider_id` (the first one where it is not named), searched
    by meaning with `embedding_model` (the only one that is served), or else by words."""

    context_tokens: Count = 8192
    provider_id: Name | None = None
    embedding_model: Name | None = None


class ApiKey(Section):
    """A key that clients send as `Authorization: Bearer`, and whose data it opens. Plain text is short for
    `{key: …}`."""

    key: SecretStr
    tenant: Name = "default"

    @field_validator("key")
    @classmethod
    def _not_empty(cls, value: SecretStr) -> SecretStr:
        if not value.get_secret_value().strip():
            raise ValueError("must not be empty.")
        return value

    @field_validator("tenant")
    @classmethod
    def _part_of_names(cls, value: str) -> str:
        """It stands in the names of keys in the store and of turns, between signs that it must not hold itself."""
        if not _TENANT.fullmatch(value):
            raise ValueError("use at most 64 letters, digits and . _ - only, beginning with a letter or digit.")
        return value


class StaticModel(Section):
    """A model to register at start, as in `POST /v1/models`."""

    model_id: Name
    provider_id: Name | None = None
    provider_model_id: Name | None = None
    model_type: Literal["llm", "embedding"] = "llm"
    metadata: dict[str, Any] = Field(default_factory=dict)


class StaticShield(Section):
    """A shield to register at start, as in `POST /v1/shields`."""

    shield_id: Name
    provider_id: Name | None = None
    provider_shield_id: Name | None = None
    params: dict[str, Any] = Field(default_factory=dict)


class StaticMemoryBank(Section):
    """A memory bank to register at start, as in `POST /v1/memory-banks`."""

    memory_bank_id: Name
    type: Literal["vector", "keyword", "keyvalue", "graph"]
    provider_id: Name | None = None
    provider_memory_bank_id: Name | None = None
    embedding_model: Name | None = None
    embedding_dimension: Count | None = None
    chunk_size_in_tokens: Count | None = None
    overlap_size_in_tokens: Annotated[int, Field(ge=0)] | None = None


class StaticToolGroup(Section):
    """A tool group to register at start, as in `POST /v1/toolgroups`."""

    toolgroup_id: Name
    provider_id: Name | None = None
    mcp_endpoint: dict[str, Any] | None = None
    args: dict[str, Any] | None = None

    @field_validator("args", "mcp_endpoint")
    @classmethod
    def _hide_credentials(cls, value: dict[str, Any] | None) -> Any:
        return protect(value)


class ProviderInstance(Section):
    """One provider instance. `config` is validated by the provider's own type when a worker builds it.

    Credentials in `config` are SecretStr: what stands under `headers` or a key such as `api_key`.
    """

    # No slash: `provider_id/model` pins a model to an instance.
    provider_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]*$")]
    provider_type: Name
    config: dict[str, Any] = Field(default_factory=dict)

    @field_validator("config")
    @classmethod
    def _hide_credentials(cls, value: dict[str, Any]) -> Any:
        return protect(value)


class Providers(Section):
    """The provider instances by API."""

    inference: tuple[ProviderInstance, ...] = ()
    safety: tuple[ProviderInstance, ...] = ()
    memory: tuple[ProviderInstance, ...] = ()
    tool_runtime: tuple[ProviderInstance, ...] = ()

    def instances(self) -> Iterator[tuple[str, int, ProviderInstance]]:
        """Every instance with the name of its API and its place in that list."""
        for api in type(self).model_fields:
            for index, instance in enumerate(getattr(self, api)):
                yield api, index, instance


def _keyed(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [{"key": item} if isinstance(item, str) else item for item in value]
    return value


class FrontConfig(Section):
    """The part of the run config that needs no provider: all that the API may know."""

    turns: Turns = Turns()
    limits: Limits = Limits()
    fetching: Fetching = Fetching()
    documents: SessionDocuments = SessionDocuments()
    durability: Durability = "none"
    api_keys: Annotated[tuple[ApiKey, ...], BeforeValidator(_keyed)] = ()
    models: tuple[StaticModel, ...] = ()
    shields: tuple[StaticShield, ...] = ()
    memory_banks: tuple[StaticMemoryBank, ...] = ()
    toolgroups: tuple[StaticToolGroup, ...] = ()

    @field_validator("api_keys")
    @classmethod
    def _each_key_once(cls, value: tuple[ApiKey, ...]) -> tuple[ApiKey, ...]:
        if len({one.key.get_secret_value().strip() for one in value}) < len(value):
            raise ValueError("each key once: one of them stands there twice.")
        return value

    _digest: str = PrivateAttr(NO_FILE_DIGEST)
    _origin: Origin = PrivateAttr(default_factory=Origin)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the file's bytes, or `default` without a file. Equal where two processes agree."""
        return self._digest

    @property
    def origin(self) -> Origin:
        """Where the config was read from, for errors that are found later."""
        return self._origin

    def read_from(self, origin: Origin, digest: str) -> Self:
        """Note where this config comes from; for the loader alone."""
        self._origin, self._digest = origin, digest
        return self

    def masked(self) -> dict[str, Any]:
        """The config for showing, with every credential as asterisks."""
        shown: dict[str, Any] = mask(self.model_dump())
        return shown


class RunConfig(FrontConfig):
    """The whole run config, credentials of providers included: for workers."""

    providers: Providers = Providers()
