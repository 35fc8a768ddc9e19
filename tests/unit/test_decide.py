"""What a turn does next, from its state alone."""

from typing import Any

from shared.fold import OpenStep, TurnState
from worker.decide import (
    Abandon,
    AwaitClient,
    CompleteInsert,
    CompleteTools,
    Finish,
    Infer,
    Insert,
    OpenInsert,
    OpenTools,
    Retrieve,
    RunShields,
    RunTools,
    ShowReply,
    next_action,
)

Json = dict[str, Any]


def call(call_id: str = "c1", tool: str = "look", arguments: Any = None) -> Json:
    arguments = {} if arguments is None else arguments
    return {"call_id": call_id, "tool_name": tool, "arguments": arguments, "arguments_json": str(arguments)}


def inference(*calls: Json, stop_reason: str | None = None) -> Json:
    reason = stop_reason or ("end_of_message" if calls else "end_of_turn")
    reply = {"role": "assistant", "content": "", "stop_reason": reason, "tool_calls": list(calls)}
    return {"step_type": "inference", "step_id": "s", "completed_at": "t", "model_response": reply}


def shields(touchpoint: str, *, violation: Json | None = None) -> Json:
    return {"step_type": "shield_call", "step_id": "g", "violation": violation, "metadata": {"touchpoint": touchpoint}}


def tools(*responses: Json) -> Json:
    return {"step_type": "tool_execution", "step_id": "t", "completed_at": "t", "tool_responses": list(responses)}


def answer(call_id: str, content: str = "x", tool: str = "look") -> Json:
    return {"call_id": call_id, "tool_name": tool, "content": content}


def state(*steps: Json, config: Json | None = None, **fields: Any) -> TurnState:
    known = {"client_tools": [{"name": "look"}], **(config or {})}
    return TurnState(steps=list(steps), config=known, input_messages=[{"role": "user", "content": "hi"}], **fields)


def open_step(step_type: str = "tool_execution", **fields: Any) -> OpenStep:
    return OpenStep("open", step_type, "t", {}, **fields)


def test_a_fresh_turn_asks_the_model() -> None:
    assert next_action(state()) == Infer()


def test_input_shields_come_before_the_model() -> None:
    action = next_action(state(config={"input_shields": ["a", "b"]}))
    assert action == RunShields("user-input", ["a", "b"], [{"role": "user", "content": "hi"}])
    assert next_action(state(shields("user-input"), config={"input_shields": ["a"]})) == Infer()


def test_a_violation_ends_the_turn_wherever_it_is_found() -> None:
    violation = {"violation_level": "error", "user_message": "no", "metadata": {}}
    assert next_action(state(shields("user-input", violation=violation))) == Finish()
    assert next_action(state(inference(call()), shields("assistant-output", violation=violation))) == Finish()


def test_a_reply_without_calls_ends_the_turn() -> None:
    assert next_action(state(inference())) == Finish()


def test_a_streamed_reply_is_looked_at_before_anything_else_happens() -> None:
    action = next_action(state(inference(call()), config={"output_shields": ["a"]}))
    assert isinstance(action, RunShields)
    assert action.messages[-1]["tool_calls"] == [call()]
    passed = state(inference(call()), shields("assistant-output"), config={"output_shields": ["a"]})
    assert next_action(passed) == OpenTools()


def test_a_held_reply_is_shown_and_any_other_open_step_is_abandoned() -> None:
    held = {"step_id": "open", "step_details": {}}
    assert next_action(state(open_step=open_step("inference", held=held))) == ShowReply(held)
    for step in (open_step("inference"), open_step("shield_call")):
        assert next_action(state(open_step=step)) == Abandon(step)


def test_a_reply_cut_by_its_token_limit_ends_the_turn_with_its_calls_unanswered() -> None:
    assert next_action(state(inference(call(), stop_reason="out_of_tokens"))) == Finish()


def test_calls_at_the_iteration_limit_end_the_turn() -> None:
    assert next_action(state(inference(call(), stop_reason="end_of_turn"))) == Finish()


def test_calls_open_a_tool_step() -> None:
    assert next_action(state(inference(call()))) == OpenTools()


