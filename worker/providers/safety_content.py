"""What there is to look at in a message: its words and its images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from worker.providers.openai_messages import Refuse, message_json
from worker.providers.safety import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """The words of a message, those in the arguments of its tool calls included, and the addresses of its images.

    An image that came as data has a `data:` address.
    """

    role: str
    text: str
    images: tuple[str, ...] = ()


def contents(messages: Sequence[Json], refuse: Refuse) -> list[Content]:
    """What each message says. `refuse` makes the error for content of an unknown type, which nothing could judge."""
    return [_content(message, refuse) for message in messages]


def _content(message: Json, refuse: Refuse) -> Content:
    # As an inference provider is told it: what a model gets to read is what its shields look at.
    told = {"role": "user", "content": message.get("content"), "context": message.get("context")}
    parts = message_json(told, refuse)["content"]
    if isinstance(parts, str):
        parts = [{"type": "text", "text": parts}]
    texts = [part["text"] for part in parts if part["type"] == "text"]
    for call in message.get("tool_calls") or ():
        texts += [str(call.get("tool_name") or ""), *_words(call.get("arguments"))]
    return Content(
        role=str(message.get("role") or ""),
        text="\n".join(filter(None, texts)),
        images=tuple(part["image_url"]["url"] for part in parts if part["type"] == "image_url"),
    )


def _words(arguments: Any) -> Iterator[str]:
    """Keys and values in order. In JSON text a word could hide behind escapes; and nothing bounds the depth."""
    waiting = [arguments]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting.extend(part for item in reversed(value.items()) for part in reversed(item))
        elif isinstance(value, list | tuple):
            waiting.extend(reversed(value))
        elif value is not None and not isinstance(value, bool):
            yield str(value)
