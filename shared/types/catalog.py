"""What there is to use: models, providers, routes; and how the service is."""

from typing import Any, Literal

from shared.types.base import Json, Wire
from shared.types.tools import ToolParameter


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


class ShieldEntry(Wire):
    """A shield, and the instance that runs it."""

    identifier: str
    provider_resource_id: str
    provider_id: str
    type: Literal["shield"]
    params: Json


class ShieldList(Wire):
    """All shields."""

    data: list[ShieldEntry]


class McpAddress(Wire):
    """Where an MCP server is. Its headers are not shown."""

    uri: str


class ToolGroupEntry(Wire):
    """A tool group, and the instance that runs its tools. Credentials are shown as asterisks."""

    identifier: str
    provider_resource_id: str
    provider_id: str
    type: Literal["tool_group"]
    mcp_endpoint: McpAddress | None = None
    args: Json


class ToolGroupList(Wire):
    """All tool groups."""

    data: list[ToolGroupEntry]


class ToolEntry(Wire):
    """A tool that runs on the server. `input_schema` is the JSON Schema from which `parameters` are made."""

    identifier: str
    provider_resource_id: str
    provider_id: str
    toolgroup_id: str
    type: Literal["tool"]
    description: str
    parameters: list[ToolParameter]
    input_schema: Json
    metadata: Json


class ToolList(Wire):
    """Tools."""

    data: list[ToolEntry]


class RuntimeTool(Wire):
    """A tool as its provider lists it now."""

    name: str
    description: str
    parameters: list[ToolParameter]
    metadata: Json


class RuntimeToolList(Wire):
    """Tools."""

    data: list[RuntimeTool]


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
    """How the service is. `workers` is how many worker processes have been heard of lately, `memory_workers` how many
    that run insert jobs."""

    status: Literal["OK", "Error"]
    workers: int | None = None
    memory_workers: int | None = None
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
    provider_id: str | None = None


class Problem(Wire):
    """What went wrong (RFC 9457). `detail` says what to do."""

    type: str
    title: str
    status: int
    detail: str
    error: ProblemError
    errors: list[dict[str, Any]] | None = None
