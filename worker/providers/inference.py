"""The port of inference providers: what the turn loop asks of a model server."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from shared.errors import ProviderError

Json = dict[str, Any]

PLACE_TIMEOUT_S = 300.0


class StopReason(StrEnum):
    """Why a model stopped, in the words of Llama Stack's `CompletionMessage.stop_reason`."""

    END_OF_TURN = "end_of_turn"
    END_OF_MESSAGE = "end_of_message"
    OUT_OF_TOKENS = "out_of_tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model that a provider serves. `resource_id` is the provider's own name for it."""

    identifier: str
    resource_id: str
    model_type: str = "llm"
    metadata: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """One request for a reply.

    `messages` are Llama Stack messages in order: `{role: system|user|assistant|tool, content, …}`;
    `content` is a string, a content item (`{type: text, text}` or `{type: image, image: {url: {uri}} |
    {data}}`) or a list of them; an assistant message may carry `tool_calls` (`{call_id, tool_name,
    arguments, arguments_json}`) and a tool message has `call_id`.
    `tools` are `{name, description?, parameters?: [{name, parameter_type, description, required, default?}]}`, or
    with `input_schema`, a JSON Schema, in place of the parameters.
    `tool_choice` is auto, required, none or a tool's name. `sampling_params` and `response_format` are the
    agent's, as validated by the API (`shared.types.agents`). With `retry` false, the first fault is the last: whoever
    asks has another instance to turn to.
    """

    model: str
    messages: Sequence[Json]
    tools: Sequence[Json] = ()
    tool_choice: str = "auto"
    sampling_params: Json = field(default_factory=dict)
    response_format: Json | None = None
    retry: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionRequest:
    """One request to go on with a text, which no chat template is put around. Fields as those of `ChatRequest`."""

    model: str
    content: str | Json | list[Json]
    sampling_params: Json = field(default_factory=dict)
    response_format: Json | None = None
    retry: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingRequest:
    """One request for embeddings of texts, with so many dimensions each (None: as the model has them)."""

    model: str
    texts: Sequence[str]
    dimensions: int | None = None
    retry: bool = True


@dataclass(frozen=True, slots=True)
class TextDelta:
    """The model wrote some text."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallDelta:
    """The model began a tool call or wrote a piece of its arguments.

    The first delta of a call has `parse_status` started and no arguments; `arguments` is the new piece of
    JSON text, never the text so far.
    """

    call_id: str
    tool_name: str
    arguments: str = ""
    parse_status: str = "in_progress"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallDone:
    """A tool call is complete. `parse_status` is succeeded, or failed where the JSON text is no object."""

    call_id: str
    tool_name: str
    arguments_json: str
    arguments: Json
    parse_status: str = "succeeded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The reply is complete. Always the last delta. `usage` is `{prompt_tokens, completion_tokens, total_tokens}`."""

    stop_reason: StopReason
    usage: Json | None = None


Delta = TextDelta | ToolCallDelta | ToolCallDone | Finished


class InferenceProvider(ABC):
    """A provider instance that serves models.

    Instances are made once per worker process and used by many greenlets at once. Every method raises
    `shared.errors.ProviderError` (and nothing else) for a fault of the provider, with a message that names the
    instance, says what to do and holds no secret.

    `max_concurrency` is how many requests a worker process may have under way there (None: any number), and
    `place_timeout_s` how long a further one waits for its place. `max_retries` is how often a request is sent again.
    """

    provider_id: str
    provider_type: str
    max_concurrency: int | None = None
    place_timeout_s: float = PLACE_TIMEOUT_S
    max_retries: int = 0

    @abstractmethod
    def list_models(self) -> list[Model]:
        """The models that the provider serves now, asked of the provider itself."""

    @abstractmethod
    def register_model(self, model: Model) -> Model:
        """Accept a model under `model.identifier`, or raise with the provider's reason."""

    @abstractmethod
    def chat(self, request: ChatRequest) -> Iterator[Delta]:
        """Stream one reply; the last delta is `Finished`.

        Retries happen inside (unless `request.retry` is false), and only before the first delta. Closing the iterator
        closes the connection at once. Raises `ProviderError` with code `unsupported_parameter` for what the provider
        cannot do.
        """

    def complete(self, request: CompletionRequest) -> Iterator[Delta]:
        """As `chat`, for a text that the model goes on with."""
        raise self._lacks("completions")

    def embed(self, request: EmbeddingRequest) -> list[list[float]]:
        """A vector for each of the texts, in their order."""
        raise self._lacks("embeddings")

    @abstractmethod
    def close(self) -> None:
        """Release connections. The instance is not used afterwards."""

    def _lacks(self, what: str) -> ProviderError:
        problem = f"Provider '{self.provider_id}' ({self.provider_type}) has no {what}: ask for a model of another one."
        return ProviderError(problem, provider_id=self.provider_id, code="unsupported_parameter")
