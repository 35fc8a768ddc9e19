"""Requests to register models, shields and tool groups with their providers."""

from typing import Annotated, Literal

from pydantic import Field

from shared.types.base import Json, Metadata, Name, Wire

ProviderId = Annotated[
    str | None,
    Field(min_length=1, max_length=255, description="A provider instance; not needed where the API has only one."),
]
GroupId = Annotated[
    str, Field(pattern=r"^[^\s/]{1,255}$", description="No slash: `group/tool` names a tool of a group.")
]


class RegisterModel(Wire):
    """A model to register. `provider_model_id` is the provider's own name for it, if that is another one."""

    model_id: Name
    provider_id: ProviderId = None
    provider_model_id: Name | None = None
    model_type: Literal["llm", "embedding"] = "llm"
    metadata: Metadata = Field(default_factory=dict)


class RegisterShield(Wire):
    """A shield to register. `provider_shield_id` is the provider's own name for it, if that is another one."""

    shield_id: Name
    provider_id: ProviderId = None
    provider_shield_id: Name | None = None
    params: Json = Field(default_factory=dict)


class McpEndpoint(Wire):
    """An MCP server: its streamable HTTP endpoint, and headers for it, which nobody gets to read again."""

    uri: Annotated[str, Field(min_length=1, max_length=2048)]
    headers: dict[str, str] = Field(default_factory=dict)


class RegisterToolGroup(Wire):
    """A tool group to register. `args` are given to every call of its tools."""

    toolgroup_id: GroupId
    provider_id: ProviderId = None
    mcp_endpoint: McpEndpoint | None = None
    args: Json = Field(default_factory=dict)
