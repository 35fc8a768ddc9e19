"""The port of tool providers: what the turn loop asks of tools that run on the server."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

Json = dict[str, Any]


class Replay(StrEnum):
    """What may happen to a call whose outcome is unknown because its worker was lost."""

    SAFE = "safe"
    """Read-only or idempotent: it is made again, with the same idempotency key."""

    NEVER = "never"
    """It is not made again; the model is told that the outcome is unknown. For tools that do not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A tool as a provider lists it. `input_schema` is the JSON Schema (an object) of its arguments."""

    name: str
    toolgroup_id: str
    description: str = ""
    input_schema: Json = field(default_factory=lambda: {"type": "object", "properties": {}})
    replay: Replay = Replay.NEVER
    metadata: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolGroup:
    """A group of tools. `mcp_endpoint` is `{uri}` where an MCP server has them, `args` are given to every call."""

    identifier: str
    mcp_endpoint: Json | None = None
    args: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolFile:
    """A file that a call gave. The name is the tool's own words, or empty."""

    data: bytes = field(repr=False)
    mime_type: str
    filename: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult:
    """What a call gave. `content` is a string or a list of Llama Stack content items; `error` marks one that the
    tool itself refused or failed, which goes to the model like any other result. `files` are what no model reads;
    images in the content need not be there a second time."""

    content: str | list[Json]
    error: bool = False
    metadata: Json = field(default_factory=dict)
    files: tuple[ToolFile, ...] = ()


class ToolProvider(ABC):
    """A provider instance that runs tools.

    Instances are made once per worker process and used by many greenlets at once. Every method raises
    `shared.errors.ProviderError` (and nothing else) for a fault of the provider (not reachable, timeout, 5xx), with a
    message that names the instance, says what to do and holds no secret. Results are bounded in size.
    """

    provider_id: str
    provider_type: str

    @abstractmethod
    def list_toolgroups(self) -> list[ToolGroup]:
        """The groups that the provider serves now, from its config and from `register_toolgroup`."""

    @abstractmethod
    def list_tools(self, toolgroup_id: str) -> list[Tool]:
        """The tools of a group, asked of the provider itself."""

    @abstractmethod
    def register_toolgroup(self, group: ToolGroup) -> ToolGroup:
        """Accept a group, or raise with the provider's reason. Repeating it is harmless."""

    @abstractmethod
    def unregister_toolgroup(self, toolgroup_id: str) -> None:
        """Forget a registered group."""

    @abstractmethod
    def invoke(self, tool: Tool, arguments: Json, *, idempotency_key: str) -> ToolResult:
        """Make one call. `arguments` are valid for the tool's schema; the key is stable over repetitions."""

    @abstractmethod
    def close(self) -> None:
        """Release connections. The instance is not used afterwards."""


class TenantTools(ToolProvider):
    """A provider whose tools work on what belongs to a tenant."""

    @abstractmethod
    def of(self, tenant: str) -> ToolProvider:
        """The same tools for this tenant."""
