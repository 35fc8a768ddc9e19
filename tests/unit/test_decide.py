"""What a turn does next, from its state alone."""

from typing import Any

from shared.fold import OpenStep, TurnState
from worker.decide import Abandon, AwaitClient, CompleteTools, Finish, Infer, next_action

Json = dict[str, Any]


def call(call_id: str = "c1", tool: str = "look", arguments: Any = None) -> Json:
    arguments = {} if arguments is None else arguments
    return {"call_id": call_id, "tool_name": tool, "arguments": arguments, "arguments_json": str(arguments)}


def inference(*calls: Json, stop_reason: str | None = None) -> Json:
    reason = stop_reason or ("end_of_message" if calls else "end_of_turn")
    reply = {"role": "assistant", "content": "", "stop_reason": reason, "tool_calls": list(calls)}
    return {"step_type": "inference", "step_id": "s", "completed_at": "t", "model_response": reply}


def state(*steps: Json, tools: tuple[str, ...] = ("look",), **fields: Any) -> TurnState:
    return TurnState(steps=list(steps), config={"client_tools": [{"name": name} for name in tools]}, **fields)


def open_step(step_type: str) -> OpenStep:
    return OpenStep("open", step_type, "t", {})


def test_a_fresh_turn_asks_the_model() -> None:
    assert next_action(state()) == Infer()


def test_a_reply_without_calls_ends_the_turn() -> None:
    assert next_action(state(inference())) == Finish()


def test_a_reply_cut_by_its_token_limit_ends_the_turn_with_its_calls_unanswered() -> None:
    assert next_action(state(inference(call(), stop_reason="out_of_tokens"))) == Finish()


def test_calls_at_the_iteration_limit_end_the_turn() -> None:
    assert next_action(state(inference(call(), stop_reason="end_of_turn"))) == Finish()


def test_a_call_of_a_client_tool_waits_for_the_client() -> None:
    assert next_action(state(inference(call()))) == AwaitClient([call()])


def test_only_calls_that_the_client_can_answer_are_waited_for() -> None:
    good, unknown, unreadable = call("c1"), call("c2", "nothing"), call("c3", arguments="{broken")
    assert next_action(state(inference(good, unknown, unreadable))) == AwaitClient([good])


def test_calls_that_nobody_can_run_go_back_to_the_model_as_errors() -> None:
    action = next_action(state(inference(call("c2", "nothing"), call("c3", arguments="{broken"))))
    assert isinstance(action, CompleteTools)
    assert [response["call_id"] for response in action.responses] == ["c2", "c3"]
    assert "there is no tool 'nothing'" in action.responses[0]["content"]
    assert "Available: look" in action.responses[0]["content"]
    assert "valid JSON" in action.responses[1]["content"]


def test_the_clients_responses_complete_the_step_in_the_order_of_the_calls() -> None:
    responses = [{"call_id": "c2", "content": "two"}, {"call_id": "c1", "content": "one"}]
    resumed = state(
        inference(call("c1"), call("c2"), call("c3", "nothing")),
        open_step=open_step("tool_execution"),
        responses=responses,
    )
    action = next_action(resumed)
    assert isinstance(action, CompleteTools)
    assert [response["content"] for response in action.responses[:2]] == ["one", "two"]
    assert "there is no tool" in action.responses[2]["content"]


def test_an_unfinished_inference_of_an_earlier_owner_is_abandoned() -> None:
    step = open_step("inference")
    assert next_action(state(open_step=step)) == Abandon(step)


def test_a_tool_step_that_nobody_answered_yet_is_abandoned_when_taken_over() -> None:
    step = open_step("tool_execution")
    assert next_action(state(inference(call()), open_step=step)) == Abandon(step)


def test_after_its_tools_the_model_is_asked_again() -> None:
    tools = {"step_type": "tool_execution", "step_id": "t", "completed_at": "t", "tool_calls": [], "tool_responses": []}
    assert next_action(state(inference(call()), tools)) == Infer()
