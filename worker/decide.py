"""What a turn does next, decided from its state alone.

The same decision serves a fresh turn, one that was resumed and one that a worker takes over: finished steps and
finished calls are never run again, whatever came between.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from shared.events import Json
from shared.fold import OpenStep, TurnState, violation_of
from shared.job_view import INSERT
from worker.memory.turn_documents import to_read

USER_INPUT = "user-input"
ASSISTANT_OUTPUT = "assistant-output"


@dataclass(frozen=True, slots=True)
class RunShields:
    """Have the shields of a touch point look at `messages`."""

    touchpoint: str
    shields: list[str]
    messages: list[Json]


@dataclass(frozen=True, slots=True)
class Infer:
    """Ask the model."""


@dataclass(frozen=True, slots=True)
class Retrieve:
    """Read the turn's documents, and look into the agent's memory banks and the session's."""


@dataclass(frozen=True, slots=True)
class OpenInsert:
    """Begin the step of an insert job."""


@dataclass(frozen=True, slots=True)
class Insert:
    """Store documents, from where the step is on."""

    step: OpenStep


@dataclass(frozen=True, slots=True)
class CompleteInsert:
    """Finish an insert job's step: all documents are done with."""

    step: OpenStep


@dataclass(frozen=True, slots=True)
class ShowReply:
    """Have the shields look at a reply that is held back, and show it if they let it pass."""

    held: Json


@dataclass(frozen=True, slots=True)
class Abandon:
    """Close a step that an earlier owner left unfinished."""

    step: OpenStep


@dataclass(frozen=True, slots=True)
class OpenTools:
    """Begin the step that answers the reply's calls."""


@dataclass(frozen=True, slots=True)
class RunTools:
    """Make these calls of server tools, all at once."""

    step: OpenStep
    calls: list[Json]


@dataclass(frozen=True, slots=True)
class AwaitClient:
    """Rest until the client has answered `calls`."""

    calls: list[Json]


@dataclass(frozen=True, slots=True)
class CompleteTools:
    """Finish the tool step: every call has its response."""

    step: OpenStep
    calls: list[Json]
    responses: list[Json]


@dataclass(frozen=True, slots=True)
class Finish:
    """The turn has its answer."""


Action = (
    RunShields
    | Retrieve
    | Infer
    | ShowReply
    | Abandon
    | OpenTools
    | RunTools
    | AwaitClient
    | CompleteTools
    | OpenInsert
    | Insert
    | CompleteInsert
    | Finish
)


def next_action(
    state: TurnState,
    server_tools: Collection[str] = (),
    *,
    keeps_documents: Callable[[], bool] = lambda: False,
) -> Action:
    """The next action of a turn that is in progress. `server_tools` names the tools that run here; `keeps_documents`
    says whether the session has documents of earlier turns, and is asked only where that matters."""
    if INSERT in state.config:
        return _job(state)
    step = state.open_step
    if step is not None:
        return _go_on(state, step, server_tools)
    if not state.steps:
        action: Action = _shields(state, USER_INPUT, state.input_messages) or Retrieve()
    else:
        action = _AFTER[state.steps[-1]["step_type"]](state)
    return Infer() if isinstance(action, Retrieve) and not _has_memory(state, keeps_documents) else action


def _job(state: TurnState) -> Action:
    """An insert job has one step, which goes on where its owner left it."""
    if state.open_step is not None:
        is_done = state.open_step.progress["done"] >= len(state.config[INSERT]["documents"])
        return CompleteInsert(state.open_step) if is_done else Insert(state.open_step)
    return Finish() if state.steps else OpenInsert()


def _has_memory(state: TurnState, keeps_documents: Callable[[], bool]) -> bool:
    """Whether there is anything to read or to look into before the first reply."""
    banks = (state.config.get("memory") or {}).get("memory_bank_configs")
    return bool(banks or to_read(state.documents)) or keeps_documents()


def held_back(state: TurnState) -> bool:
    """Whether nobody may see a reply before its shields have passed it."""
    return bool(state.config.get("output_shields")) and state.config.get("shield_mode", "hold") == "hold"


