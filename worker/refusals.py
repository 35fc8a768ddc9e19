"""How often the store may refuse a write before its turn is given up."""

from redis.exceptions import ResponseError

from shared.errors import StoreError, Unwritable

ODD_TRIES = 20
"""About a second apart."""
_STATES = ("MISCONF", "NOREPLICAS", "BUSY", "UNKILLABLE")
"""What redis-py has no class for, of what is about the store and not about the write."""


class Refusals:
    """Counts the refusals in a row that waiting does not cure."""

    def __init__(self) -> None:
        self._odd = 0

    def add(self, error: StoreError) -> None:
        """Raises Unwritable where it is time to give up."""
        self._odd = self._odd + 1 if _is_odd(error) else 0
        if self._odd >= ODD_TRIES:
            raise Unwritable(error.message)

    def clear(self) -> None:
        self._odd = 0


def _is_odd(error: StoreError) -> bool:
    """Whether it is about what was to be written. Memory, disk, replicas and failovers are the store's own affair."""
    cause = error.__cause__
    return type(cause) is ResponseError and not str(cause).startswith(_STATES)
