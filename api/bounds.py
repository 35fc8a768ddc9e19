"""Bounds on turns that wait for a worker: what the store counts, and what this process has let in since."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

from redis import Redis

from shared.ids import SHARDS
from shared.log.keys import Keys
from shared.redis_client import translated
from shared.runconfig import Turns

READ_EVERY_S = 1.0
NO_OLDER_S = 0.1
"""Nothing is refused by a count that is older: workers may have taken up many turns since."""
_TOTAL = "total"


@dataclass(slots=True, kw_only=True)
class Place:
    """Whether a new turn may wait: `refusal` is empty, or says why not. The caller sets `taken` once it waits."""

    refusal: str
    taken: bool = False


class Bounds:
    """Counts the turns that wait, as `turns.max_queued` and `turns.max_queued_per_agent` bound them.

    One per process, for its greenlets. The store is read once a second, and before a refusal; where nothing is bounded,
    never. Several processes may let in a few more than the bound within a second.
    """

    def __init__(self, *, client: Redis, keys: Keys, turns: Turns) -> None:
        self._client = client
        self._keys = keys
        self._most = turns.max_queued
        self._most_per_agent = turns.max_queued_per_agent
        self._read_at = 0.0
        self._reading = False
        self._read: Counter[str] = Counter()
        self._since: Counter[str] = Counter()
        self._coming: Counter[str] = Counter()

    @property
    def any(self) -> bool:
        """Whether there is a bound, so that turns have to be counted."""
        return self._most is not None or self._most_per_agent is not None

    @contextmanager
    def place(self, tenant: str, agent_id: str) -> Iterator[Place]:
        """A place for a turn that is about to be accepted. Raises StoreError."""
        if not self.any:
            yield Place(refusal="")
            return
        names = (_TOTAL, f"{tenant}/{agent_id}")
        place = Place(refusal=self._refusal(*names))
        coming = Counter(() if place.refusal else names)
        self._coming += coming
        try:
            yield place
        finally:
            self._coming -= coming
            if place.taken:
                self._since.update(names)

    def _refusal(self, total: str, agent: str) -> str:
        self._refresh(READ_EVERY_S)
        if self._full(total, agent):
            self._refresh(NO_OLDER_S)
        return self._full(total, agent)

    def _full(self, total: str, agent: str) -> str:
        for name, most, key, whose in (
            (total, self._most, "max_queued", ""),
            (agent, self._most_per_agent, "max_queued_per_agent", " of this agent"),
        ):
            if most is not None and self._read[name] + self._since[name] + self._coming[name] >= most:
                return (
                    f"As many turns{whose} wait for a worker as may: {most} (turns.{key} in the run config). Submit"
                    " this one again later."
                )
        return ""

    def _refresh(self, age_s: float) -> None:
        if time.monotonic() - self._read_at < age_s or (self._reading and self._read_at):
            return
        self._reading = True
        known = self._since.copy()  # accepted before the reading begins: it will have them
        try:
            self._read = self._count()
        finally:
            self._reading = False
        self._since -= known
        self._read_at = time.monotonic()

    def _count(self) -> Counter[str]:
        """One round trip for all shards."""
        with translated():
            pipe = self._client.pipeline(transaction=False)
            for shard in range(SHARDS):
                pipe.hgetall(self._keys.shard(shard).queued)
            rows = cast(list[dict[bytes, bytes]], pipe.execute())
        counts: Counter[str] = Counter()
        for row in rows:
            counts.update({name.decode(): int(value) for name, value in row.items()})
        return counts
