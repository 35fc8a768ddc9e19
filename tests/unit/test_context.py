"""What the model gets to read."""

from typing import Any

from shared.fold import TurnState
from worker.context import chat_messages, turn_messages, with_context

Json = dict[str, Any]


def user(text: str) -> Json:
    return {"role": "user", "content": text}


def reply(text: str, *call_ids: str, done: bool = True) -> Json:
    calls = [{"call_id": call_id, "tool_name": "look", "arguments": {}, "arguments_json": "{}"} for call_id in call_ids]
    message = {"role": "assistant", "content": text, "stop_reason": "end_of_turn", "tool_calls": calls}
    return {"step_type": "inference", "completed_at": "t" if done else None, "model_response": message}


def tools(**responses: str) -> Json:
    given = [{"call_id": call_id, "content": content} for call_id, content in responses.items()]
    return {"step_type": "tool_execution", "completed_at": "t", "tool_responses": given}


def test_instructions_come_first_then_history_then_this_turn() -> None:
    state = TurnState(config={"instructions": "Be brief."}, input_messages=[user("two")])
    history = [{"input_messages": [user("one")], "steps": [reply("answer one")]}]
    messages = chat_messages(history, state)
    assert [(m["role"], m["content"]) for m in messages] == [
        ("system", "Be brief."),
        ("user", "one"),
        ("assistant", "answer one"),
        ("user", "two"),
    ]


def test_without_instructions_there_is_no_system_message() -> None:
    state = TurnState(config={"instructions": ""}, input_messages=[user("hi")])
    assert [m["role"] for m in chat_messages([], state)] == ["user"]


def test_tool_responses_follow_their_calls() -> None:
    messages = turn_messages([user("go")], [reply("", "c1", "c2"), tools(c1="one", c2="two"), reply("done")])
    assert [m["role"] for m in messages] == ["user", "assistant", "tool", "tool", "assistant"]
    assert [m["call_id"] for m in messages[2:4]] == ["c1", "c2"]


def test_a_call_that_was_never_answered_gets_a_synthetic_answer() -> None:
    messages = turn_messages([user("go")], [reply("", "c1", "c2"), tools(c1="one")])
    assert messages[-1]["call_id"] == "c2"
    assert "outcome is unknown" in messages[-1]["content"]


def test_a_reply_that_never_finished_is_not_shown_to_the_model() -> None:
    assert turn_messages([user("go")], [reply("half an ans", done=False)]) == [user("go")]


def test_documents_become_context_of_the_last_user_message() -> None:
    given = [user("first"), user("read this")]
    messages = with_context(given, ["the text"])
    assert messages[0] == user("first")
    assert messages[1]["context"] == [{"type": "text", "text": "the text"}]
    assert given[1] == user("read this"), "the turn's own input is left as it is"


def test_documents_without_a_user_message_make_one() -> None:
    item = {"type": "text", "text": "the text"}
    messages = with_context([{"role": "tool", "call_id": "c", "content": "x"}], [[item]])
    assert messages[-1] == {"role": "user", "content": [item]}


def test_what_was_found_in_memory_is_context_of_this_turn_alone() -> None:
    looked = {"step_type": "memory_retrieval", "completed_at": "t", "inserted_context": "from memory"}
    state = TurnState(config={}, input_messages=[user("two")], steps=[looked])
    history = [{"input_messages": [user("one")], "steps": [looked, reply("answer one")]}]

    messages = chat_messages(history, state)

    assert messages[0] == user("one")
    assert messages[-1]["context"] == [{"type": "text", "text": "from memory"}]


def test_documents_that_were_read_are_shown_as_they_were_read() -> None:
    documents = [{"content": "short"}, {"content": "https://example.com/a.pdf"}]
    looked = {
        "step_type": "memory_retrieval",
        "completed_at": "t",
        "inserted_context": "[a.pdf] pages",
        "documents": [],
    }
    state = TurnState(input_messages=[user("read")], documents=documents, steps=[looked])
    assert [item["text"] for item in chat_messages([], state)[-1]["context"]] == ["short", "[a.pdf] pages"]


def test_a_turn_of_an_earlier_release_keeps_its_long_documents() -> None:
    call = reply("", "c1")
    state = TurnState(
        input_messages=[user("read")], documents=[{"content": "x" * 20_000}], steps=[call, tools(c1="one")]
    )
    assert chat_messages([], state)[0]["context"] == [{"type": "text", "text": "x" * 20_000}]


def test_nothing_found_in_memory_changes_nothing() -> None:
    looked = {"step_type": "memory_retrieval", "completed_at": "t", "inserted_context": ""}
    assert chat_messages([], TurnState(input_messages=[user("hi")], steps=[looked])) == [user("hi")]
