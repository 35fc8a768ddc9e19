"""Direct use of what providers serve, outside of any turn: inference, shields, tools."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from shared.types.base import MAX_INT, Items, Json, Metadata, Name, Wire
from shared.types.content import Content, Item
from shared.types.messages import CompletionMessage, ToolCall, ToolResponseMessage, UserMessage
from shared.types.sampling import ResponseFormat, SamplingParams
from shared.types.steps import Violation
from shared.types.tools import ToolConfig, ToolName

StopReason = Literal["end_of_turn", "end_of_message", "out_of_tokens"]
DirectStream = Annotated[bool | None, Field(description="true: server-sent events; otherwise the whole answer.")]
Unserved = Annotated[Any, Field(description="Not supported: leave it out.")]


class SystemMessage(Wire):
    """Instructions for the model."""

    role: Literal["system"]
    content: Content


class AssistantMessage(Wire):
    """What the model has said before."""

    role: Literal["assistant"]
    content: Content = ""
    stop_reason: StopReason = "end_of_turn"
    tool_calls: Items[ToolCall] = Field(default_factory=list)


Message = Annotated[UserMessage | SystemMessage | AssistantMessage | ToolResponseMessage, Field(discriminator="role")]
Messages = Annotated[Items[Message], Field(min_length=1)]


class ToolParam(Wire):
    """A parameter of a tool; `param_type` is a JSON Schema type."""

    param_type: Annotated[str, Field(min_length=1, max_length=255)]
    description: str = ""
    required: bool = True
    default: Any = None


class ToolDefinition(Wire):
    """A tool that the model may call."""

    tool_name: ToolName
    description: str = ""
    parameters: dict[str, ToolParam] = Field(default_factory=dict)


class ChatCompletion(Wire):
    """A request for one reply in a conversation."""

    model_id: Name
    messages: Messages
    sampling_params: SamplingParams = Field(default_factory=SamplingParams)
    tools: Items[ToolDefinition] = Field(default_factory=list)
    tool_choice: Annotated[str | None, Field(min_length=1, max_length=64)] = None
    tool_config: ToolConfig = Field(default_factory=ToolConfig)
    response_format: ResponseFormat | None = None
    logprobs: Unserved = None
    stream: DirectStream = None


class Completion(Wire):
    """A request to go on with a text."""

    model_id: Name
    content: Content
    sampling_params: SamplingParams = Field(default_factory=SamplingParams)
    response_format: ResponseFormat | None = None
    logprobs: Unserved = None
    stream: DirectStream = None


def _text_or_item(value: Any) -> str:
    return "text" if isinstance(value, str) else "item"


EmbeddedContent = Annotated[Annotated[str, Tag("text")] | Annotated[Item, Tag("item")], Discriminator(_text_or_item)]


class Embeddings(Wire):
    """A request for embeddings, one per content. Texts only."""

    model_id: Name
    contents: Annotated[Items[EmbeddedContent], Field(min_length=1)]
    output_dimension: Annotated[int | None, Field(ge=1, le=MAX_INT)] = None
    task_type: Unserved = None
    text_truncation: Unserved = None


class Metric(Wire):
    """A count of tokens."""

    metric: str
    value: int
    unit: str | None = None


class ChatCompletionAnswer(Wire):
    """The reply."""

    completion_message: CompletionMessage
    metrics: list[Metric]


class CompletionAnswer(Wire):
    """The text that the model wrote."""

    content: str
    stop_reason: StopReason
    metrics: list[Metric]


class EmbeddingsAnswer(Wire):
    """The vectors, in the order of the contents."""

    embeddings: list[list[float]]


class RunShield(Wire):
    """A request to have a shield look at messages. `params` go before those of its registration."""

    shield_id: Name
    messages: Messages
    params: Json = Field(default_factory=dict)


class ShieldVerdict(Wire):
    """What the shield objects to; null where there is nothing."""

    violation: Violation | None = None


class InvokeTool(Wire):
    """A request to run a tool of the server: its name, or `group/tool` where several groups have it."""

    tool_name: Name
    kwargs: Json = Field(default_factory=dict)


class ToolInvocation(Wire):
    """What the tool gave. `error_message` is there where the tool itself refused or failed."""

    content: Content
    error_code: int | None = None
    error_message: str | None = None
    metadata: Metadata | None = None
