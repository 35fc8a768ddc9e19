"""So many at once, and the others in the order in which they came."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from gevent.event import Event


class InOrder:
    """Places for greenlets of one thread. One that is given back goes to whoever waits longest: with gevent's semaphore
    a greenlet that asks again at once is served again and again, before those that wait."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: deque[Event] = deque()

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place for the length of the block; waits for one."""
        self._take()
        try:
            yield
        finally:
            self._give()

    def _take(self) -> None:
        if self._free:
            self._free -= 1
            return
        given = Event()
        self._waiting.append(given)
        try:
            given.wait()
        except BaseException:  # killed, or out of time
            if given.is_set():
                self._give()
            else:
                self._waiting.remove(given)
            raise

    def _give(self) -> None:
        if self._waiting:
            self._waiting.popleft().set()
        else:
            self._free += 1
