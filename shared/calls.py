"""Calls: what the API has a provider do while its client waits.

As with turns, the Celery message is only a hint: "somebody look at this call". What is asked lies in the store until
the client's patience ends, and a worker takes it away as it reads it; so no call is made twice, none long after its
client has gone, and no prompt lies in the broker. The answer comes on a short-lived stream of its own: one entry, or
many where it is streamed. Whoever asked deletes both keys; where that fails they expire.
"""

import logging
import time
from collections.abc import Generator
from contextlib import closing
from typing import Any, cast

import orjson
from celery import Celery
from kombu.exceptions import OperationalError
from redis import Redis

from shared.call_errors import error_from_json
from shared.errors import StoreError, Unavailable
from shared.hints import CALL
from shared.ids import new_call_id
from shared.log.keys import CallKeys, Keys
from shared.queues import CALLS_QUEUE
from shared.redis_client import translated

Json = dict[str, Any]
Entry = tuple[bytes, bytes]

TIMEOUT_S = 10.0
"""How long a call may be silent. A worker that is at work on it says so every few seconds."""
BEAT_S = 3.0
KEPT_S = 60
"""How long a reply outlives its last entry where nobody deletes it."""
_BLOCK_S = 4.0  # less than the connection's socket timeout

# The kinds of entries on a reply's stream.
ASKED, TAKEN, BEAT, ITEM, RESULT, ERROR = b"asked", b"taken", b"beat", b"item", b"result", b"error"
KIND, DATA = b"k", b"d"

logger = logging.getLogger(__name__)


class Calls:
    """Makes calls, from any number of greenlets or threads. Each holds one connection while it waits.

    Every method raises Unavailable where no worker takes the call, or the worker was lost; StoreError; and what the
    operation itself raised: InvalidRequest, NotFound, Conflict or ProviderError.
    """

    def __init__(self, *, client: Redis, keys: Keys, app: Celery) -> None:
        self._client = client
        self._keys = keys
        self._app = app

    def call(self, operation: str, payload: Json, *, timeout_s: float = TIMEOUT_S) -> Json:
        """The operation's result. `timeout_s` is the longest silence: how long the provider takes is its own affair."""
        with closing(self._entries(operation, payload, timeout_s)) as entries:
            return cast(Json, orjson.loads(next(data for kind, data in entries if kind == RESULT)))

    def stream(self, operation: str, payload: Json, *, timeout_s: float = TIMEOUT_S) -> Generator[bytes | None]:
        """The operation's items as JSON, each as it comes; None is a sign of life in a silence.

        Nothing is asked before the first `next`. Closing the iterator ends the operation.
        """
        with closing(self._entries(operation, payload, timeout_s)) as entries:
            for kind, data in entries:
                if kind == RESULT:
                    return
                yield data if kind == ITEM else None

    def _entries(self, operation: str, payload: Json, timeout_s: float) -> Generator[Entry]:
        call_id = new_call_id()
        keys = self._keys.call(call_id)
        self._ask(keys, {"operation": operation, "payload": payload}, timeout_s)
        try:
            self._hint(call_id)
            yield from self._read(keys, timeout_s)
        finally:
            self._forget(keys)

    def _ask(self, keys: CallKeys, request: Json, timeout_s: float) -> None:
        with translated():
            pipe = self._client.pipeline()
            pipe.set(keys.request, orjson.dumps(request), px=max(1, int(timeout_s * 1000)))
            # The worker only adds to a stream that is there: once it is deleted, nobody waits any more.
            pipe.xadd(keys.reply, {KIND: ASKED, DATA: b""})
            pipe.expire(keys.reply, KEPT_S + int(timeout_s))
            pipe.execute()

    def _hint(self, call_id: str) -> None:
        try:
            self._app.send_task(CALL, args=(call_id,), queue=CALLS_QUEUE, retry=False)
        except (OperationalError, OSError) as error:
            logger.warning("call not published: %s", error)
            raise Unavailable("The broker cannot be reached. Try again.", code="broker_unavailable") from error

    def _read(self, keys: CallKeys, timeout_s: float) -> Generator[Entry]:
        """Entries that mean something to a caller, up to the result."""
        deadline, last, taken = time.monotonic() + timeout_s, b"0", False
        while True:
            entries = self._next(keys.reply, last, deadline - time.monotonic())
            if not entries and time.monotonic() >= deadline:
                raise _silent(taken)
            for entry_id, kind, data in entries:
                last = entry_id
                if kind == ERROR:
                    raise error_from_json(orjson.loads(data))
                taken = taken or kind != ASKED
                if kind in (BEAT, ITEM, RESULT):
                    yield kind, data
                if kind == RESULT:
                    return
            if taken and entries:
                deadline = time.monotonic() + timeout_s

    def _next(self, key: str, after: bytes, left_s: float) -> list[tuple[bytes, bytes, bytes]]:
        block_ms = max(1, int(min(left_s, _BLOCK_S) * 1000))
        with translated():
            answer = cast(Any, self._client.xread({key: after}, block=block_ms))
        if not answer:
            return []
        [(_, entries)] = answer.items() if isinstance(answer, dict) else answer
        return [(entry_id, fields[KIND], fields[DATA]) for entry_id, fields in _flat(entries)]

    def _forget(self, keys: CallKeys) -> None:
        try:
            with translated():
                self._client.delete(keys.request, keys.reply)
        except StoreError as error:
            logger.debug("a call's keys are left to expire: %s", error)


def _flat(entries: Any) -> Any:
    """Under RESP3 a stream's entries are in a list of their own."""
    return entries[0] if entries and isinstance(entries[0], list) else entries


def _silent(taken: bool) -> Unavailable:
    if taken:
        problem = "The calls worker that was at work on the request is gone. Try again."
        return Unavailable(problem, code="calls_worker_lost")
    problem = "No calls worker took the request: start one with 'turnstone worker --queue calls', or try again."
    return Unavailable(problem, code="no_calls_worker", retry_after=2)
