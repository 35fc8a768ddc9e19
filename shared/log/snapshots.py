"""The snapshot of a turn that has ended, as it is stored: with its answer once.

A turn shows its answer twice, as the response of its last inference step and as its output message, and that is most
of what it is. Stored is the turn without its output message, behind a line that says at which bytes it stands: so it is
put back by cutting bytes, and nobody has to parse them. A turn whose output message is another one is stored as it is.
"""

import re

import orjson

from shared.events import Json

FIELDS = ("snapshot", "final", "snapshot_blob", "final_blob")
"""Of the turn's hash: two that hold a snapshot, two that name its blob. The release before this one knows the plain
ones only; where it finds none it folds the log."""

_PACKED = re.compile(rb"(\d+) (\d+)\n")
_MEMBER = b',"output_message":'


def pack(turn: Json) -> bytes:
    """The turn as it is stored."""
    steps = [step for step in turn["steps"] if step["step_type"] == "inference"]
    if not steps or steps[-1]["model_response"] != turn["output_message"]:
        return orjson.dumps(turn)
    slim = orjson.dumps({name: value for name, value in turn.items() if name != "output_message"})
    answer = orjson.dumps(turn["output_message"])
    start = slim.rfind(answer)
    return b"%d %d\n%b" % (start, start + len(answer), slim)


def unpack(stored: bytes) -> bytes:
    """The whole turn, as JSON text."""
    head = _PACKED.match(stored)
    if head is None:
        return stored
    start, end, slim = int(head[1]), int(head[2]), stored[head.end() :]
    return slim[:-1] + _MEMBER + slim[start:end] + b"}"


def field_of(stored: bytes, *, in_blob: bool) -> str:
    """Under which name a snapshot stands in the turn's hash."""
    plain, packed = FIELDS[2:] if in_blob else FIELDS[:2]
    return packed if _PACKED.match(stored) else plain
