"""How many turns run and wait, counted in the shards' indexes: for those who watch the service."""

from dataclasses import dataclass

from redis import Redis

from shared.ids import SHARDS
from shared.log.keys import Keys
from shared.redis_client import translated

_LONGEST_BACKOFF_US = 60 * 1_000_000
"""As in `reap.lua`: within it every turn that waits for a worker is due."""
_SECOND_US = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """`waiting` are turns at the head of their session that no worker has; `overdue_s` is how late the first of what
    is due is; `unfolded` are ended turns that nobody has made a snapshot of yet."""

    running: int
    waiting: int
    overdue_s: float
    unfolded: int


def take_census(client: Redis, keys: Keys) -> Census:
    """Two round trips, whatever there is. Raises StoreError.

    A session that is about to be cleared counts as waiting for its last minute.
    """
    with translated():
        seconds, micros = client.time()
        now = int(seconds) * _SECOND_US + int(micros)
        pipe = client.pipeline(transaction=False)
        for shard in range(SHARDS):
            names = keys.shard(shard)
            pipe.zcard(names.leases)
            pipe.zcount(names.due, "-inf", now + _LONGEST_BACKOFF_US)
            pipe.zcard(names.ended)
            pipe.zrange(names.due, 0, 0, withscores=True)
        counts = pipe.execute()
    firsts = [first[0][1] for first in counts[3::4] if first]
    return Census(
        running=sum(counts[0::4]),
        waiting=sum(counts[1::4]),
        overdue_s=max(0.0, now - min(firsts, default=now)) / _SECOND_US,
        unfolded=sum(counts[2::4]),
    )
