"""MCP's tools and results in the words of Turnstone."""

from typing import Any

import mcp_types as types
import pytest

from worker.providers.tools_mcp_results import result_json, tool_json

LIMIT = 10_240


def tool(name: str = "t", **fields: Any) -> types.Tool:
    return types.Tool(name=name, input_schema={"type": "object"}, **fields)


def result(*content: Any, **fields: Any) -> types.CallToolResult:
    return types.CallToolResult(content=list(content), **fields)


def text(words: str) -> types.TextContent:
    return types.TextContent(text=words)


@pytest.mark.parametrize(
    ("hints", "replay"),
    [
        (None, "never"),
        ({}, "never"),
        ({"read_only_hint": True}, "safe"),
        ({"idempotent_hint": True}, "safe"),
        ({"read_only_hint": False, "idempotent_hint": False, "destructive_hint": False}, "never"),
    ],
)
def test_annotations_say_whether_a_call_may_be_made_again(hints: dict[str, bool] | None, replay: str) -> None:
    annotations = None if hints is None else types.ToolAnnotations(**hints)
    assert tool_json(tool(annotations=annotations))["replay"] == replay


def test_a_name_that_no_model_can_call_is_made_one_and_kept() -> None:
    assert tool_json(tool("files/read all"))["name"] == "files_read_all"
    assert tool_json(tool("files/read all"))["metadata"] == {"mcp_name": "files/read all"}
    assert len(tool_json(tool("x" * 100))["name"]) == 64
    assert tool_json(tool("plain", title="Plain"))["metadata"] == {"title": "Plain"}


def test_each_kind_of_content_becomes_an_item_or_a_note() -> None:
    blocks = [
        text("words"),
        types.ImageContent(data="aGk=", mime_type="image/png"),
        types.AudioContent(data="aGk=", mime_type="audio/wav"),
        types.ResourceLink(name="file", uri="file:///a"),
        types.EmbeddedResource(resource=types.TextResourceContents(uri="file:///a", text="inside")),
        types.EmbeddedResource(resource=types.BlobResourceContents(uri="file:///b", blob="aGk=")),
    ]
    found = result_json(result(*blocks), LIMIT)
    assert found["content"] == [
        {"type": "text", "text": "words"},
        {"type": "image", "image": {"url": {"uri": "data:image/png;base64,aGk="}}},
        {"type": "text", "text": "file: file:///a"},
        {"type": "text", "text": "inside"},
    ]
    assert found["files"] == [
        {"data": "aGk=", "mime_type": "audio/wav", "filename": None},
        {"data": "aGk=", "mime_type": "application/octet-stream", "filename": "b"},
    ]


def test_what_is_no_base64_is_no_file() -> None:
    found = result_json(result(types.AudioContent(data="A", mime_type="audio/wav")), LIMIT)
    assert found["files"] == []
    assert found["content"][0]["text"] == "[left out: audio/wav that is not the base64 that it should be]"


def test_files_count_and_one_that_is_too_large_is_left_out_with_a_note() -> None:
    small, large = (types.AudioContent(data="AAAA" * size, mime_type="audio/wav") for size in (2_000, 1_000))
    found = result_json(result(small, large), LIMIT)
    assert len(found["files"]) == 1
    assert found["content"][0]["text"] == "[left out: audio/wav that makes the tool's result longer than 10 KB]"
    assert found["metadata"] == {"truncated": True}


def test_structured_content_stands_in_where_there_is_no_other() -> None:
    assert result_json(result(structured_content={"a": 1}), LIMIT)["content"] == [{"type": "text", "text": '{"a":1}'}]
    assert result_json(result(text("x"), structured_content={"a": 1}), LIMIT)["content"] == [
        {"type": "text", "text": "x"}
    ]
    assert result_json(result(), LIMIT)["content"] == ""


def test_an_error_is_marked() -> None:
    assert result_json(result(text("bad"), is_error=True), LIMIT)["error"]


def test_all_items_together_are_bounded() -> None:
    found = result_json(result(text("a" * 10_000), text("€" * 1_000), text("never")), LIMIT)
    mark = "\n[cut: the tool's result is longer than 10 KB]"
    assert [item["text"] for item in found["content"]] == ["a" * 10_000, "€" * 80 + mark]
    assert found["metadata"] == {"truncated": True}


def test_an_image_that_is_too_large_is_left_out_with_a_note() -> None:
    found = result_json(result(text("see"), types.ImageContent(data="A" * 20_000, mime_type="image/png")), LIMIT)
    assert found["content"][1]["text"] == "[left out: an image that makes the tool's result longer than 10 KB]"
