"""What becomes of a hint that a worker has received: a greenlet of Celery's pool, and nothing around it.

Celery's own strategy makes a request, a context and a trace of each message. They are there for results, retries,
revocation, events and time limits, of which a hint has none; they took a tenth of a short turn's CPU.
"""

import logging
from collections.abc import Callable
from typing import Any

from celery import Celery
from celery.exceptions import InvalidTaskError

from shared.queues import TURNS_QUEUE

logger = logging.getLogger(__name__)

STRATEGY = f"{__name__}:hint_strategy"
"""How a Celery task names it."""


def hint_strategy(task: Any, app: Celery, consumer: Any) -> Callable[..., None]:
    """What handles the messages for `task`; called by Celery once per connection to the broker.

    A full pool makes it wait, and so nothing more is read from the broker.
    """
    forgotten = app.amqp.queues[TURNS_QUEUE].no_ack  # the broker has no record of a message that it has delivered
    spawn = consumer.pool._pool.spawn  # the pool's own `apply_async` takes two greenlets for each

    def run(ack: Callable[..., None], args: list[Any]) -> None:
        try:
            if not forgotten:
                ack(logger, consumer.connection_errors)
            task.run(*args)
        except Exception:
            # The boundary of a hint: the next one may be better.
            logger.exception("hint %r: unexpected fault", args)

    def receive(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any) -> None:
        try:
            args, _, _ = message.decode()
        except (TypeError, ValueError) as error:
            raise InvalidTaskError(f"not a hint: {error}") from None
        spawn(run, ack, args)

    return receive
