"""What there is to use: models, providers, routes; and how the service is."""

from typing import Any, Literal

from shared.types.base import Json, Wire


class ModelEntry(Wire):
    """A model that can be used, with the instances that serve it. The first is in `provider_id`.

    `id, object, created, owned_by` are there for OpenAI's clients.
    """

    identifier: str
    provider_resource_id: str
    provider_id: str
    provider_ids: list[str]
    type: Literal["model"]
    model_type: str
    metadata: Json
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(Wire):
    """All models."""

    data: list[ModelEntry]
    object: Literal["list"]


class ProviderEntry(Wire):
    """A provider instance. Its config is shown without secrets."""

    api: str
    provider_id: str
    provider_type: str
    config: Json
    health: Json


class ProviderList(Wire):
    """All provider instances."""

    data: list[ProviderEntry]


class RouteEntry(Wire):
    """A route of this service."""

    route: str
    method: str
    provider_types: list[str]


class RouteList(Wire):
    """All routes."""

    data: list[RouteEntry]


class Health(Wire):
    """How the service is. `workers` is how many worker processes have been heard of lately."""

    status: Literal["OK", "Error"]
    workers: int | None = None
    detail: str | None = None


class Version(Wire):
    """Which release this is."""

    version: str


class ProblemError(Wire):
    """The error as OpenAI's and Llama Stack's clients look for it."""

    message: str
    type: str
    code: str
    param: str | None = None


class Problem(Wire):
    """What went wrong (RFC 9457). `detail` says what to do."""

    type: str
    title: str
    status: int
    detail: str
    error: ProblemError
    errors: list[dict[str, Any]] | None = None
