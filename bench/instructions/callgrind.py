"""Runs a command under valgrind's callgrind, for its count alone."""

import re

_COLLECTED = re.compile(r"Collected : (\d+)")


def command(*options: str) -> list[str]:
    """What goes in front of the command to count."""
    return ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", *options]


def collected(said: str, what: str) -> int:
    """The instructions in what valgrind said at the end. Raises RuntimeError where it said none."""
    found = _COLLECTED.search(said)
    if found is None:
        raise RuntimeError(f"{what} could not be counted:\n{said[-2000:]}")
    return int(found[1])