def test_server_tools_run_before_the_client_is_waited_for() -> None:
    step = open_step()
    mixed = inference(call("c1"), call("c2", "book"))
    assert next_action(state(mixed, open_step=step), {"book"}) == RunTools(step, [call("c2", "book")])
    done = open_step(outcomes={"c2": answer("c2", tool="book")})
    assert next_action(state(mixed, open_step=done), {"book"}) == AwaitClient([call("c1")])


def test_only_calls_that_the_client_can_answer_are_waited_for() -> None:
    good, unknown, unreadable = call("c1"), call("c2", "nothing"), call("c3", arguments="{broken")
    assert next_action(state(inference(good, unknown, unreadable), open_step=open_step())) == AwaitClient([good])


def test_calls_that_nobody_can_run_go_back_to_the_model_as_errors() -> None:
    reply = inference(call("c2", "nothing"), call("c3", arguments="{broken"))
    action = next_action(state(reply, open_step=open_step()), {"book"})
    assert isinstance(action, CompleteTools)
    assert [response["call_id"] for response in action.responses] == ["c2", "c3"]
    assert "there is no tool 'nothing'" in action.responses[0]["content"]
    assert "Available: book, look" in action.responses[0]["content"]
    assert "valid JSON" in action.responses[1]["content"]


def test_all_responses_complete_the_step_in_the_order_of_the_calls() -> None:
    reply = inference(call("c1"), call("c2"), call("c3", "nothing"), call("c4", "book"))
    step = open_step(outcomes={"c4": answer("c4", "four")})
    action = next_action(state(reply, open_step=step, responses=[answer("c2", "two"), answer("c1", "one")]), {"book"})
    assert isinstance(action, CompleteTools)
    assert [response["content"] for response in action.responses[:2]] == ["one", "two"]
    assert "there is no tool" in action.responses[2]["content"]
    assert action.responses[3]["content"] == "four"


def test_after_its_tools_the_model_is_asked_again() -> None:
    assert next_action(state(inference(call()), tools(answer("c1")))) == Infer()


def test_what_the_clients_tools_gave_passes_the_input_shields() -> None:
    config = {"input_shields": ["a"]}
    action = next_action(state(inference(call()), tools(answer("c1", "found")), config=config))
    assert isinstance(action, RunShields)
    assert action.messages == [{"role": "tool", "call_id": "c1", "content": "found"}]
    ours = state(inference(call()), tools(answer("c1", tool="book")), config=config)
    assert next_action(ours) == Infer(), "server tools are the operator's own"


MEMORY: Json = {"memory": {"memory_bank_configs": [{"bank_id": "b"}]}}
LOOKED: Json = {"step_type": "memory_retrieval", "step_id": "m", "completed_at": "t", "inserted_context": ""}
JOB: Json = {"insert": {"bank_id": "b", "documents": [{}, {}]}}


def progress(done: int) -> Json:
    return {"done": done, "chunks": done, "failed": 0, "failures": []}


def test_memory_is_looked_into_once_before_the_first_reply() -> None:
    assert next_action(state(config=MEMORY)) == Retrieve()
    assert next_action(state(LOOKED, config=MEMORY)) == Infer()
    assert next_action(state(LOOKED, inference(call()), tools(answer("c1")), config=MEMORY)) == Infer()


def test_memory_is_looked_into_after_the_input_has_passed_its_shields() -> None:
    config = {**MEMORY, "input_shields": ["a"]}
    assert isinstance(next_action(state(config=config)), RunShields)
    assert next_action(state(shields("user-input"), config=config)) == Retrieve()
    assert next_action(state(shields("user-input"), LOOKED, config=config)) == Infer()


def test_a_look_into_memory_that_a_worker_left_open_is_abandoned() -> None:
    step = open_step("memory_retrieval")
    assert next_action(state(config=MEMORY, open_step=step)) == Abandon(step)


def test_an_insert_job_opens_its_step_stores_and_ends() -> None:
    done = {"step_type": "memory_insert", "step_id": "i", "completed_at": "t"}
    assert next_action(state(config=JOB)) == OpenInsert()
    step = open_step("memory_insert", progress=progress(1))
    assert next_action(state(config=JOB, open_step=step)) == Insert(step)
    step = open_step("memory_insert", progress=progress(2))
    assert next_action(state(config=JOB, open_step=step)) == CompleteInsert(step)
    assert next_action(state(done, config=JOB)) == Finish()
