"""The tail hub: one reader of the store for all clients of this process.

Workers publish which turns' logs grew; the hub reads just those, in one round trip, and hands the entries to
whoever follows. While it reads, the next changes gather: it coalesces when it is behind, and an idle hub delivers at
once. Once a second it looks at all followed turns, so that a lost notice costs a second and nothing else. Every few
seconds it sees whether the logs still hold what was read of them: a failover of the store may have lost their ends.

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

from api.streams.cursor import Cursor
from api.streams.story import goes_on, may_come_back, read_from
from shared.errors import StoreError
from shared.events import Entry
from shared.ids import SHARDS, TurnRef
from shared.log.blobs import BlobGone
from shared.log.keys import Keys
from shared.log.reader import LogReader

logger = logging.getLogger(__name__)

_SWEEP_S = 1.0
_CHECK_S = 3.0
_PATIENCE = 2
"""So many checks an id may be missing where its writer may write it again: it finds the store within some seconds."""
_STREAMS_PER_READ = 500
_ENTRIES_PER_STREAM = 500
_BUFFER_ENTRIES = 1000
"""Per client. One that is slower is not buffered for: it reads the log itself when it comes back."""
_PAGE = 500


class HubClosed(Exception):
    """The server is shutting down; a client reconnects and goes on from its cursor."""


class Subscription:
    """One client's view of one turn. Use as a context manager."""

    def __init__(self, *, hub: "TailHub", ref: TurnRef, position: Cursor) -> None:
        self._hub = hub
        self.ref = ref
        self.position = position
        """Behind the last event that the client was handed."""
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
            self.look_again()
        elif not self._overrun:
            self._entries.extend(entries)
        self._signal.set()

    def look_again(self) -> None:
        """Have the client read the log itself, and so see whether it still tells the same story."""
        self._entries.clear()
        self._overrun = True
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
    """A followed turn: how far the hub has read it, who follows, and for how many checks an id has been missing."""

    __slots__ = ("last", "misses", "ref", "subscriptions")

    def __init__(self, ref: TurnRef, last: Cursor) -> None:
        self.ref = ref
        self.last = last
        self.misses = 0
        self.subscriptions: set[Subscription] = set()

    def positions(self) -> set[Cursor]:
        """What the log must hold: mostly one id, that of its last event."""
        found = {self.last, *(subscription.position for subscription in list(self.subscriptions))}
        return {position for position in found if position.epoch is not None}

    def look_again(self) -> None:
        for subscription in list(self.subscriptions):
            subscription.look_again()


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

    def follow(self, ref: TurnRef, *, after: Cursor, idle_s: float) -> Iterator[list[Entry]]:
        """Entries after a cursor, in batches, for ever; an empty batch after each `idle_s` seconds of silence.

        Raises StoryLost as soon as the log is known not to hold the last one handed out (or the cursor's own),
        HubClosed and StoreError.
        """
        with self._join(ref, after) as subscription:
            cursor = after
            while True:
                full = True
                while full:
                    page = read_from(self._reader, ref, cursor, count=_PAGE)
                    # A page that is not full was the last one: what came since then is in the subscription.
                    full = len(page) == _PAGE
                    fresh = page if cursor.seq == 0 else page[1:]
                    cursor = subscription.position = Cursor.at(page[-1])
                    if fresh:
                        yield fresh
                    if self.closed:
                        raise HubClosed
                # Where another claim has written, the log itself is asked, once, whether it goes on from here.
                while (batch := subscription.take(idle_s)) is not None and goes_on(cursor, batch):
                    fresh = [entry for entry in batch if entry.seq > cursor.seq]
                    if fresh:
                        cursor = subscription.position = Cursor.at(fresh[-1])
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

    def _join(self, ref: TurnRef, cursor: Cursor) -> Subscription:
        """Join before reading the log: what comes in between is then in the buffer, or in the log, or in both."""
        if self.closed:
            raise HubClosed
        self._start()
        subscription = Subscription(hub=self, ref=ref, position=cursor)
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
        next_sweep = next_check = time.monotonic()
        while not self.closed:
            self._wake.wait(max(0.0, next_sweep - time.monotonic()))
            self._wake.clear()
            changed, self._changed = self._changed, set()
            now = time.monotonic()
            if now >= next_sweep:
                changed = set(self._topics)
                next_sweep = now + _SWEEP_S
            try:
                for topics in _chunks([topic for member in changed if (topic := self._topics.get(member)) is not None]):
                    self._deliver(topics)
                if now >= next_check:
                    next_check = now + _CHECK_S
                    for topics in _chunks(list(self._topics.values())):
                        self._check(topics)
            except StoreError as error:
                logger.warning("tails wait for the store: %s", error)

    def _deliver(self, topics: list[_Topic]) -> None:
        cursors = [(topic.ref, topic.last.seq) for topic in topics]
        try:
            pages = self._reader.entries_many(cursors, count=_ENTRIES_PER_STREAM)
        except BlobGone:
            # A sweep is at one of them. Which one, its followers find out by themselves; the others read on.
            for topic in topics:
                topic.look_again()
            return
        for topic, page in zip(topics, pages, strict=True):
            self._hand_over(topic, page)

    def _hand_over(self, topic: _Topic, page: list[Entry]) -> None:
        if not page:
            return
        topic.last = Cursor.at(page[-1])
        for subscription in list(topic.subscriptions):
            subscription.push(page)
        if len(page) == _ENTRIES_PER_STREAM:
            self._changed.add(topic.ref.member)
            self._wake.set()

    def _check(self, topics: list[_Topic]) -> None:
        """See that the logs hold what was read of them: one small range per turn, all in one round trip."""
        asked = [(topic, position) for topic in topics for position in topic.positions()]
        held = self._reader.holds([(topic.ref, position.id) for topic, position in asked])
        missing: dict[_Topic, list[Cursor]] = {topic: [] for topic in topics}
        for (topic, position), is_held in zip(asked, held, strict=True):
            if not is_held:
                missing[topic].append(position)
        lossy = [topic for topic in topics if missing[topic]]
        for topic in set(topics).difference(lossy):
            topic.misses = 0
        ends = [Cursor.parse(last_id) for last_id in self._reader.last_ids([topic.ref for topic in lossy])]
        lost = [topic for topic, end in zip(lossy, ends, strict=True) if self._is_lost(topic, missing[topic], end)]
        for topic in lost:
            topic.look_again()
        if lost:
            logger.warning(
                "the store has lost events that were read: of %d turns, such as %s", len(lost), lost[0].ref.turn_id
            )

    def _is_lost(self, topic: _Topic, missing: list[Cursor], end: Cursor) -> bool:
        """Read on from the log's real end. True once what is missing cannot come back, or has not in a while."""
        if topic.last in missing:
            topic.last = end
        topic.misses += 1
        if topic.misses <= _PATIENCE and all(may_come_back(position, end) for position in missing):
            return False
        topic.misses = 0
        return True


def _chunks(topics: list[_Topic]) -> Iterator[list[_Topic]]:
    return (topics[start : start + _STREAMS_PER_READ] for start in range(0, len(topics), _STREAMS_PER_READ))
