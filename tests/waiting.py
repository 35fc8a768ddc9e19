"""Waiting for a condition, with a deadline, in place of sleeping and hoping."""

import time
from collections.abc import Callable

import pytest


def wait_for(condition: Callable[[], bool], what: str, *, seconds: float = 20.0) -> None:
    """Return once `condition` holds; fail the test, naming `what`, if it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds:.0f} s in vain until {what}")
        time.sleep(0.02)
