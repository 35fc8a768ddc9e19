"""Starts a worker with one of its safeguards switched off: `python mutants.py MUTANT`, in place of `python -m worker`.

An oracle that finds nothing proves nothing until it has been seen to find what is wrong. The safeguards are taken away
from outside: the scripts' text is changed as it is loaded, methods are replaced. The product has no switch for it.

- `fence`: no script asks whose token comes with a write, nor where its writer believes the log to end. The position
  alone stops nearly every stale owner: with only the token gone, one is let through where by chance it has as many
  events to write as its successor has written.
- `tail`: `append` does not ask where the writer believes the log to end.
- `renew`: no lease is ever extended, by `renew` or by `append`.
- `reap`: the reaper looks at nothing.
"""

import sys
from collections.abc import Callable
from functools import cache
from hashlib import sha1
from pathlib import Path

MUTANTS = ("fence", "tail", "renew", "reap")
_HEARTBEAT = "heartbeat"

Edit = tuple[str, str]

_POSITION = "if turn.last ~= ARGV[{}] or turn.plast ~= ARGV[{}] then return {{'TAIL', turn.last, turn.plast}} end"

_FENCE: dict[str, list[Edit]] = {
    "append": [("turn.token ~= ARGV[3] or ", ""), (_POSITION.format(4, 5), "")],
    "pause": [("turn.token ~= ARGV[3] or ", ""), (_POSITION.format(4, 5), "")],
    "release": [("turn.token ~= ARGV[3] or ", "")],
    "renew": [("turn.token ~= ARGV[3] or ", "")],
    "finish": [("if turn.token ~= ARGV[4] then return {'FENCED'} end", ""), (_POSITION.format(5, 6), "")],
}
_TAIL: dict[str, list[Edit]] = {"append": [(_POSITION.format(4, 5), "")]}
_RENEW: dict[str, list[Edit]] = {
    "append": [
        ("'deadline', int(now + lease)", "'renewed', int(now + lease)"),
        ("redis.call('ZADD', KEYS[4], int(now + lease), ARGV[2])", ""),
    ],
    "renew": [("'deadline', deadline", "'renewed', deadline"), ("redis.call('ZADD', KEYS[2], deadline, ARGV[2])", "")],
}
EDITS: dict[str, dict[str, list[Edit]]] = {"fence": _FENCE, "tail": _TAIL, "renew": _RENEW, "reap": {}}


def mutate(mutant: str) -> None:
    """Change the scripts as this process loads them. Raises ValueError where one has no such line any more."""
    from shared.log import scripts

    edits = EDITS[mutant]
    whole = scripts._source

    @cache
    def source(name: str) -> tuple[str, str]:
        text = edited(whole(name)[0], edits.get(name, []))
        return text, sha1(text.encode(), usedforsecurity=False).hexdigest()

    scripts._source = source  # type: ignore[assignment]
    for name in edits:
        source(name)


def edited(text: str, edits: list[Edit]) -> str:
    """`text` with every edit made."""
    for old, new in edits:
        if old not in text:
            raise ValueError(f"there is nothing like {old!r} in the script: the mutant has to follow it")
        text = text.replace(old, new)
    return text


def _worker(mutant: str) -> None:
    from gevent import monkey

    monkey.patch_all()
    mutate(mutant)
    import worker.heartbeat as heartbeat
    from worker.main import main
    from worker.reaper import Reaper

    if mutant == "reap":
        Reaper.look = lambda _: None  # type: ignore[method-assign]
    heartbeat.gsubprocess = _Children(heartbeat.gsubprocess.Popen, mutant)
    main()


class _Children:
    """Stands in for the module by which a worker starts its heartbeat: that gets the same mutant."""

    def __init__(self, popen: Callable[..., object], mutant: str) -> None:
        self._popen = popen
        self._mutant = mutant

    def Popen(self, command: list[str], **options: object) -> object:
        return self._popen([command[0], str(Path(__file__)), self._mutant, _HEARTBEAT], **options)


def main() -> None:
    here = sys.path.pop(0)
    if Path(here).resolve() != Path(__file__).resolve().parent:
        sys.path.insert(0, here)
    mutant, *rest = sys.argv[1:]
    sys.argv[1:] = []
    if rest != [_HEARTBEAT]:
        _worker(mutant)
        return
    mutate(mutant)
    from worker import heartbeat_process

    heartbeat_process.main()


if __name__ == "__main__":
    main()
