"""The tail hub: one reader of the store for all clients of this process.

Workers publish which turns' logs grew; the hub reads just those, in one round trip, and hands the entries to
whoever follows. While it reads, the next changes gather: it coalesces when it is behind, and an idle hub delivers at
once. Once a second it looks at all followed turns, so that a lost notice costs a second and nothing else.

Written on `threading`, which gevent makes greenlets of in the server.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from types import TracebackType

from redis import Redis
from redis.exceptions import RedisError

from shared.errors import StoreError
from shared.events import Entry
from shared.ids import SHARDS, TurnRef
from shared.log.keys import Keys
from shared.log.reader import LogReader

logger = logging.getLogger(__name__)

_SWEEP_S = 1.0
_STREAMS_PER_READ = 500
_ENTRIES_PER_STREAM = 500
_BUFFER_ENTRIES = 1000
"""Per client. One that is slower is not buffered for: it reads the log itself when it comes back."""
_PAGE = 500


class HubClosed(Exception):
    """The server is shutting down; a client reconnects and goes on from its cursor."""


class Subscription:
    """One client's view of one turn. Use as a context manager."""

    def __init__(self, *, hub: "TailHub", ref: TurnRef) -> None:
        self._hub = hub
        self.ref = ref
        self._entries: deque[Entry] = deque()
        self._overrun = False
        self._signal = threading.Event()

    def __enter__(self) -> "Subscription":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hub.leave(self)

    def push(self, entries: list[Entry]) -> None:
        """Hand over new entries. Never waits: past the bound they are dropped and the client re-reads."""
        if len(self._entries) + len(entries) > _BUFFER_ENTRIES:
            self._entries.clear()
            self._overrun = True
        elif not self._overrun:
            self._entries.extend(entries)
        self._signal.set()

    def wake(self) -> None:
        self._signal.set()

    def take(self, timeout: float) -> list[Entry] | None:
        """New entries, [] after `timeout` seconds without any, None if the log is to be read instead.

        Raises HubClosed.
        """
        self._signal.wait(timeout)
        self._signal.clear()
        if self._hub.closed:
            raise HubClosed
        if self._overrun:
            self._overrun = False
            return None
        taken = list(self._entries)
        self._entries.clear()
        return taken


class _Topic:
    """A followed turn: how far the hub has read it, and who follows."""

    __slots__ = ("last", "ref", "subscriptions")

    def __init__(self, ref: TurnRef, last: int) -> None:
        self.ref = ref
        self.last = last
        self.subscriptions: set[Subscription] = set()


class TailHub:
    """Starts its threads with the first subscription: after gunicorn has forked."""

    def __init__(self, *, client: Redis, keys: Keys, reader: LogReader) -> None:
        self._client = client
        self._keys = keys
        self._reader = reader
        self._topics: dict[str, _Topic] = {}
        self._changed: set[str] = set()
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self.closed = False

    def follow(self, ref: TurnRef, *, after: int, idle_s: float) -> Iterator[list[Entry]]:
        """Entries after a seq, in batches, for ever; an empty batch after each `idle_s` seconds of silence.

        A batch whose first seq is not the next one means that the log was lost in part: the caller resets.
        Raises HubClosed and StoreError.
        """
        cursor = after
        with self._join(ref, cursor) as subscription:
            while True:
                page = self._reader.entries(ref, after=cursor, count=_PAGE)
                while page:
                    cursor = page[-1].seq
                    yield page
                    if self.closed:
                        raise HubClosed
                    # A page that is not full was the last one: what came since then is in the subscription.
                    page = self._reader.entries(ref, after=cursor, count=_PAGE) if len(page) == _PAGE else []
                while (batch := subscription.take(idle_s)) is not None:
                    fresh = [entry for entry in batch if entry.seq > cursor]
                    if fresh and fresh[0].seq != cursor + 1:
                        break
                    if fresh:
                        cursor = fresh[-1].seq
                    if fresh or not batch:
                        yield fresh

    def close(self) -> None:
        """End all tails."""
        self.closed = True
        self._wake.set()
        with self._lock:
            subscriptions = [s for topic in self._topics.values() for s in topic.subscriptions]
        for subscription in subscriptions:
            subscription.wake()

    def leave(self, subscription: Subscription) -> None:
        with self._lock:
            topic = self._topics.get(subscription.ref.member)
            if topic is not None:
                topic.subscriptions.discard(subscription)
                if not topic.subscriptions:
                    del self._topics[subscription.ref.member]

    def _join(self, ref: TurnRef, cursor: int) -> Subscription:
        """Join before reading the log: what comes in between is then in the buffer, or in the log, or in both."""
        if self.closed:
            raise HubClosed
        self._start()
        subscription = Subscription(hub=self, ref=ref)
        with self._lock:
            topic = self._topics.setdefault(ref.member, _Topic(ref, cursor))
            topic.subscriptions.add(subscription)
        return subscription

    def _start(self) -> None:
        with self._lock:
            if self._threads:
                return
            self._threads = [
                threading.Thread(target=self._listen, name="hub-listener", daemon=True),
                threading.Thread(target=self._read, name="hub-reader", daemon=True),
            ]
        for thread in self._threads:
            thread.start()

    def _listen(self) -> None:
        """Hear which logs grew."""
        while not self.closed:
            try:
                pubsub = self._client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
                pubsub.subscribe(*(self._keys.channel(shard) for shard in range(SHARDS)))
                while not self.closed:
                    message = pubsub.get_message(timeout=1)
                    if message is not None and (member := message["data"].decode()) in self._topics:
                        self._changed.add(member)
                        self._wake.set()
            except (RedisError, OSError) as error:
                logger.warning("tail notices wait for the store: %s", error)
                time.sleep(_SWEEP_S)

    def _read(self) -> None:
        next_sweep = time.monotonic() + _SWEEP_S
        while not self.closed:
            self._wake.wait(max(0.0, next_sweep - time.monotonic()))
            self._wake.clear()
            changed, self._changed = self._changed, set()
            if time.monotonic() >= next_sweep:
                changed = set(self._topics)
                next_sweep = time.monotonic() + _SWEEP_S
            try:
                self._deliver([topic for member in changed if (topic := self._topics.get(member)) is not None])
            except StoreError as error:
                logger.warning("tails wait for the store: %s", error)

    def _deliver(self, topics: list[_Topic]) -> None:
        for start in range(0, len(topics), _STREAMS_PER_READ):
            chunk = topics[start : start + _STREAMS_PER_READ]
            cursors = [(topic.ref, topic.last) for topic in chunk]
            pages = self._reader.entries_many(cursors, count=_ENTRIES_PER_STREAM)
            for topic, page in zip(chunk, pages, strict=True):
                self._hand_over(topic, page)

    def _hand_over(self, topic: _Topic, page: list[Entry]) -> None:
        if not page:
            return
        topic.last = page[-1].seq
        for subscription in list(topic.subscriptions):
            subscription.push(page)
        if len(page) == _ENTRIES_PER_STREAM:
            self._changed.add(topic.ref.member)
            self._wake.set()
