"""Round trips to the store that greenlets share: while one is under way, the commands of the next gather.

Whoever comes first travels for all that have something by then, and hands the road on to the first who came meanwhile.
Alone it is what redis-py does, without the layers above its connections, which cost more than sending and reading; the
more greenlets ask at once, the fewer system calls each of them costs.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from hiredis import pack_command
from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as NoAnswer

Command = Sequence[str | bytes | int | float]

_MOST = 256
"""Callers that travel together. More would wait for each other longer than for the store."""


class _Load:
    """What one caller sends. `leads` once it is its turn to travel; `replies` or `error` once it is over."""

    __slots__ = ("count", "error", "leads", "packed", "replies", "signal")

    def __init__(self, commands: Sequence[Command]) -> None:
        # Here, and not on the way: what cannot be packed fails its own caller.
        self.packed = b"".join([pack_command(tuple(command)) for command in commands])  # type: ignore[arg-type]
        self.count = len(commands)
        self.replies: list[Any] | None = None
        self.error: Exception | None = None
        self.leads = False
        self.signal = threading.Event()


class RoundTrips:
    """Safe to share between greenlets or threads. `connect` makes the connection, one of redis-py's, which is kept."""

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect
        self._connection: Any = None
        self._pid = 0
        self._lock = threading.Lock()
        self._is_under_way = False
        self._waiting: deque[_Load] = deque()

    def send(self, commands: Sequence[Command]) -> list[Any]:
        """The replies; that of a refused command is its ResponseError. Raises NoConnection where what became of the
        commands is not known."""
        mine = _Load(commands)
        with self._lock:
            mine.leads = not self._is_under_way
            self._is_under_way = True
            if not mine.leads:
                self._waiting.append(mine)
        if not mine.leads:
            self._wait(mine)
        if mine.leads:
            self._lead(mine)
        if mine.replies is None:
            raise NoConnection(str(mine.error)) from mine.error
        return mine.replies

    def _wait(self, mine: _Load) -> None:
        try:
            mine.signal.wait()
        except BaseException:
            # Killed, where there was nothing to wait for any more, or with the road just handed to it.
            with self._lock:
                if mine in self._waiting:
                    self._waiting.remove(mine)
            if mine.leads:
                self._hand_on()
            raise

    def _lead(self, mine: _Load) -> None:
        with self._lock:
            others = [self._waiting.popleft() for _ in range(min(len(self._waiting), _MOST - 1))]
        try:
            self._travel([mine, *others])
        except NoAnswer as error:
            # Who has waited behind a server that does not answer has waited enough.
            with self._lock:
                late, self._waiting = self._waiting, deque()
            others += late
            self._fail([mine, *others], error)
        except Exception as error:
            self._fail([mine, *others], error)
        except BaseException:  # killed on the way
            self._fail(others, NoConnection("the round trip was broken off"))
            raise
        finally:
            self._hand_on()
            for other in others:
                other.signal.set()

    def _travel(self, loads: Sequence[_Load]) -> None:
        connection = self._connected()
        is_whole = False
        try:
            connection.send_packed_command([b"".join([load.packed for load in loads])])
            for load in loads:
                load.replies = [_reply(connection) for _ in range(load.count)]
            is_whole = True
        finally:
            if not is_whole:
                connection.disconnect()

    def _connected(self) -> Any:
        if self._pid != os.getpid():  # a fork must not share it
            self._connection, self._pid = self._connect(), os.getpid()
        connection = self._connection
        try:
            if connection.is_connected and connection.can_read():  # its end: the server has gone
                connection.disconnect()
        except (RedisError, OSError):
            connection.disconnect()
        if not connection.is_connected:
            connection.connect()
        return connection

    def close(self) -> None:
        """Give the connection up; the next trip makes another one."""
        if self._connection is not None:
            self._connection.disconnect()

    def _fail(self, loads: Sequence[_Load], error: Exception) -> None:
        for load in loads:
            if load.replies is None:
                load.error = error

    def _hand_on(self) -> None:
        with self._lock:
            following = self._waiting.popleft() if self._waiting else None
            self._is_under_way = following is not None
            if following is not None:
                following.leads = True
        if following is not None:
            following.signal.set()


def _reply(connection: Any) -> Any:
    try:
        return connection.read_response()
    except ResponseError as error:
        return error
