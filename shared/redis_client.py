"""Connections to the store."""

from collections.abc import Iterator
from contextlib import contextmanager

from redis import BlockingConnectionPool, Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from shared.errors import StoreError

_CONNECTIONS = 200
"""Per process. A thousand greenlets share them: each holds one for the time of a round trip only."""


def connect(url: str, *, socket_timeout: float = 5, max_connections: int = _CONNECTIONS) -> Redis:
    """A client for writers and readers alike: no retries inside, because a script decides what a doubt means.

    A pool that is used up makes callers wait, and not fail.
    """
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=max_connections,
        timeout=20,
        socket_timeout=socket_timeout,
        socket_connect_timeout=5,
        health_check_interval=30,
        retry=Retry(NoBackoff(), 0),
    )
    return Redis(connection_pool=pool)


@contextmanager
def translated() -> Iterator[None]:
    """Every fault of the store as a StoreError."""
    try:
        yield
    except (RedisError, OSError) as error:
        raise StoreError(f"The store cannot be reached or refuses: {error}") from error
