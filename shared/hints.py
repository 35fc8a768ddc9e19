"""Hints: Celery messages that say "somebody look at this turn". The log decides everything else."""

import logging

from celery import Celery
from kombu.entity import Queue
from kombu.exceptions import OperationalError

from shared.ids import TurnRef
from shared.queues import QUEUES, TURNS_QUEUE

RUN_TURN = "turnstone.run_turn"
CALL = "turnstone.call"

logger = logging.getLogger(__name__)


def celery_app(broker_url: str) -> Celery:
    """The Celery application that both rooms use: early acks, no results, nothing that nobody reads."""
    app = Celery("turnstone", broker=broker_url, set_as_current=False)
    app.conf.update(
        task_ignore_result=True,
        task_default_queue=TURNS_QUEUE,
        task_queues=[_queue(name, broker_url) for name in QUEUES],
        task_acks_late=False,
        worker_send_task_events=False,
        worker_enable_remote_control=False,
        task_send_sent_event=False,
        broker_connection_retry_on_startup=True,
        # For ever: a worker whose broker is away goes on with the turns that it has.
        broker_connection_max_retries=None,
        # For late acks only, and ours are early; said because a warning asks for it whenever the broker is lost.
        worker_cancel_long_running_tasks_on_connection_loss=True,
        broker_transport_options={
            "socket_timeout": 10,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 30,
            # A publisher tries to connect twice, at once: by default it would sit out six seconds.
            "max_retries": 1,
            "interval_start": 0,
            "interval_step": 0,
        },
        # Only we publish here; anything else than JSON is not ours.
        accept_content=["json"],
    )
    return app


def _queue(name: str, broker_url: str) -> Queue:
    """A hint that is lost is repeated by the reaper, and a call by its client: nobody needs a record of
    unacknowledged ones.

    In Redis it would be two transactions before a turn's claim. RabbitMQ would push all it has at a consumer that does
    not acknowledge.
    """
    return Queue(name, no_ack=broker_url.startswith(("redis", "sentinel")))  # type: ignore[no-untyped-call]


class Hints:
    """Publishes hints. A failure is logged and ignored: the reaper sends the hint again."""

    def __init__(self, *, app: Celery) -> None:
        self._app = app

    def warm(self) -> None:
        """Connect now, so that the first turn does not wait for it."""
        try:
            with self._app.producer_or_acquire() as producer:
                producer.connection.ensure_connection(max_retries=1)
                producer.channel  # noqa: B018 - opened by being asked for
        except (OperationalError, OSError) as error:
            logger.warning("broker not reached yet: %s", error)

    def send(self, ref: TurnRef) -> None:
        try:
            self._app.send_task(RUN_TURN, args=(ref.member,), queue=TURNS_QUEUE, retry=False)
        except (OperationalError, OSError) as error:
            logger.warning("hint for turn %s not published (the reaper will): %s", ref.turn_id, error)
