"""`inline::scripted`: a model that answers by rules, for trying, for tests, for load without a bill."""

import re
import time
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Annotated, Any, Literal, Self
from uuid import uuid4

import orjson
from pydantic import Field, PrivateAttr, field_validator, model_validator

from shared.errors import ProviderError
from shared.runconfig.model import Section
from worker.providers.inference import (
    ChatRequest,
    CompletionRequest,
    Delta,
    EmbeddingRequest,
    Finished,
    InferenceProvider,
    Json,
    Model,
    StopReason,
    TextDelta,
    ToolCallDelta,
    ToolCallDone,
)
from worker.providers.openai_config import Load
from worker.providers.scripted_embedding import DIMENSIONS, scripted_embedding

# A word with the space before it, as models cut their tokens; joined, they are the text again.
_TOKEN = re.compile(r"\s*\S+|\s+$")
_IMAGE = "[image]"
# As a server's answer with this status would be called.
_CODES = {
    400: "provider_bad_request",
    401: "provider_auth",
    403: "provider_auth",
    404: "model_not_found",
    429: "provider_rate_limited",
}
# Longer texts are matched by their beginning only, so that a bad expression costs little.
MAX_MATCHED_CHARS = 10_000

Milliseconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class ScriptedCall(Section):
    """A tool call to make."""

    tool_name: Annotated[str, Field(min_length=1)]
    arguments: dict[str, Any] = Field(default_factory=dict)


class ScriptedError(Section):
    """A failure to play."""

    status: Annotated[int, Field(ge=400, le=599)] = 500
    message: str = "a scripted error"


class Rule(Section):
    """What to answer when `match` (a regular expression) is found in the last message's text, its
    documents and what memory gave included.

    `role` limits the rule to a last message of the user or of a tool. Exactly one of `text`, `tool_calls` and
    `error`; times are in milliseconds.
    """

    match: str
    role: Literal["user", "tool"] | None = None
    text: str | None = None
    tool_calls: tuple[ScriptedCall, ...] = ()
    error: ScriptedError | None = None
    first_token_ms: Milliseconds = 0
    token_ms: Milliseconds = 0

    _pattern: re.Pattern[str] = PrivateAttr()

    @field_validator("match")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            re.compile(value)
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"is no regular expression: {error}.") from None
        return value

    @model_validator(mode="after")
    def _one_answer(self) -> Self:
        answers = [self.text is not None, bool(self.tool_calls), self.error is not None]
        if sum(answers) != 1:
            raise ValueError("a rule has exactly one of text, tool_calls and error.")
        self._pattern = re.compile(self.match)
        return self

    def applies(self, role: str, text: str) -> bool:
        """Whether this rule answers a conversation whose last message is `text` by `role`."""
        if self.role is not None and self.role != role:
            return False
        return self._pattern.search(text, 0, MAX_MATCHED_CHARS) is not None


class ScriptedConfig(Load):
    """The models to serve and the rules to answer by. Without a rule that matches, the user is echoed.

    `embedding_models` give embeddings by the letters of a text: see worker/providers/scripted_embedding.py.
    """

    models: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)] = ("scripted",)
    rules: tuple[Rule, ...] = ()
    embedding_models: tuple[Annotated[str, Field(min_length=1)], ...] = ()


