"""All that a test has in the store, read in one round trip; the invariants are then checked on that.

One check reads some hundred keys: one by one, that is what most of a history's time would go into.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from logkit import LogKit
from redis import Redis

from shared.log.reader import LogReader

DUMP = (Path(__file__).resolve().parent / "dump.lua").read_text()

Content = dict[str, tuple[str, Any, bool]]
"""Type, content, and whether it expires, by key."""


def dump(client: "Redis", prefix: str) -> Content:
    """What lies under a prefix. Two dumps are equal where the store has not changed."""
    found: Content = json.loads(cast(bytes, client.eval(DUMP, 0, f"{prefix}:")))
    return found


def difference(before: Content, after: Content) -> Content:
    """What is new or other in `after`, and None for what is gone."""
    changed = {key: value for key, value in after.items() if before.get(key) != value}
    return changed | dict.fromkeys(before.keys() - after.keys())  # type: ignore[return-value]


@contextmanager
def frozen(kit: LogKit, content: Content) -> Iterator[None]:
    """In this block the kit reads a dump in place of the store."""
    client, reader = kit.client, kit.reader
    kit.client = cast(Any, Frozen(content))
    kit.reader = LogReader(client=kit.client, keys=kit.keys)
    try:
        yield
    finally:
        kit.client, kit.reader = client, reader


class Frozen:
    """The commands that read, answered from a dump as redis-py answers them."""

    def __init__(self, content: Content) -> None:
        self._content = content

    def exists(self, key: str) -> int:
        return int(key in self._content)

    def ttl(self, key: str) -> int:
        """1 where a key expires: how soon, the dump does not say."""
        return -2 if key not in self._content else 1 if self._content[key][2] else -1

    def hgetall(self, key: str) -> dict[bytes, bytes]:
        return _pairs(self._of(key, "hash"))

    def hmget(self, key: str, names: Sequence[str]) -> list[bytes | None]:
        row = self.hgetall(key)
        return [row.get(name.encode()) for name in names]

    def hget(self, key: str, name: str) -> bytes | None:
        return self.hgetall(key).get(name.encode())

    def lrange(self, key: str, first: int, last: int) -> list[bytes]:
        assert (first, last) == (0, -1), "a dump is read as a whole"
        return [value.encode() for value in self._of(key, "list")]

    def zrange(self, key: str, first: int, last: int, *, withscores: bool = False) -> list[Any]:
        assert (first, last) == (0, -1), "a dump is read as a whole"
        flat = self._of(key, "zset")
        members = [(member.encode(), float(score)) for member, score in zip(flat[::2], flat[1::2], strict=True)]
        return members if withscores else [member for member, _ in members]

    def xrange(self, key: str) -> list[tuple[bytes, dict[bytes, bytes]]]:
        return [(entry_id.encode(), _pairs(fields)) for entry_id, fields in self._of(key, "stream")]

    def together(self, commands: Sequence[Sequence[str]]) -> list[list[bytes | None]]:
        """Reads of rows; what else is asked in this way would write."""
        assert all(command[0] == "HMGET" for command in commands)
        return [self.hmget(key, names) for _, key, *names in commands]

    def pipeline(self, transaction: bool = True) -> "Pipeline":
        return Pipeline(self)

    def _of(self, key: str, kind: str) -> Any:
        if key not in self._content:
            return []
        found, content, _ = self._content[key]
        assert found == kind, f"{key} is a {found}"
        return content


class Pipeline:
    """Collects answers."""

    def __init__(self, client: Frozen) -> None:
        self._client = client
        self._replies: list[Any] = []

    def hmget(self, key: str, names: Sequence[str]) -> None:
        self._replies.append(self._client.hmget(key, names))

    def execute(self) -> list[Any]:
        return self._replies


def _pairs(flat: list[str]) -> dict[bytes, bytes]:
    return {name.encode(): value.encode() for name, value in zip(flat[::2], flat[1::2], strict=True)}
