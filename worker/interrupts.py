"""Why a running turn is stopped from outside.

Thrown into the turn's greenlet wherever it waits. Not an Exception: nothing on the way may take it for a fault
of its own and go on.
"""

from gevent import GreenletExit


class Interrupt(GreenletExit):  # type: ignore[misc]
    """Base of all interrupts."""


class CancelAsked(Interrupt):
    """Somebody canceled the turn."""


class LeaseLost(Interrupt):
    """The turn has another owner, or has ended."""


class Draining(Interrupt):
    """The worker is shutting down: give the turn back."""
