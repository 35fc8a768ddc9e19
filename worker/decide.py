"""What a turn does next, decided from its state alone.

The same decision serves a fresh turn, one that was resumed and one that a worker takes over: finished steps are
never run again, whatever came between.
"""

from dataclasses import dataclass

from shared.events import Json
from shared.fold import OpenStep, TurnState


@dataclass(frozen=True, slots=True)
class Infer:
    """Ask the model."""


@dataclass(frozen=True, slots=True)
class Abandon:
    """Close a step that an earlier owner left unfinished."""

    step: OpenStep


@dataclass(frozen=True, slots=True)
class AwaitClient:
    """Rest until the client has answered `calls`."""

    calls: list[Json]


@dataclass(frozen=True, slots=True)
class CompleteTools:
    """Finish a tool step. Every one of `calls` gets a response: the client's, or an error for the model."""

    calls: list[Json]
    responses: list[Json]


@dataclass(frozen=True, slots=True)
class Finish:
    """The turn has its answer."""


Action = Infer | Abandon | AwaitClient | CompleteTools | Finish


def next_action(state: TurnState) -> Action:
    """The next action of a turn that is in progress."""
    step = state.open_step
    if step is not None and not (step.step_type == "tool_execution" and state.responses):
        return Abandon(step)
    if not state.steps or state.steps[-1]["step_type"] == "tool_execution":
        return Infer()
    reply = state.inference_steps[-1]["model_response"]
    calls: list[Json] = reply["tool_calls"]
    if not calls or reply["stop_reason"] != "end_of_message":
        return Finish()
    if step is None and (pending := client_calls(state.config, calls)):
        return AwaitClient(pending)
    return CompleteTools(calls, _all_responses(state, calls))


def client_calls(config: Json, calls: list[Json]) -> list[Json]:
    """The calls that the client can answer: its own tools, with arguments that could be read."""
    known = {tool["name"] for tool in config.get("client_tools") or []}
    return [call for call in calls if call["tool_name"] in known and isinstance(call["arguments"], dict)]


def _all_responses(state: TurnState, calls: list[Json]) -> list[Json]:
    given = {response["call_id"]: response for response in state.responses}
    return [given.get(call["call_id"]) or _refusal(state.config, call) for call in calls]


def _refusal(config: Json, call: Json) -> Json:
    """The answer to a call that nobody can run, worded for the model so that it can mend it."""
    if isinstance(call["arguments"], str):
        content = (
            f"Error: the arguments of '{call['tool_name']}' were not a JSON object. Call it again with valid JSON."
        )
    else:
        names = ", ".join(tool["name"] for tool in config.get("client_tools") or []) or "none"
        content = f"Error: there is no tool '{call['tool_name']}'. Available: {names}."
    return {"call_id": call["call_id"], "tool_name": call["tool_name"], "content": content, "metadata": {"error": True}}
