"""Translates a chat request from Llama Stack's shape to that of `POST /chat/completions`."""

import re
from collections.abc import Callable, Collection, Sequence
from typing import Any

import orjson

from shared.errors import ProviderError
from worker.providers.inference import ChatRequest, CompletionRequest, EmbeddingRequest, Json
from worker.providers.openai_config import OpenAIConfig
from worker.providers.openai_tools import tool_choice_json, tool_json

Refuse = Callable[[str], ProviderError]

_IMAGE_TYPES = {"iVBOR": "image/png", "/9j/": "image/jpeg", "R0lGOD": "image/gif", "UklGR": "image/webp"}
_SAMPLING_KEYS = {"strategy", "max_tokens", "repetition_penalty", "stop"}
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_-]+")


def request_json(request: ChatRequest, config: OpenAIConfig, refuse: Refuse) -> Json:
    """The body of a streaming chat completion.

    `refuse` makes the error for what cannot be said in this API; its argument continues the sentence that
    begins with the provider's name.
    """
    body: Json = {
        "model": request.model,
        "messages": [message_json(message, refuse) for message in request.messages],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if request.tools:
        body["tools"] = [tool_json(tool) for tool in request.tools]
        choice = tool_choice_json(request.tool_choice)
        if choice is not None:
            body["tool_choice"] = choice
    body.update(sampling_json(request.sampling_params, config, refuse))
    if request.response_format:
        body["response_format"] = response_format_json(request.response_format, refuse)
    return body


def completion_json(request: CompletionRequest, config: OpenAIConfig, refuse: Refuse) -> Json:
    """The body of a streaming completion."""
    body: Json = {
        "model": request.model,
        "prompt": _text(request.content, refuse, "a text to go on with"),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    sampling = sampling_json(request.sampling_params, config, refuse)
    if config.max_tokens_field in sampling:
        # The newer name for it is one of chat completions alone.
        sampling["max_tokens"] = sampling.pop(config.max_tokens_field)
    body.update(sampling)
    if request.response_format:
        body["response_format"] = response_format_json(request.response_format, refuse)
    return body


def embedding_json(request: EmbeddingRequest) -> Json:
    """The body of a request for embeddings."""
    body: Json = {"model": request.model, "input": list(request.texts), "encoding_format": "float"}
    return body if request.dimensions is None else {**body, "dimensions": request.dimensions}


def vectors_of(data: Any, count: int) -> list[list[float]]:
    """The vectors in an answer, in the order of the texts. Raises ValueError where there are not `count` of them."""
    try:
        entries = sorted(data["data"], key=lambda entry: int(entry["index"]))
        vectors = [[float(number) for number in entry["embedding"]] for entry in entries]
    except (KeyError, TypeError) as error:
        raise ValueError("no list of embeddings") from error
    if len(vectors) != count:
        raise ValueError(f"{len(vectors)} embeddings for {count} texts")
    return vectors


def message_json(message: Json, refuse: Refuse) -> Json:
    """One message. Nothing in it is dropped: what the API cannot carry is refused."""
    role = message.get("role")
    if role == "user":
        return {"role": "user", "content": _user_content(message, refuse)}
    if role == "system":
        return {"role": "system", "content": _text(message.get("content"), refuse, "a system message")}
    if role == "assistant":
        return _assistant(message, refuse)
    if role == "tool":
        content = _text(message.get("content"), refuse, "a tool's response")
        return {"role": "tool", "tool_call_id": message.get("call_id", ""), "content": content}
    raise refuse(f"takes no message with the role '{role}'.")


def _assistant(message: Json, refuse: Refuse) -> Json:
    calls = message.get("tool_calls") or ()
    text = _text(message.get("content"), refuse, "an assistant message")
    if not calls:
        return {"role": "assistant", "content": text}
    return {"role": "assistant", "content": text or None, "tool_calls": [_call(call) for call in calls]}


def _call(call: Json) -> Json:
    function = {"name": call["tool_name"], "arguments": _arguments(call)}
    return {"id": call["call_id"], "type": "function", "function": function}


def _arguments(call: Json) -> str:
    """The arguments as JSON text of an object.

    A model's call with broken JSON becomes one without arguments: servers parse the history and refuse all of it
    for one such call, and the tool's response says what was wrong.
    """
    text = call.get("arguments_json")
    if text is None:
        given = call.get("arguments")
        return orjson.dumps(given if isinstance(given, dict) else {}).decode()
    try:
        return text if isinstance(orjson.loads(text), dict) else "{}"
    except orjson.JSONDecodeError:
        return "{}"


def _user_content(message: Json, refuse: Refuse) -> str | list[Json]:
    parts = [_part(item, refuse) for item in (*_items(message.get("content")), *_items(message.get("context")))]
    if all(part["type"] == "text" for part in parts):
        return "\n".join(part["text"] for part in parts)
    return parts


def _text(content: Any, refuse: Refuse, where: str) -> str:
    parts = [_part(item, refuse) for item in _items(content)]
    if any(part["type"] != "text" for part in parts):
        raise refuse(f"takes text only in {where}, and there is an image.")
    return "\n".join(part["text"] for part in parts)


def _items(content: Any) -> Sequence[Any]:
    if content is None:
        return ()
    return content if isinstance(content, list | tuple) else (content,)


def _part(item: Any, refuse: Refuse) -> Json:
    if isinstance(item, str):
        return {"type": "text", "text": item}
    kind = item.get("type") if isinstance(item, dict) else None
    if kind == "text":
        return {"type": "text", "text": item["text"]}
    if kind == "image":
        return {"type": "image_url", "image_url": {"url": _image_url(item.get("image") or {}, refuse)}}
    raise refuse(f"takes text and images, and no content of type '{kind}'.")


def _image_url(image: Json, refuse: Refuse) -> str:
    url = image.get("url")
    uri = url.get("uri") if isinstance(url, dict) else url
    if uri:
        return str(uri)
    data = image.get("data")
    if not data:
        raise refuse("needs the `url` or the `data` of an image, and both are missing.")
    kind = next((kind for magic, kind in _IMAGE_TYPES.items() if data.startswith(magic)), "image/png")
    return data if data.startswith("data:") else f"data:{kind};base64,{data}"


def sampling_json(params: Json, config: OpenAIConfig, refuse: Refuse) -> Json:
    """The sampling parameters. What is absent, null or neutral is left to the provider."""
    unknown = {key for key, value in params.items() if value is not None} - _SAMPLING_KEYS
    if unknown:
        raise refuse(f"takes no sampling parameter '{min(unknown)}'.")
    body = _strategy(params.get("strategy") or {}, config.extra_params, refuse)
    if params.get("max_tokens"):
        body[config.max_tokens_field] = params["max_tokens"]
    if params.get("stop"):
        body["stop"] = params["stop"]
    penalty = params.get("repetition_penalty")
    if penalty is not None and penalty != 1.0:
        _allow("repetition_penalty", config.extra_params, refuse)
        body["repetition_penalty"] = penalty
    return body


def _strategy(strategy: Json, allowed: Collection[str], refuse: Refuse) -> Json:
    kind = strategy.get("type")
    if kind == "greedy":
        return {"temperature": 0.0}
    if kind == "top_p":
        return {key: strategy[key] for key in ("temperature", "top_p") if strategy.get(key) is not None}
    if kind == "top_k":
        _allow("top_k", allowed, refuse)
        return {"top_k": strategy["top_k"]}
    if kind is None:
        return {}
    raise refuse(f"takes no sampling strategy '{kind}'; use greedy, top_p or top_k.")


def _allow(name: str, allowed: Collection[str], refuse: Refuse) -> None:
    """OpenAI has no such parameter, and a server that does not know it either may ignore it in silence."""
    if name not in allowed:
        raise refuse(
            f"takes no `{name}` as configured. If its server does, add `extra_params: [{name}]` to the config."
        )


def response_format_json(response_format: Json, refuse: Refuse) -> Json:
    """A JSON schema, bare or with OpenAI's wrapping already around it."""
    kind = response_format.get("type")
    schema = response_format.get("json_schema")
    if kind != "json_schema" or not isinstance(schema, dict):
        raise refuse(f"takes the response format json_schema only, not '{kind}'.")
    if isinstance(schema.get("schema"), dict) and "type" not in schema:
        return {"type": "json_schema", "json_schema": {"name": "response", **schema}}
    name = _NOT_IN_A_NAME.sub("_", str(schema.get("title") or ""))[:64] or "response"
    return {"type": "json_schema", "json_schema": {"name": name, "schema": schema}}
