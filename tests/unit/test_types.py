"""The types of requests: what they take, and what they make of it."""

from typing import Any

import pytest
from llama_stack_client.types.agents.turn import Turn as ClientTurn
from pydantic import ValidationError

from shared.types.agents import AgentConfig
from shared.types.base import Wire
from shared.types.content import Image
from shared.types.memory import MemoryDocument
from shared.types.sampling import SamplingParams
from shared.types.turns import CreateTurn, ResumeTurn, Turn

USER = {"role": "user", "content": "hi"}
TURN: dict[str, Any] = {
    "turn_id": "turn_00_0",
    "session_id": "sess_00_0",
    "agent_id": "agent_0",
    "status": "completed",
    "attempts": 1,
    "input_messages": [USER],
    "steps": [
        {
            "step_type": "inference",
            "step_id": "s1",
            "turn_id": "turn_00_0",
            "started_at": "2026-01-01T00:00:00.000001Z",
            "completed_at": None,
            "model_response": {"role": "assistant", "content": "", "stop_reason": "end_of_message", "tool_calls": []},
        }
    ],
    "output_message": {"role": "assistant", "content": "ho", "stop_reason": "end_of_turn", "tool_calls": []},
    "output_attachments": [],
    "created_at": "2026-01-01T00:00:00.000000Z",
    "started_at": "2026-01-01T00:00:00.000000Z",
    "completed_at": "2026-01-01T00:00:01.000000Z",
}


class Sample(Wire):
    """A type with one member of each kind."""

    needed: int
    chosen: int = 7
    anything: dict[str, Any] | None = None


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ({"file_id": "file_0a"}, None),
        ({"file_id": "file_"}, "file_id"),
        ({"file_id": "../file_0a"}, "file_id"),
        ({"file_id": 7}, "file_id"),
        ({"type": "text", "file_id": "file_0a"}, "text"),
    ],
)
def test_a_document_may_be_a_file_by_its_id(content: Any, names: str | None) -> None:
    sent = {"document_id": "d", "content": content}
    if names is None:
        assert MemoryDocument.model_validate(sent).model_dump()["content"] == content
        return
    with pytest.raises(ValidationError) as refused:
        MemoryDocument.model_validate(sent)
    assert names in refused.value.errors()[0]["loc"]


def test_a_message_is_no_file() -> None:
    with pytest.raises(ValidationError, match="should be a text"):
        CreateTurn.model_validate({"messages": [{"role": "user", "content": {"file_id": "file_0a"}, "x": []}]})


def test_null_counts_as_absent_and_unknown_keys_are_ignored() -> None:
    assert Sample.model_validate({"needed": 1, "chosen": None, "later": "x"}) == Sample(needed=1)


def test_null_inside_of_free_form_values_is_kept() -> None:
    assert Sample.model_validate({"needed": 1, "anything": {"a": None}}).anything == {"a": None}


@pytest.mark.parametrize("value", [{}, {"needed": None}, {"needed": "1"}, {"needed": 1.0}, {"needed": True}])
def test_values_are_never_turned_into_other_types(value: Any) -> None:
    with pytest.raises(ValidationError):
        Sample.model_validate(value)


def test_an_agents_config_needs_only_a_model() -> None:
    config = AgentConfig.model_validate({"model": "m"})

    assert (config.instructions, config.max_infer_iters, config.enable_session_persistence) == ("", 10, True)


def test_documents_are_found_under_both_of_their_names() -> None:
    for name in ("documents", "attachments"):
        turn = CreateTurn.model_validate({"messages": [USER], name: [{"content": "text"}]})

        assert [document.mime_type for document in turn.documents] == ["text/plain"]


@pytest.mark.parametrize(
    "image",
    [
        {"url": {"uri": "https://example.org/x.png"}},
        {"url": {"uri": "HTTP://example.org/x.png"}},
        {"url": {"uri": "data:image/png;base64,aGk="}},
        {"data": "aGk="},
    ],
)
def test_an_image_is_an_address_or_data(image: Any) -> None:
    assert Image.model_validate(image).model_dump(exclude_none=True) == image


@pytest.mark.parametrize("image", [{}, {"url": {"uri": "file:///x"}}, {"data": "!"}, {"data": "aGk"}])
def test_an_image_that_no_provider_could_read_is_refused(image: Any) -> None:
    with pytest.raises(ValidationError):
        Image.model_validate(image)


def test_an_image_in_both_forms_is_refused() -> None:
    with pytest.raises(ValidationError, match="either url or data"):
        Image.model_validate({"data": "aGk=", "url": {"uri": "https://x"}})


def test_zero_tokens_are_no_bound() -> None:
    assert SamplingParams.model_validate({"max_tokens": 0}).max_tokens is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 10**400])
def test_numbers_that_mean_nothing_are_refused(value: Any) -> None:
    with pytest.raises(ValidationError):
        SamplingParams.model_validate({"strategy": {"type": "top_p", "temperature": value}})


def test_a_long_list_is_judged_by_its_first_wrong_item() -> None:
    with pytest.raises(ValidationError) as caught:
        CreateTurn.model_validate({"messages": [USER, *[1] * 100_000]})

    assert caught.value.error_count() == 1


def test_a_resume_needs_an_answer() -> None:
    with pytest.raises(ValidationError):
        ResumeTurn.model_validate({"tool_responses": []})


def test_a_turn_is_one_for_the_official_client_too() -> None:
    turn = Turn.model_validate(TURN)

    theirs = ClientTurn.model_validate(turn.model_dump(mode="json"))

    assert theirs.turn_id == turn.turn_id
    assert theirs.steps[0].step_type == "inference"
