"""What landed in the store lately: a store that loses the end of a log in a failover is given it again."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import dropwhile

from shared.log.turn_log import Write

KEPT_S = 30.0
"""More than a failover may lose: a store without its replicas stops taking writes after `min-replicas-max-lag`."""
KEPT_BYTES = 32 * 1024 * 1024
"""Of a whole process. Its core relays some thousand tokens a second, each 0.8 KB here: thirty seconds of them fit."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A write, and how many bytes of memory it takes, roughly."""

    write: Write
    size: int


@dataclass(slots=True)
class _Place:
    """A batch's place in the order of landing; without the batch once that is not kept any more."""

    landed: float
    begin: tuple[int, int]
    batch: Batch | None


class Kept:
    """The batches of all turns of this process that landed in the last thirty seconds, at most 32 MB of them."""

    def __init__(
        self,
        *,
        seconds: float = KEPT_S,
        most_bytes: int = KEPT_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seconds = seconds
        self._most_bytes = most_bytes
        self._clock = clock
        self._of: dict[str, deque[_Place]] = {}
        self._order: deque[_Place] = deque()
        self.size = 0

    def add(self, batch: Batch) -> None:
        """Keep a batch that has landed; those of a claim come in their order."""
        write = batch.write
        place = _Place(self._clock(), (write.last, write.private_last), batch)
        self._of.setdefault(write.token, deque()).append(place)
        self._order.append(place)
        self.size += batch.size
        while self._order and (self._order[0].batch is None or self._is_too_much()):
            self._forget_oldest()

    def take_after(self, token: str, last: int, private_last: int) -> list[Batch]:
        """A claim's batches behind this end of its log, no longer kept; none where the first of them is not there."""
        places = self._of.get(token, deque())
        lost = list(dropwhile(lambda place: place.begin != (last, private_last), places))
        for _ in lost:
            places.pop()
        return [self._release(place) for place in lost]

    def drop(self, token: str) -> None:
        """Forget a claim: its turn has ended, rests, or is somebody else's."""
        for place in self._of.pop(token, ()):
            self._release(place)

    def _is_too_much(self) -> bool:
        return self.size > self._most_bytes or self._order[0].landed < self._clock() - self._seconds

    def _release(self, place: _Place) -> Batch:
        batch, place.batch = place.batch, None
        if batch is None:
            raise AssertionError("released twice")
        self.size -= batch.size
        return batch

    def _forget_oldest(self) -> None:
        place = self._order.popleft()
        if place.batch is None:
            return
        token = self._release(place).write.token
        places = self._of[token]
        places.popleft()
        if not places:
            del self._of[token]
