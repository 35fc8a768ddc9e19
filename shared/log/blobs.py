"""Large values (images, documents, tool results) lie under keys of their own; an entry only refers to them."""

from abc import ABC, abstractmethod
from hashlib import sha256
from typing import NamedTuple

from redis import Redis

from shared.ids import TurnRef
from shared.log.keys import Keys
from shared.redis_client import translated

INLINE_LIMIT = 64 * 1024
"""Bytes up to which a value lies in its entry."""


class Stored(NamedTuple):
    """How a value stands in an entry: field 'p' holds it, field 'b' names its blob."""

    field: str
    value: bytes


class BlobGone(KeyError):
    """There is no such value: a sweep removes a deleted turn's, also from under who reads its log."""


class BlobStore(ABC):
    """Keeps large values of turns. Names are content hashes, so that a repeated put is harmless."""

    @abstractmethod
    def put(self, ref: TurnRef, name: str, value: bytes) -> None:
        """Keep a value. It is there before the entry that refers to it is written."""

    @abstractmethod
    def get(self, ref: TurnRef, name: str) -> bytes:
        """The value. Raises BlobGone where there is none."""

    @abstractmethod
    def delete(self, ref: TurnRef) -> None:
        """Remove all values of a turn."""

    def store(self, ref: TurnRef, value: bytes) -> Stored:
        """The value as it goes into an entry: itself, or the name of the blob that now holds it."""
        if len(value) <= INLINE_LIMIT:
            return Stored("p", value)
        name = sha256(value).hexdigest()
        self.put(ref, name, value)
        return Stored("b", name.encode())


class RedisBlobs(BlobStore):
    """One hash per turn, in the turn's slot."""

    def __init__(self, *, client: Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    def put(self, ref: TurnRef, name: str, value: bytes) -> None:
        with translated():
            self._client.hset(self._keys.turn(ref).blobs, name, value)

    def get(self, ref: TurnRef, name: str) -> bytes:
        with translated():
            value = self._client.hget(self._keys.turn(ref).blobs, name)
        if value is None:
            raise BlobGone(name)
        return bytes(value)  # type: ignore[arg-type]

    def delete(self, ref: TurnRef) -> None:
        with translated():
            self._client.unlink(self._keys.turn(ref).blobs)
