"""Connections to the store."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from redis import BlockingConnectionPool, Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from shared.errors import StoreError

_CONNECTIONS = 200
"""Per process. A thousand greenlets share them: each holds one for the time of a round trip only."""
_LOOK_AFTER_S = 0.05
"""Less than any server takes to come back, so that none of the connections to the one before is used again."""


def connect(url: str, *, socket_timeout: float = 5, max_connections: int = _CONNECTIONS, **options: int) -> Redis:
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
    return Redis(connection_pool=pool)


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
