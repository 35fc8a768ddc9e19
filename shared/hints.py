"""Hints: Celery messages that say "somebody look at this turn". The log decides everything else."""

import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any
from uuid import uuid4

import orjson
from celery import Celery
from kombu.entity import Queue
from kombu.exceptions import ChannelError, KombuError

from shared.ids import TurnRef, is_job
from shared.queues import MEMORY_QUEUE, QUEUES, TURNS_QUEUE, broker_name

RUN_TURN = "turnstone.run_turn"
CALL = "turnstone.call"

logger = logging.getLogger(__name__)

_MOST_WAITING = 20_000
"""Beyond it the oldest are forgotten: the reaper repeats them."""
_BATCH = 200
_MOST_AT_BROKER = 50_000
"""While no worker has a free place the reaper repeats hints that nobody takes; they must not fill the broker."""
_COUNT_S = 1.0
_HEARTBEAT_S = 30
"""Of AMQP connections. One that is dead, and says so to nobody, is given up after two of them."""
_TCP_KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}

_NO_EMBED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}

_QUORUM = {"x-queue-type": "quorum", "x-max-length": _MOST_AT_BROKER}


def celery_app(broker_url: str, *, prefix: str) -> Celery:
    """The Celery application that both rooms use: early acks, no results, nothing that nobody reads.

    `prefix` is the installation's: its queues bear it, and are found by their short names too.
    """
    app = Celery("turnstone", broker=broker_url, set_as_current=False)
    app.conf.update(
        task_ignore_result=True,
        # One backend (of no results) for all: by default each greenlet makes one of its own.
        result_backend_thread_safe=True,
        task_default_queue=broker_name(TURNS_QUEUE, prefix),
        # Every message names its queue: no exchange to declare, and none to share with other installations.
        task_default_exchange="",
        task_queues=[_queue(name, prefix, broker_url) for name in QUEUES],
        task_acks_late=False,
        worker_send_task_events=False,
        worker_enable_remote_control=False,
        task_send_sent_event=False,
        broker_connection_retry_on_startup=True,
        # For ever: a worker whose broker is away goes on with the turns that it has.
        broker_connection_max_retries=None,
        # RabbitMQ closes the channel of a consumer that holds a message for half an hour: a worker that was full for so
        # long connects anew.
        broker_channel_error_retry=True,
        worker_enable_prefetch_count_reduction=False,
        broker_heartbeat=_HEARTBEAT_S,
        # For late acks only, and ours are early; said because a warning asks for it whenever the broker is lost.
        worker_cancel_long_running_tasks_on_connection_loss=True,
        broker_transport_options=_transport_options(broker_url),
        # Only we publish here; anything else than JSON is not ours.
        accept_content=["json"],
    )
    return app


def _forgets(broker_url: str) -> bool:
    """Whether the broker shall forget a message as it delivers it.

    A hint that is lost is repeated by the reaper, and a call by its client: nobody needs a record of unacknowledged
    ones. In Redis it would be two transactions before a turn's claim. RabbitMQ would push all it has at a consumer that
    does not acknowledge.
    """
    return broker_url.startswith(("redis", "sentinel"))


def _queue(name: str, prefix: str, broker_url: str) -> Queue:
    """On RabbitMQ a replicated one, which outlives the loss of a node; of too many messages it drops the oldest."""
    return Queue(  # type: ignore[no-untyped-call]
        broker_name(name, prefix),
        alias=name,
        no_ack=_forgets(broker_url),
        queue_arguments=_QUORUM if broker_url.startswith("amqp") else None,
    )


def _transport_options(broker_url: str) -> dict[str, Any]:
    options: dict[str, Any] = {
        # A publisher tries to connect twice, at once: by default it would sit out six seconds.
        "max_retries": 1,
        "interval_start": 0,
        "interval_step": 0,
    }
    if broker_url.startswith("amqp"):
        return options
    return options | {
        "socket_timeout": 10,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        # Not every system has all of them.
        "socket_keepalive_options": {
            getattr(socket, name): value for name, value in _TCP_KEEPALIVE.items() if hasattr(socket, name)
        },
        "health_check_interval": 30,
    }


