"""What shields look at in a message."""

from typing import Any

import pytest

from shared.errors import ProviderError
from worker.providers.safety import Json
from worker.providers.safety_content import Content, contents


def refuse(problem: str) -> ProviderError:
    return ProviderError(problem, provider_id="p")


def content(**message: Any) -> Content:
    (found,) = contents([message], refuse)
    return found


def test_all_the_words_of_a_message_are_found() -> None:
    found = content(role="user", content=["a", {"type": "text", "text": "b"}], context={"type": "text", "text": "c"})
    assert found == Content(role="user", text="a\nb\nc")


def test_images_are_kept_apart_as_addresses() -> None:
    by_address = {"type": "image", "image": {"url": {"uri": "https://example.test/a.png"}}}
    as_data = {"type": "image", "image": {"data": "iVBORw0K"}}
    found = content(role="user", content=["look", by_address, as_data])
    assert found.text == "look"
    assert found.images == ("https://example.test/a.png", "data:image/png;base64,iVBORw0K")


def test_words_in_the_arguments_of_calls_are_found_as_they_are() -> None:
    arguments = {"to": ["Zoë\n", {"n": 4111}], "yes": True, "none": None}
    call = {"call_id": "c", "tool_name": "send", "arguments": arguments, "arguments_json": "{}"}
    text = content(role="assistant", content="", tool_calls=[call]).text
    assert text == "send\nto\nZoë\n\nn\n4111\nyes\nnone"


def test_arguments_that_are_no_json_are_text() -> None:
    call = {"call_id": "c", "tool_name": "send", "arguments": '{"to": "bo'}
    assert content(role="assistant", content="", tool_calls=[call]).text == 'send\n{"to": "bo'


def test_no_depth_is_too_deep() -> None:
    deep: Any = "bottom"
    for _ in range(100_000):
        deep = [deep]
    call: Json = {"call_id": "c", "tool_name": "f", "arguments": {"a": deep}}
    assert content(role="assistant", content="", tool_calls=[call]).text == "f\na\nbottom"
    # Freeing it in one go would be deep as well.
    while isinstance(deep, list):
        deep = deep.pop()


def test_what_nobody_can_read_is_refused() -> None:
    with pytest.raises(ProviderError, match="'audio'"):
        content(role="user", content={"type": "audio"})
