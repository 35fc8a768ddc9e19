"""How a worker process ends when it is told to: it takes nothing more, lets what runs go on for a while, and leaves."""

import logging
import os
from collections.abc import Callable

import gevent
from gevent.event import Event as Signal

logger = logging.getLogger(__name__)

_QUIET_S = 3.0
"""How long the consumer may take to stop: a broker that says nothing must not keep the process."""
_POLL_S = 0.02


class Drain:
    """The end of one process. `grace_s` is what its work is given to end by itself.

    The end goes on in a greenlet, and not through Celery's own shutdown, which would wait for its pool for ever;
    Celery only stops consuming (`consumed_all`).
    """

    def __init__(self, *, grace_s: float) -> None:
        self.grace_s = grace_s
        self.on = False
        self._quiet = Signal()
        self._held = 0

    def begin(self, leave: Callable[[], None]) -> None:
        """Run `leave` and end the process with 0; once, however often it is asked for."""
        if not self.on:
            self.on = True
            gevent.spawn(self._end, leave)

    def consumed_all(self) -> None:
        """Nothing comes from the broker any more. While the process drains, its caller must not go on: it returns
        only where nobody has asked for an end."""
        self._quiet.set()
        if self.on:
            Signal().wait()

    def give_back(self, publish: Callable[[], None]) -> None:
        """Publish a hint that came after the end had begun; not before it is sure that it does not come back here."""
        self._held += 1
        try:
            self._quiet.wait(_QUIET_S)
            publish()
        finally:
            self._held -= 1

    def wait(self, is_done: Callable[[], bool], seconds: float) -> bool:
        """Wait for so long that something is done; whether it is."""
        with gevent.Timeout(seconds, False):
            while not is_done():
                gevent.sleep(_POLL_S)
        return is_done()

    def settle(self) -> None:
        """Wait until nothing comes any more and all that came has been given back."""
        self.wait(lambda: self._quiet.is_set() and not self._held, _QUIET_S)

    def _end(self, leave: Callable[[], None]) -> None:
        try:
            leave()
        except Exception:
            # The process ends in any case; what it still held, others take up when its lease has lapsed.
            logger.exception("unexpected fault while this worker ends")
        finally:
            logging.shutdown()
            os._exit(0)
