"""MCP's tools and results in the words of Turnstone, bounded. For the MCP process."""

import re
from collections.abc import Iterable

import mcp_types as types
import orjson

from worker.providers.tools_mcp_faults import Json
from worker.providers.tools_text import cut_mark, shortened

MAX_DESCRIPTION_CHARS = 16_384
_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_.-]")


def tool_json(tool: types.Tool) -> Json:
    """A tool as `{name, description, input_schema, replay, metadata}`.

    A hint that says nothing counts as MCP defines it: not read-only, not idempotent. A name that models cannot call
    is made one, and the server's own is kept as `metadata.mcp_name`.
    """
    hints = tool.annotations
    safe = hints is not None and bool(hints.read_only_hint or hints.idempotent_hint)
    name = _NOT_IN_NAMES.sub("_", tool.name)[:64]
    metadata: Json = {}
    if name != tool.name:
        metadata["mcp_name"] = tool.name
    title = tool.title or (hints.title if hints else None)
    if title:
        metadata["title"] = title
    return {
        "name": name,
        "description": shortened(tool.description or "", MAX_DESCRIPTION_CHARS),
        "input_schema": tool.input_schema,
        "replay": "safe" if safe else "never",
        "metadata": metadata,
    }


def result_json(result: types.CallToolResult, limit: int) -> Json:
    """A result as `{content, error, metadata}`, its content items together at most `limit` bytes."""
    items: list[Json] = []
    left = limit
    truncated = False
    for item in _items(result):
        size = _size(item)
        if size > left:
            truncated = True
            items.append(_cut_item(item, max(left, 0), limit))
            left = -1
            break
        left -= size
        items.append(item)
    content: str | list[Json] = items or ""
    metadata = {"truncated": True} if truncated else {}
    return {"content": content, "error": result.is_error, "metadata": metadata}


def _items(result: types.CallToolResult) -> Iterable[Json]:
    for block in result.content:
        yield _item(block)
    # Servers should repeat it as text and some do not.
    if not result.content and result.structured_content is not None:
        yield _text(orjson.dumps(result.structured_content).decode())


def _item(block: types.ContentBlock) -> Json:
    match block:
        case types.TextContent():
            return _text(block.text)
        case types.ImageContent():
            uri = f"data:{block.mime_type};base64,{block.data}"
            return {"type": "image", "image": {"url": {"uri": uri}}}
        case types.ResourceLink():
            return _text(f"{block.title or block.name}: {block.uri}")
        case types.EmbeddedResource():
            resource = block.resource
            if isinstance(resource, types.TextResourceContents):
                return _text(resource.text)
            return _text(f"[left out: {resource.mime_type or 'binary data'} of {resource.uri}]")
        case types.AudioContent():
            return _text(f"[left out: {block.mime_type}]")


def _text(text: str) -> Json:
    return {"type": "text", "text": text}


def _size(item: Json) -> int:
    if item["type"] == "text":
        return len(item["text"].encode("utf-8", "replace"))
    return len(item["image"]["url"]["uri"])


def _cut_item(item: Json, left: int, limit: int) -> Json:
    if item["type"] == "text":
        raw = item["text"].encode("utf-8", "replace")[:left]
        return _text(raw.decode("utf-8", "ignore") + cut_mark(limit))
    return _text(f"[left out: an image that makes the tool's result longer than {limit // 1024} KB]")