def output_messages(state: TurnState, reply: Json) -> list[Json]:
    """What output shields look at: what was asked, and the reply."""
    return [*state.input_messages, reply]


def client_tools(config: Json) -> set[str]:
    """Names of the tools that run in the client."""
    return {tool["name"] for tool in config.get("client_tools") or []}


def _go_on(state: TurnState, step: OpenStep, server_tools: Collection[str]) -> Action:
    """With a step that is open: tool steps go on where they are, of others only a held reply is worth keeping."""
    if step.step_type == "tool_execution":
        return _tool_step(state, step, server_tools)
    return ShowReply(step.held) if step.held is not None else Abandon(step)


def _tool_step(state: TurnState, step: OpenStep, server_tools: Collection[str]) -> Action:
    calls: list[Json] = _reply(state)["tool_calls"]
    answers = {response["call_id"]: response for response in state.responses} | step.outcomes
    answers |= {
        call["call_id"]: refusal
        for call in calls
        if call["call_id"] not in answers and (refusal := _refusal(state.config, call, server_tools)) is not None
    }
    missing = [call for call in calls if call["call_id"] not in answers]
    if here := [call for call in missing if call["tool_name"] not in client_tools(state.config)]:
        return RunTools(step, here)
    if missing:
        return AwaitClient(missing)
    return CompleteTools(step, calls, [answers[call["call_id"]] for call in calls])


def _after_inference(state: TurnState) -> Action:
    reply = _reply(state)
    return _shields(state, ASSISTANT_OUTPUT, output_messages(state, reply)) or _after_reply(state)


def _after_reply(state: TurnState) -> Action:
    reply = _reply(state)
    return OpenTools() if reply["tool_calls"] and reply["stop_reason"] == "end_of_message" else Finish()


def _after_shields(state: TurnState) -> Action:
    if violation_of(state.steps) is not None:
        return Finish()
    at_output = state.steps[-1]["metadata"]["touchpoint"] == ASSISTANT_OUTPUT
    if at_output:
        return _after_reply(state)
    return Infer() if state.inference_steps else Retrieve()


def _after_tools(state: TurnState) -> Action:
    """What the client's tools gave is input like the user's own."""
    given = [
        {"role": "tool", "call_id": response["call_id"], "content": response["content"]}
        for response in state.steps[-1]["tool_responses"]
        if response["tool_name"] in client_tools(state.config)
    ]
    return (_shields(state, USER_INPUT, given) if given else None) or Infer()


def _after_memory(state: TurnState) -> Action:
    return Infer()


_AFTER = {
    "inference": _after_inference,
    "shield_call": _after_shields,
    "tool_execution": _after_tools,
    "memory_retrieval": _after_memory,
}


def _shields(state: TurnState, touchpoint: str, messages: list[Json]) -> RunShields | None:
    key = "input_shields" if touchpoint == USER_INPUT else "output_shields"
    shields = state.config.get(key) or []
    return RunShields(touchpoint, shields, messages) if shields else None


def _reply(state: TurnState) -> Json:
    reply: Json = state.inference_steps[-1]["model_response"]
    return reply


def _refusal(config: Json, call: Json, server_tools: Collection[str]) -> Json | None:
    """The answer to a call that nobody can run, worded for the model so that it can mend it."""
    known = sorted({*client_tools(config), *server_tools})
    if call["tool_name"] not in known:
        content = f"Error: there is no tool '{call['tool_name']}'. Available: {', '.join(known) or 'none'}."
    elif isinstance(call["arguments"], str):
        content = f"Error: the arguments of '{call['tool_name']}' were no JSON object. Call it again with valid JSON."
    else:
        return None
    return error_response(call, content)


def error_response(call: Json, content: str) -> Json:
    """A response that tells the model what went wrong with its call."""
    return {"call_id": call["call_id"], "tool_name": call["tool_name"], "content": content, "metadata": {"error": True}}
