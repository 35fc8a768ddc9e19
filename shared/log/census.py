"""How many turns and insert jobs run and wait, counted in the shards' indexes: for those who watch the service."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from redis.exceptions import RedisError

from shared.errors import StoreError
from shared.ids import SHARDS
from shared.log.keys import Keys
from shared.log.scripts import Call, Scripts
from shared.redis_client import Store

_LONGEST_BACKOFF_US = 60 * 1_000_000
"""As in `reap.lua`: within it everything that waits for a worker is due."""
_SECOND_US = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """`waiting` are turns at the head of their session that no worker has; `overdue_s` is how late the first of what
    is due is; `unfolded` are ended turns that nobody has made a snapshot of yet. Jobs are insert jobs."""

    running: int = 0
    waiting: int = 0
    unfolded: int = 0
    jobs_running: int = 0
    jobs_waiting: int = 0
    overdue_s: float = 0.0


def take_census(client: Store, keys: Keys) -> Census:
    """One round trip; the store looks at each turn that runs or waits. Raises StoreError."""
    shards = [keys.shard(number) for number in range(SHARDS)]
    calls = [Call("census", [names.due, names.leases, names.ended], [_LONGEST_BACKOFF_US]) for names in shards]
    replies = Scripts(client=client).call_many(calls)
    for reply in replies:
        if isinstance(reply, RedisError):
            raise StoreError(f"The store refused: {reply}") from reply
    counts = [reply for reply in replies if reply is not None]
    running, jobs_running = _total(count[0] for count in counts)
    waiting, jobs_waiting = _total(count[1] for count in counts)
    unfolded, _ = _total(count[2] for count in counts)
    return Census(
        running=running,
        waiting=waiting,
        unfolded=unfolded,
        jobs_running=jobs_running,
        jobs_waiting=jobs_waiting,
        overdue_s=max(0, *(count[3] for count in counts)) / _SECOND_US if counts else 0.0,
    )


def _total(pairs: Iterable[Sequence[int]]) -> tuple[int, int]:
    """Turns and jobs of all shards."""
    listed = list(pairs)
    return sum(turns for turns, _ in listed), sum(jobs for _, jobs in listed)
