"""Messages of a conversation, and the calls of tools in them."""

from typing import Annotated, Literal

from pydantic import Field

from shared.types.base import Items, Json, Metadata, Wire
from shared.types.content import Content

CallId = Annotated[str, Field(min_length=1, max_length=255, description="Names the call within its turn.")]


class UserMessage(Wire):
    """What the user says. `context` is added for the model behind the content, and is no part of the answer."""

    role: Literal["user"]
    content: Content
    context: Content | None = None


class ToolResponseMessage(Wire):
    """What a tool answered, as input of a turn."""

    role: Literal["tool"]
    call_id: CallId
    content: Content


InputMessage = Annotated[UserMessage | ToolResponseMessage, Field(discriminator="role")]


class ToolCall(Wire):
    """A call that the model makes. `arguments_json` is the text that the model wrote."""

    call_id: str
    tool_name: str
    arguments: Json | str
    arguments_json: str | None = None


class ToolResponse(Wire):
    """What a tool of the client answered to a call."""

    call_id: CallId
    tool_name: Annotated[str, Field(min_length=1, max_length=255)]
    content: Content
    metadata: Metadata | None = None


class CompletionMessage(Wire):
    """What the model says.

    `stop_reason`: `end_of_turn` it is done; `end_of_message` it waits for its tool calls; `out_of_tokens` it was cut.
    """

    role: Literal["assistant"]
    content: Content
    stop_reason: Literal["end_of_turn", "end_of_message", "out_of_tokens"]
    tool_calls: Items[ToolCall] = Field(default_factory=list)
