"""MCP's tools and results in the words of Turnstone, bounded. For the MCP process."""

import re
from base64 import b64decode
from collections.abc import Iterable
from pathlib import PurePosixPath
from urllib.parse import urlsplit

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
    """A result as `{content, files, error, metadata}`: content items and files together at most `limit` bytes.

    Files are `{data, mime_type, filename}`, their data in base64.
    """
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
    content = [item for item in items if item["type"] != "file"]
    files = [item["file"] for item in items if item["type"] == "file"]
    metadata = {"truncated": True} if truncated else {}
    return {"content": content or "", "files": files, "error": result.is_error, "metadata": metadata}


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
            name = PurePosixPath(urlsplit(str(resource.uri)).path).name
            return _file(resource.blob, resource.mime_type, name or None)
        case types.AudioContent():
            return _file(block.data, block.mime_type, None)


def _text(text: str) -> Json:
    return {"type": "text", "text": text}


def _file(data: str, mime_type: str | None, filename: str | None) -> Json:
    kind = mime_type or "application/octet-stream"
    try:
        b64decode(data, validate=True)
    except ValueError:
        return _text(f"[left out: {kind} that is not the base64 that it should be]")
    return {"type": "file", "file": {"data": data, "mime_type": kind, "filename": filename}}


def _size(item: Json) -> int:
    if item["type"] == "text":
        return len(item["text"].encode("utf-8", "replace"))
    return len(item["file"]["data"] if item["type"] == "file" else item["image"]["url"]["uri"])


def _cut_item(item: Json, left: int, limit: int) -> Json:
    if item["type"] == "text":
        raw = item["text"].encode("utf-8", "replace")[:left]
        return _text(raw.decode("utf-8", "ignore") + cut_mark(limit))
    what = item["file"]["mime_type"] if item["type"] == "file" else "an image"
    return _text(f"[left out: {what} that makes the tool's result longer than {limit // 1024} KB]")
