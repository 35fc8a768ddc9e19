"""Places at which a process kills itself, by name. Production code knows nothing of them: it is patched from outside.

A test arms a point by making a file of its name in the folder that FAILPOINTS names. The first process that gets there
takes the file away, which only one can, and is gone: SIGKILL, with nothing flushed and nothing closed.

    python tests/failpoints/failing_worker.py                                    in place of python -m worker
    PYTHONPATH=tests/failpoints python -m gunicorn … failing_api:app             in place of api.wsgi:app
"""

import contextlib
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any

FOLDER = "FAILPOINTS"
"""The environment variable with the folder."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """The moment before or after a call of `owner.method`; `when` judges its arguments or its result.

    `half` stands for a moment within it: the call is made with what that gives of its arguments.
    """

    owner: str
    method: str
    after: bool = False
    when: Callable[[Any], bool] = lambda _: True
    half: Callable[[Any], Any] | None = None


_LOG = "shared.log.turn_log:TurnLog"
_TOOLS = "worker.providers.tools_http:HttpTools"

POINTS = {
    # The worker has taken the hint from the broker, and knows nothing more of the turn.
    "after_the_pop": Point(owner=_LOG, method="claim"),
    "after_the_claim": Point(owner=_LOG, method="claim", after=True),
    # The intent is in the store, and the call has not been made.
    "between_intent_and_effect": Point(owner=_TOOLS, method="invoke"),
    # The call has been answered, and its outcome is nowhere.
    "after_the_effect": Point(owner=_TOOLS, method="invoke", after=True),
    # What the call gave besides text is kept, and its outcome is nowhere.
    "after_a_file_is_kept": Point(owner="shared.files:RedisFiles", method="put", after=True),
    # A batch is in the store, and whoever wrote it has not heard so.
    "after_a_group_commit": Point(owner=_LOG, method="append_many", after=True),
    # Of a batch for several turns the first half has reached the store.
    "within_a_group_commit": Point(
        owner=_LOG,
        method="append_many",
        when=lambda writes: len(writes) > 1,
        half=lambda writes: writes[: len(writes) // 2],
    ),
    # All steps are written, and the end is not.
    "before_the_finish": Point(owner=_LOG, method="finish"),
    # The end is written, and the session's next turn has no hint.
    "after_the_finish": Point(owner=_LOG, method="finish", after=True),
    "before_the_pause": Point(owner=_LOG, method="pause"),
    "after_the_pause": Point(owner=_LOG, method="pause", after=True),
    # A worker that drains has given the turn back, and nobody has a hint.
    "after_the_release": Point(owner=_LOG, method="release", after=True),
    # The reaper has found a turn that nobody runs, and nobody has a hint.
    "after_the_reap": Point(owner=_LOG, method="reap", after=True, when=lambda outcome: outcome[0] == "hint"),
    # The turn is in the store: no hint, no answer.
    "after_the_accept": Point(owner=_LOG, method="accept", after=True),
}


def arm(folder: Path, name: str) -> None:
    """Have the next process that gets to the point die there."""
    assert name in POINTS, name
    (folder / name).touch(exist_ok=False)


def is_armed(folder: Path, name: str) -> bool:
    """Whether no process has come to it yet."""
    return (folder / name).exists()


def plant(*names: str) -> None:
    """Patch the functions of these points in this process."""
    folder = Path(os.environ[FOLDER])
    for name in names:
        point = POINTS[name]
        module, _, owner = point.owner.partition(":")
        _patch(getattr(import_module(module), owner), folder / name, point)


def _patch(owner: type, file: Path, point: Point) -> None:
    call = getattr(owner, point.method)

    @wraps(call)
    def patched(self: Any, *args: Any, **options: Any) -> Any:
        if point.after:
            result = call(self, *args, **options)
            if point.when(result):
                _die_if_armed(file)
            return result
        if point.when(args[0]) and _disarmed(file):
            if point.half is not None:
                call(self, point.half(args[0]), *args[1:], **options)
            _die()
        return call(self, *args, **options)

    setattr(owner, point.method, patched)


def _die_if_armed(file: Path) -> None:
    if _disarmed(file):
        _die()


def _disarmed(file: Path) -> bool:
    """Whether it was armed, and this process is the one that comes to it first."""
    with contextlib.suppress(FileNotFoundError):
        file.unlink()
        return True
    return False


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
