"""How a worker stops reading hints."""

import socket
from functools import partial
from typing import Any

from worker.drain import Drain
from worker.hint_consumer import HintConsumer

_SLICE_S = 0.2


class DrainingConsumer(HintConsumer):
    """Stops soon after the process was told to end, and says so once nothing comes any more.

    Celery looks every two seconds whether it shall stop. What it takes in between nobody here would run.
    """

    def __init__(self, *args: Any, drain: Drain, **options: Any) -> None:
        super().__init__(*args, **options)
        self._drain = drain

    def connect(self) -> Any:
        connection = super().connect()
        connection.drain_events = partial(_drain_events, connection.drain_events)
        return connection

    def stop(self) -> None:
        """Part of Celery's shutdown, which goes no further while the process drains."""
        super().stop()
        if self._drain.on:
            # The connection too: it may have asked for a message already. Of what it got, kombu gives back what
            # nobody has been given.
            self.shutdown()
            # Celery bounds all sockets that are made while it shuts down, and turns go on.
            socket.setdefaulttimeout(None)
        self._drain.consumed_all()


def _drain_events(plain: Any, timeout: float) -> Any:
    return plain(timeout=min(timeout, _SLICE_S))
