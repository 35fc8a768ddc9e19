"""Tools that a model may call."""

from typing import Annotated, Any, Literal

from pydantic import Field

from shared.types.base import Items, Json, Metadata, Name, Wire

ToolName = Annotated[
    str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$", description="Letters, digits, `_`, `.`, `-`; at most 64.")
]
ToolChoice = Annotated[
    str, Field(min_length=1, max_length=64, description="`auto`, `required`, `none`, or the name of a tool.")
]


class ToolParameter(Wire):
    """A parameter of a tool. `parameter_type` is a JSON Schema type such as `string` or `integer`."""

    name: Name
    parameter_type: Annotated[str, Field(min_length=1, max_length=255)]
    description: str = ""
    required: bool = True
    default: Any = None


class ToolDef(Wire):
    """A tool of the client: the turn waits while the client runs it."""

    name: ToolName
    description: str | None = None
    parameters: Items[ToolParameter] = Field(default_factory=list)
    metadata: Metadata | None = None


class ToolConfig(Wire):
    """How tools are used."""

    tool_choice: ToolChoice | None = None
    system_message_behavior: Annotated[
        Literal["append", "replace"],
        Field(description="Whether the agent's instructions come after the default ones or replace them."),
    ] = "append"


class ToolGroupWithArgs(Wire):
    """A group of tools with arguments for it."""

    name: Name
    args: Json = Field(default_factory=dict)


ToolGroup = str | ToolGroupWithArgs
