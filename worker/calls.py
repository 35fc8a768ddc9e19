"""Answers calls: what the API asks of a provider while its client waits."""

import logging
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from typing import Any, cast

import gevent
import orjson
from redis import Redis

from shared.call_errors import error_as_json
from shared.calls import BEAT, BEAT_S, DATA, ERROR, ITEM, KEPT_S, KIND, RESULT, TAKEN
from shared.errors import StoreError, TurnstoneError, Unavailable
from shared.log.keys import CallKeys, Keys
from shared.redis_client import translated

Json = dict[str, Any]
Items = Generator[Json]
Operation = Callable[[Json], Json | Items]
"""Does what is asked. A generator is streamed; anything else is the answer."""

logger = logging.getLogger(__name__)


class CallerGone(Exception):
    """Nobody waits for the answer any more."""


class CallServer:
    """Takes calls and answers them, each in the greenlet that `run` is called in."""

    def __init__(self, *, client: Redis, keys: Keys, operations: Mapping[str, Operation]) -> None:
        self._client = client
        self._keys = keys
        self._operations = operations
        self._running: dict[CallKeys, gevent.Greenlet] = {}
        self._draining = False

    def run(self, call_id: str) -> None:
        """Look at a call: answer it if it still waits for somebody, else forget the hint."""
        if self._draining:
            return
        keys = self._keys.call(call_id)
        try:
            request = self._take(keys)
            if request is None:
                return
            self._running[keys] = gevent.getcurrent()
            try:
                self._add(keys, TAKEN, b"")
                self._add(keys, *self._outcome(keys, request))
            finally:
                del self._running[keys]
        except CallerGone:
            logger.debug("call %s: its client has gone", call_id)
        except StoreError as error:
            logger.warning("call %s not answered: %s", call_id, error)

    def beat(self) -> None:
        """For the life of the worker: tell those who wait that their calls are at work."""
        while True:
            gevent.sleep(BEAT_S)
            for keys, greenlet in list(self._running.items()):
                try:
                    self._add(keys, BEAT, b"")
                except CallerGone as gone:
                    greenlet.kill(gone, block=False)
                except StoreError as error:
                    logger.debug("no beat: %s", error)

    def drain(self, seconds: float) -> None:
        """Take nothing any more, and end what does not end by itself in time."""
        self._draining = True
        with gevent.Timeout(seconds, False):
            while self._running:
                gevent.sleep(0.02)
        stopped = list(self._running.values())
        restarting = Unavailable("The worker of this request restarts. Try again.", code="calls_worker_restarting")
        gevent.killall(stopped, restarting, timeout=1)

    def _outcome(self, keys: CallKeys, request: Json) -> tuple[bytes, bytes]:
        """The last entry of the reply."""
        operation, name = self._operations.get(request["operation"]), request["operation"]
        try:
            if operation is None:
                raise Unavailable(f"This calls worker is of another release: it has no '{name}'.", code="no_operation")
            result = operation(request["payload"])
            if isinstance(result, dict):
                return RESULT, orjson.dumps(result)
            with closing(result) as items:
                for item in items:
                    self._add(keys, ITEM, orjson.dumps(item))
            return RESULT, b"{}"
        except (CallerGone, StoreError):
            raise
        except TurnstoneError as error:
            return ERROR, orjson.dumps(error_as_json(error))
        except Exception as error:
            # The boundary of a call: whatever is wrong in it must not stay unsaid, and the worker goes on.
            logger.exception("call of '%s': unexpected fault", name)
            return ERROR, orjson.dumps(error_as_json(TurnstoneError(str(error))))

    def _take(self, keys: CallKeys) -> Json | None:
        with translated():
            raw = cast(bytes | None, self._client.getdel(keys.request))
        return None if raw is None else cast(Json, orjson.loads(raw))

    def _add(self, keys: CallKeys, kind: bytes, data: bytes) -> None:
        """Raises CallerGone where the reply's stream is gone."""
        with translated():
            pipe = self._client.pipeline(transaction=False)
            pipe.xadd(keys.reply, {KIND: kind, DATA: data}, nomkstream=True)
            pipe.expire(keys.reply, KEPT_S)
            added, _ = pipe.execute()
        if added is None:
            raise CallerGone