class ScriptedInference(InferenceProvider):
    """Answers by rules; the first that matches wins."""

    provider_type = "inline::scripted"

    def __init__(
        self, *, provider_id: str, config: ScriptedConfig, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.provider_id = provider_id
        self.max_concurrency = config.max_concurrency
        self.place_timeout_s = config.place_timeout_s
        self._config = config
        self._sleep = sleep

    def list_models(self) -> list[Model]:
        embedding = [
            Model(identifier=name, resource_id=name, model_type="embedding") for name in self._config.embedding_models
        ]
        return [*(Model(identifier=name, resource_id=name) for name in self._config.models), *embedding]

    def register_model(self, model: Model) -> Model:
        is_llm = model.model_type == "llm"
        if model.resource_id not in (self._config.models if is_llm else self._config.embedding_models):
            raise self._no_model(model.resource_id)
        return model

    def chat(self, request: ChatRequest) -> Iterator[Delta]:
        if request.model not in self._config.models:
            raise self._no_model(request.model)
        role, text = last_message(request)
        rule = next((rule for rule in self._config.rules if rule.applies(role, text)), None)
        if rule is None:
            rule = Rule(match="", text=last_user_text(request))
        self._pause(rule.first_token_ms)
        if rule.error is not None:
            raise self._scripted_error(rule.error)
        yield from self._answer(rule, prompt_tokens=_prompt_tokens(request))

    def complete(self, request: CompletionRequest) -> Iterator[Delta]:
        """As to a user who says the text."""
        message = {"role": "user", "content": request.content}
        return self.chat(ChatRequest(model=request.model, messages=[message], sampling_params=request.sampling_params))

    def embed(self, request: EmbeddingRequest) -> list[list[float]]:
        if request.model not in self._config.embedding_models:
            raise self._no_model(request.model)
        return [scripted_embedding(text, request.dimensions or DIMENSIONS) for text in request.texts]

    def close(self) -> None:
        pass

    def _answer(self, rule: Rule, *, prompt_tokens: int) -> Iterator[Delta]:
        written = 0
        for delta in chain(_text_deltas(rule.text or ""), _call_deltas(rule.tool_calls)):
            if written:
                self._pause(rule.token_ms)
            written += not isinstance(delta, ToolCallDone)
            yield delta
        usage = {"prompt_tokens": prompt_tokens, "completion_tokens": written}
        yield Finished(
            stop_reason=StopReason.END_OF_MESSAGE if rule.tool_calls else StopReason.END_OF_TURN,
            usage={**usage, "total_tokens": prompt_tokens + written},
        )

    def _pause(self, milliseconds: float) -> None:
        if milliseconds:
            self._sleep(milliseconds / 1000)

    def _scripted_error(self, error: ScriptedError) -> ProviderError:
        return ProviderError(
            f"Provider '{self.provider_id}' failed ({error.status}): {error.message}",
            provider_id=self.provider_id,
            code=_CODES.get(error.status, "provider_error"),
            status=error.status,
            retryable=error.status == 429 or error.status >= 500,
        )

    def _no_model(self, name: str) -> ProviderError:
        served = ", ".join([*self._config.models, *self._config.embedding_models])
        return ProviderError(
            f"Provider '{self.provider_id}' does not serve '{name}'. It serves: {served}.",
            provider_id=self.provider_id,
            code="model_not_found",
        )


def tokens(text: str) -> list[str]:
    """`text` in pieces of a word each, whitespace kept."""
    return _TOKEN.findall(text)


def last_message(request: ChatRequest) -> tuple[str, str]:
    """Role and text of the last message of the user or a tool, and what it is to be read with."""
    for message in reversed(request.messages):
        if message.get("role") in ("user", "tool"):
            return message["role"], plain_text([message.get("content"), *filter(None, [message.get("context")])])
    return "user", ""


def last_user_text(request: ChatRequest) -> str:
    """The text of the user's last message."""
    users = (message for message in reversed(request.messages) if message.get("role") == "user")
    return plain_text(next(users, {}).get("content"))


def plain_text(content: Any) -> str:
    """The text in a message's content, which is a string, an item or a list of both."""
    if isinstance(content, list | tuple):
        return "\n".join(plain_text(item) for item in content)
    if isinstance(content, dict):
        return _IMAGE if content.get("type") == "image" else str(content.get("text") or "")
    return content if isinstance(content, str) else ""


def _prompt_tokens(request: ChatRequest) -> int:
    return sum(len(plain_text(message.get("content")).split()) for message in request.messages)


def _text_deltas(text: str) -> Iterator[Delta]:
    """As they are asked for: of a long text only the beginning may ever be."""
    return (TextDelta(match.group()) for match in _TOKEN.finditer(text))


def _call_deltas(calls: tuple[ScriptedCall, ...]) -> list[Delta]:
    deltas: list[Delta] = []
    for call in calls:
        deltas.extend(_call(call.tool_name, f"call_{uuid4().hex[:24]}", call.arguments))
    return deltas


def _call(name: str, call_id: str, arguments: Json) -> list[Delta]:
    text = orjson.dumps(arguments).decode()
    return [
        ToolCallDelta(call_id=call_id, tool_name=name, parse_status="started"),
        *(ToolCallDelta(call_id=call_id, tool_name=name, arguments=token) for token in tokens(text)),
        ToolCallDone(call_id=call_id, tool_name=name, arguments_json=text, arguments=arguments),
    ]