class Hints:
    """Publishes hints, in a thread (a greenlet in the rooms) of its own: no turn and no submit waits for the broker.

    A hint that cannot be published is forgotten: the reaper sends it again. RabbitMQ is not asked to confirm hints: it
    would cost a round trip for each, and what a confirmation finds out the reaper finds out too.
    """

    def __init__(self, *, app: Celery) -> None:
        self._app = app
        self._waiting: deque[str] = deque(maxlen=_MOST_WAITING)
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._at_work = False
        self._broker_away = False
        self._full: set[str] = set()
        self._count_at: dict[str, float] = {}

    def warm(self) -> None:
        """Connect now, so that the first turn does not wait for it."""
        with self._changed:
            self._start()

    def send(self, ref: TurnRef) -> None:
        """Publish a hint soon. Returns at once, whatever the broker does."""
        with self._changed:
            self._waiting.append(ref.member)
            self._start()
            self._changed.notify_all()

    def flush(self, seconds: float) -> bool:
        """Wait until nothing waits to be published; whether that was so in time."""
        with self._changed:
            return self._changed.wait_for(lambda: not (self._waiting or self._at_work), seconds)

    def _start(self) -> None:
        """With the first use: after gunicorn has forked."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="hints", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        self._guarded(self._connect)
        while True:
            members = self._next()
            if not self._guarded(self._publish, members, last=False):
                self._guarded(self._publish, members)  # the connection may have been dead

    def _next(self) -> list[str]:
        """Wait for something to publish, and take what gathered meanwhile."""
        with self._changed:
            self._at_work = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: bool(self._waiting))
            self._at_work = True
            return [self._waiting.popleft() for _ in range(min(len(self._waiting), _BATCH))]

    def _guarded(self, act: Callable[..., None], *args: Any, last: bool = True) -> bool:
        """Whether it went well; said where it is the `last` try."""
        try:
            act(*args)
        except (KombuError, OSError) as error:
            if last and not self._broker_away:
                self._broker_away = True
                logger.warning("hints are not published (the reaper repeats them): %s", error)
            return False
        except Exception:
            # The boundary of the thread: without it no hint would be published any more.
            logger.exception("hints are not published (the reaper repeats them)")
            return True
        if self._broker_away:
            self._broker_away = False
            logger.info("the broker is back: hints are published again")
        return True

    def _connect(self) -> None:
        with self._app.producer_or_acquire() as producer:
            producer.connection.ensure_connection(max_retries=1)
            producer.channel  # noqa: B018 - opened by being asked for

    def _publish(self, members: Sequence[str]) -> None:
        """In one round trip to Redis for each queue, and without one to RabbitMQ."""
        queues: dict[str, list[str]] = {TURNS_QUEUE: [], MEMORY_QUEUE: []}
        for member in members:
            queues[MEMORY_QUEUE if is_job(member) else TURNS_QUEUE].append(member)
        for name, those in queues.items():
            if those:
                self._publish_to(self._app.amqp.queues[name], those)

    def _publish_to(self, queue: Any, members: Sequence[str]) -> None:
        with self._app.producer_or_acquire() as producer:
            if queue.queue_arguments:
                producer.maybe_declare(queue)
            else:
                _keep_client(producer.channel)
                self._count(producer.channel, queue.name)
            if queue.name in self._full:
                return
            with producer.batch():
                for member in members:
                    _send(producer, queue.name, member)

    def _count(self, channel: Any, queue: str) -> None:
        """See whether the queue is full, once a second. A broker that bounds its queues itself needs no such care."""
        now = time.monotonic()
        if now < self._count_at.get(queue, 0.0):
            return
        self._count_at[queue] = now + _COUNT_S
        self._full.discard(queue)
        try:
            if channel.queue_declare(queue, passive=True).message_count >= _MOST_AT_BROKER:
                self._full.add(queue)
        except ChannelError:
            pass  # it is empty: Redis has no such queue then


def _send(producer: Any, queue: str, member: str) -> None:
    """What `send_task` would do, at a quarter of its cost: nothing but what Celery's message protocol, version 2, asks
    for (docs.celeryq.dev, "Message Protocol")."""
    hint_id = str(uuid4())
    producer.publish(
        orjson.dumps([[member], {}, _NO_EMBED]).decode(),
        exchange="",
        routing_key=queue,
        content_type="application/json",
        content_encoding="utf-8",
        headers={
            "lang": "py",
            "task": RUN_TURN,
            "id": hint_id,
            "root_id": hint_id,
            "parent_id": None,
            "group": None,
        },
        correlation_id=hint_id,
        retry=False,
    )


def _keep_client(channel: Any) -> None:
    """Have a channel to Redis use its client again: kombu makes one for each publish, and that is half of its cost."""
    channel.conn_or_acquire = lambda client=None: nullcontext(client or channel.client)
