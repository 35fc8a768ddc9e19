"""Why and where a running turn is stopped from outside."""

from collections.abc import Iterator
from contextlib import contextmanager

import gevent
from gevent import GreenletExit


class Interrupt(GreenletExit):  # type: ignore[misc]
    """Base of all interrupts. Not an Exception: nothing on the way may take it for a fault of its own and go on."""


class CancelAsked(Interrupt):
    """Somebody canceled the turn."""


class LeaseLost(Interrupt):
    """The turn has another owner, or has ended."""


class Draining(Interrupt):
    """The worker is shutting down: give the turn back."""


class Interrupts:
    """What was asked of one turn from outside, and where that may be thrown into its greenlet.

    Thrown at most once, and only inside `open`, where the turn waits for somebody else. Anywhere else it could tear
    a write, or the handling of an earlier interrupt; there the turn goes on to its next `check`. What comes first
    counts. Being asked to leave is not thrown, and anything else may come after it.
    """

    def __init__(self) -> None:
        self._asked: Interrupt | None = None
        self._leaving = False
        self._waits: gevent.Greenlet | None = None

    def ask(self, reason: Interrupt) -> None:
        """Stop the turn as soon as that is safe. May be called from any greenlet, and from a signal handler."""
        if self._asked is None:
            self._asked = reason
            # From the hub, and looked at again there: the turn may have gone on before.
            gevent.get_hub().loop.run_callback(self._throw)

    def ask_to_leave(self) -> None:
        """Have the turn given back at its next boundary: what it is at is not broken off. Safe wherever `ask` is."""
        self._leaving = True

    def check(self) -> None:
        """Raise what was asked for."""
        if self._asked is not None:
            raise self._asked

    def boundary(self) -> None:
        """As `check`, between two steps: here the turn can leave, and nothing will be paid for twice."""
        self.check()
        if self._leaving:
            raise Draining

    @contextmanager
    def open(self) -> Iterator[None]:
        """What was asked for is raised in this block at once, wherever it waits."""
        self.check()
        self._waits = gevent.getcurrent()
        try:
            yield
        finally:
            self._waits = None

    def _throw(self) -> None:
        greenlet, self._waits = self._waits, None
        if greenlet is not None:
            greenlet.throw(self._asked)
