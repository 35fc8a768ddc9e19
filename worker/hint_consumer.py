"""How a worker reads hints from the broker, where that is not as Celery does it."""

import logging
import os
from functools import partial
from typing import Any

from celery.worker.consumer import Consumer

BROKER_RETRY_S = 2
_PREFETCH = 4
"""How many messages RabbitMQ hands over that are not begun yet: enough to be busy over a round trip of milliseconds,
and all that a full worker keeps from others. They wait for a second: the reaper repeats them."""
_PRECONDITION_FAILED = 406
_DELAYED = "celery.worker.consumer.delayed_delivery:DelayedDelivery"

logger = logging.getLogger(__name__)


class HintConsumer(Consumer):  # type: ignore[misc]
    """Celery's, except for three things.

    It looks for a broker that is away every two seconds, and not ever more rarely. It takes few messages ahead. And it
    declares none of the 28 queues and exchanges by which RabbitMQ delays messages: no hint is delayed.
    """

    class Blueprint(Consumer.Blueprint):  # type: ignore[misc]
        default_steps = [step for step in Consumer.Blueprint.default_steps if step != _DELAYED]  # noqa: RUF012

    max_prefetch_count = _PREFETCH

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.initial_prefetch_count = _PREFETCH

    def ensure_connected(self, conn: Any) -> Any:
        conn.ensure_connection = partial(conn.ensure_connection, interval_start=BROKER_RETRY_S, interval_step=0)
        return super().ensure_connected(conn)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Connect again, which helps with all faults but one."""
        if getattr(exc, "reply_code", None) == _PRECONDITION_FAILED and "inequivalent" in str(exc):
            logger.critical(
                "The broker has a queue of this name that is of another kind: %s. Delete it (no turn is lost: hints"
                " are repeated), or set another TURNSTONE_KEY_PREFIX.",
                exc,
            )
            # Celery's own shutdown would lose the exit code.
            logging.shutdown()
            os._exit(os.EX_CONFIG)
        super().on_connection_error_after_connected(exc)
