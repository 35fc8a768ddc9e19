"""Makes the calls of server tools: all of a reply at once, each journalled before and after."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextvars import copy_context

import gevent

from shared.errors import ProviderError
from shared.events import Json
from shared.fold import CALL_INTENT, CALL_OUTCOME, OpenStep
from worker.decide import error_response
from worker.interrupts import Interrupts
from worker.journal import TurnWriter
from worker.providers.tools import Replay
from worker.providers.tools_schema import invalid_arguments
from worker.toolbox import BoundTool

logger = logging.getLogger(__name__)

UNKNOWN_OUTCOME = (
    "Unknown outcome: the worker was lost while this tool ran, and it is not safe to run it again. It may have had its"
    " effect."
)


def run_calls(
    writer: TurnWriter,
    interrupts: Interrupts,
    *,
    step: OpenStep,
    calls: Sequence[Json],
    tools: Mapping[str, BoundTool],
    confirm: Callable[[], None],
) -> None:
    """Give each call an outcome in the private record; `step.outcomes` has it then.

    What an earlier owner had begun is made again only where the tool says that this is safe. `confirm` waits until what
    was written is as safe as the run config asks for: before a call that must not be made twice.
    """
    doable = []
    for call in calls:
        bound = tools[call["tool_name"]]
        if (response := _without_a_call(step, call, bound)) is not None:
            _outcome(writer, step, response)
        else:
            doable.append((call, bound))
            writer.note(CALL_INTENT, {"step_id": step.step_id, "call_id": call["call_id"]})
    # An effect must not precede its intent: otherwise a taker-over would not know of it, and repeat it.
    writer.settle()
    if any(bound.tool.replay is Replay.NEVER for _, bound in doable):
        confirm()
    # In this greenlet's context: what a call logs is of the turn too.
    making = [gevent.spawn(copy_context().run, _make, writer, step, call, bound) for call, bound in doable]
    try:
        with interrupts.open():
            gevent.joinall(making, raise_error=True)
    finally:
        gevent.killall(making)


def _without_a_call(step: OpenStep, call: Json, bound: BoundTool) -> Json | None:
    if call["call_id"] in step.intents and bound.tool.replay is Replay.NEVER:
        return error_response(call, UNKNOWN_OUTCOME)
    problem = invalid_arguments(bound.open_tool, call["arguments"])
    return None if problem is None else error_response(call, f"Error: {problem}")


def _make(writer: TurnWriter, step: OpenStep, call: Json, bound: BoundTool) -> None:
    key = f"{writer.ref.turn_id}:{step.step_id}:{call['call_id']}"
    try:
        result = bound.invoke(call["arguments"], idempotency_key=key)
    except ProviderError as error:
        # The model can often go on without it; the user finds the reason in the step.
        logger.warning("turn %s: tool %s failed: %s", writer.ref.turn_id, bound.tool.name, error)
        response = error_response(call, f"Error: {error.message}")
        response["metadata"]["code"] = error.code
    else:
        metadata = {**result.metadata, "error": True} if result.error else result.metadata
        response = {
            "call_id": call["call_id"],
            "tool_name": call["tool_name"],
            "content": result.content,
            "metadata": metadata,
        }
    _outcome(writer, step, response)


def _outcome(writer: TurnWriter, step: OpenStep, response: Json) -> None:
    writer.note(CALL_OUTCOME, {"step_id": step.step_id, "response": response})
