"""Connections to the store."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from redis import BlockingConnectionPool, Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from shared.errors import StoreError
from shared.round_trips import Command, RoundTrips

_CONNECTIONS = 200
"""Per process. A thousand greenlets share them: each holds one for the time of a round trip only."""
_LOOK_AFTER_S = 0.05
"""Less than any server takes to come back, so that none of the connections to the one before is used again."""


class Store(Redis):
    """redis-py's client, and a quicker way for what is asked thousands of times a second."""

    def __init__(self, pool: BlockingConnectionPool) -> None:
        super().__init__(connection_pool=pool)
        self._trips = RoundTrips(lambda: pool.connection_class(**pool.connection_kwargs))

    def close(self) -> None:
        self._trips.close()
        super().close()

    def together(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands, in one round trip with those of whoever else has some now.

        Returns the replies as the server gives them; that of a refused command is its ResponseError. For what is
        answered at once and in short: the next ones wait for it. Raises RedisError where what became of them is not
        known.
        """
        return self._trips.send(commands)


def connect(url: str, *, socket_timeout: float = 5, max_connections: int = _CONNECTIONS, **options: int) -> Store:
    """A client for writers and readers alike: no retries inside, because a script decides what a doubt means.

    A pool that is used up makes callers wait, and not fail. `options` are redis-py's own, for each connection.
    """
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=max_connections,
        timeout=20,
        socket_timeout=socket_timeout,
        socket_connect_timeout=5,
        health_check_interval=30,
        retry=Retry(NoBackoff(), 0),
        **options,
    )
    pool.connection_class = _looked_at_after_a_rest(pool.connection_class)
    return Store(pool)


@cache
def _looked_at_after_a_rest(plain: type[Any]) -> type[Any]:
    """A class of connections that are looked at where they have rested for a while.

    The pool asks each connection that it hands out whether its server has closed it. Under gevent that is a poll, lets
    all other greenlets run first, and costs half of a round trip: one that was used just now fails soon enough.
    """

    class Connection(plain):  # type: ignore[misc]
        _asked_at = 0.0

        def can_read(self, timeout: float = 0) -> bool:
            now = time.monotonic()
            has_rested, self._asked_at = now - self._asked_at > _LOOK_AFTER_S, now
            return bool(super().can_read(timeout)) if timeout or has_rested else False

    return Connection


@contextmanager
def translated() -> Iterator[None]:
    """Every fault of the store as a StoreError."""
    try:
        yield
    except (RedisError, OSError) as error:
        raise StoreError(f"The store cannot be reached or refuses: {error}") from error
