"""Loads the Lua scripts and runs them, alone or many in one round trip."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import Any

from redis.exceptions import NoScriptError, RedisError

from shared.errors import StoreError
from shared.redis_client import Store
from shared.round_trips import Command

Argument = str | bytes | int

_REPLICATION_MS = 2000
_DEFINED = re.compile(r"^local (?:function )?(\w+)", re.MULTILINE)
"""The names that a part of the shared file defines; parts stand between blank lines, each before those that use it."""


@dataclass(frozen=True, slots=True)
class Call:
    """One script with its keys and arguments; `now` in µs stands in for the server's time in tests."""

    script: str
    keys: Sequence[str]
    args: Sequence[Argument]


@cache
def _source(name: str) -> tuple[str, str]:
    """The script behind what it uses of the shared part, and the SHA1 that Redis knows it by.

    What it does not use is left out: each call makes every function anew, which was an eighth of what `append` costs.
    """
    folder = files("shared.log").joinpath("lua")
    text = folder.joinpath(f"{name}.lua").read_text()
    for part in reversed(folder.joinpath("_lib.lua").read_text().split("\n\n")):
        defined = _DEFINED.findall(part)
        if not defined or any(re.search(rf"\b{word}\b", text) for word in defined):
            text = f"{part}\n\n{text}"
    return text, sha1(text.encode(), usedforsecurity=False).hexdigest()


class Scripts:
    """Runs scripts by their hash and loads one only where the server does not know it.

    redis-py's own registration asks `SCRIPT EXISTS` before each pipeline: a round trip on the hot path.
    """

    def __init__(self, *, client: Store, now_us: int | None = None) -> None:
        self._client = client
        self.now_us = now_us

    def call(self, script: str, keys: Sequence[str], args: Sequence[Argument]) -> Any:
        """Run one script. Raises StoreError where the server cannot be reached or refuses."""
        reply = self.call_many([Call(script, keys, args)])[0]
        if isinstance(reply, RedisError):
            raise StoreError(f"The store refused: {reply}") from reply
        return reply

    def call_many(self, calls: Sequence[Call]) -> list[Any]:
        """Run scripts in one round trip, each atomic by itself; a refused one yields its RedisError."""
        replies = self._send(calls)
        unknown = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if unknown:
            for name in {calls[i].script for i in unknown}:
                self._load(name)
            for i, reply in zip(unknown, self._send([calls[i] for i in unknown]), strict=True):
                replies[i] = reply
        return replies

    def call_replicated(self, script: str, keys: Sequence[str], args: Sequence[Argument]) -> bool:
        """Run one script and wait until what this connection has written is on the disks of this server and of a
        replica, as far as they confirm it (`WAITAOF 1 1`, two seconds at the most).

        Raises StoreError, also where the server knows no WAITAOF (Redis before 7.2).
        """
        self._load(script)
        call = Call(script, keys, args)
        try:
            pipe = self._client.pipeline(transaction=False)
            pipe.execute_command(*self._command(call))  # type: ignore[no-untyped-call]
            pipe.waitaof(1, 1, _REPLICATION_MS)
            _, (local, replicas) = pipe.execute()
        except (RedisError, OSError) as error:
            raise StoreError(f"The store does not confirm a write: {error}") from error
        return bool(local >= 1 and replicas >= 1)

    def _send(self, calls: Sequence[Call]) -> list[Any]:
        try:
            return self._client.together([self._command(call) for call in calls])
        except (RedisError, OSError) as error:
            raise StoreError(f"The store cannot be reached: {error}") from error

    def _command(self, call: Call) -> Command:
        now = "" if self.now_us is None else self.now_us
        return ("EVALSHA", _source(call.script)[1], len(call.keys), *call.keys, now, *call.args)

    def _load(self, name: str) -> None:
        try:
            self._client.script_load(_source(name)[0])
        except (RedisError, OSError) as error:
            raise StoreError(f"The store cannot be reached: {error}") from error
