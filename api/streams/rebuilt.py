"""Events of a turn whose log has expired, made from its snapshot and marked as such."""

from collections.abc import Iterator
from itertools import chain

import orjson

from shared.events import Json

_ENDS = {"completed": "turn_complete", "failed": "turn_failed", "canceled": "turn_canceled"}


def rebuilt_events(turn: Json) -> Iterator[tuple[str, bytes]]:
    """(type, payload) of each event, every payload with `rebuilt: true`. Single tokens are not kept."""
    for payload in chain([_created(turn), _started(turn)], *map(_step, turn["steps"]), [_end(turn)]):
        yield payload["event_type"], orjson.dumps({**payload, "rebuilt": True})


def _created(turn: Json) -> Json:
    return {
        "event_type": "turn_created",
        **{name: turn[name] for name in ("turn_id", "session_id", "agent_id", "input_messages", "created_at")},
    }


def _started(turn: Json) -> Json:
    return {
        "event_type": "turn_start",
        "turn_id": turn["turn_id"],
        "attempt": turn["attempts"],
        "started_at": turn["started_at"],
    }


def _step(step: Json) -> list[Json]:
    names = {"step_type": step["step_type"], "step_id": step["step_id"]}
    start = {"event_type": "step_start", **names, "started_at": step["started_at"], "metadata": {}}
    if step["completed_at"] is None:
        return [start]
    return [start, {"event_type": "step_complete", **names, "step_details": step}]


def _end(turn: Json) -> Json:
    end: Json = {"event_type": _ENDS[turn["status"]], "turn_id": turn["turn_id"], "completed_at": turn["completed_at"]}
    if turn["status"] == "failed":
        end["error"] = turn["error"]
    return {**end, "turn": turn}
