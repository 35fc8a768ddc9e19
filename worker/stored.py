"""Patience with the store: what it cannot do now is asked of it again."""

import logging
from collections.abc import Callable
from itertools import chain, repeat
from typing import TypeVar

import gevent

from shared.errors import StoreError
from worker.interrupts import Interrupts
from worker.refusals import Refusals

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_STORE_RETRY_S = (0.1, 0.2, 0.5, 1.0)


def until_stored(attempt: Callable[[], Result], interrupts: Interrupts | None = None) -> Result:
    """Repeat what the store cannot do now until it does it or the log refuses; or until `interrupts` say otherwise.

    Reads, finish and pause may be repeated safely. Raises Unwritable for what the store will never do.
    """
    refusals = Refusals()
    for pause in chain(_STORE_RETRY_S, repeat(_STORE_RETRY_S[-1])):
        try:
            return attempt()
        except StoreError as error:
            # Said once: while the store is away, all turns of the process come by here every second.
            if pause == _STORE_RETRY_S[0]:
                logger.warning("a turn waits for the store: %s", error)
            refusals.add(error)
        gevent.sleep(pause)
        if interrupts is not None:
            interrupts.check()
    raise AssertionError("unreachable")
