"""The tail hub: one reader of the store for all clients of this process.

Scripts publish which turns' logs grew, mostly with the events themselves: where those go on from what was handed out,
they are handed on as they are. What does not fit is read from the logs, all changed ones in one round trip. Once a
second the hub looks at all followed turns of which it has heard nothing, so that a lost notice costs a second and
nothing else. Every few seconds it sees whether the logs still hold what was read of them: a failover of the store may
have lost their ends.

Written on `threading`, which gevent makes greenlets of in the server.
"""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from redis import Redis
from redis.client import PubSub
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from api.streams.cursor import Cursor
from api.streams.story import goes_on, may_come_back, read_from
from shared.errors import StoreError
from shared.events import Entry
from shared.ids import SHARDS, TurnRef
from shared.log.blobs import BlobGone
from shared.log.keys import Keys
from shared.log.notices import Notice, parse
from shared.log.reader import LogReader

logger = logging.getLogger(__name__)

_SWEEP_S = 1.0
_TIMER_S = 5.0
"""Waits that are shorter have a timer of their own."""
_CHECK_S = 3.0
_PATIENCE = 2
"""So many checks an id may be missing where its writer may write it again: it finds the store within some seconds."""
_STREAMS_PER_READ = 100
_ENTRIES_PER_STREAM = 500
_BUFFER_ENTRIES = 1000
"""Per client. One that is slower is not buffered for: it reads the log itself when it comes back."""
_PAGE = 500
_FIRST_PAGE = 64
"""Most tails begin with a turn that has hardly begun."""


class HubClosed(Exception):
    """The server is shutting down; a client reconnects and goes on from its cursor."""


class Subscription:
    """One client's view of one turn. Use as a context manager."""

    def __init__(self, *, hub: "TailHub", ref: TurnRef, position: Cursor) -> None:
        self._hub = hub
        self.ref = ref
        self.position = position
        """Behind the last event that the client was handed."""
        self._end: Cursor | None = None
        """Behind the last event that waits for it; None while it reads the log itself."""
        self._entries: deque[Entry] = deque()
        self._overrun = False
        self._wake_at = math.inf
        self._signal = threading.Event()

    def __enter__(self) -> "Subscription":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hub.leave(self)

    def push(self, entries: list[Entry], after: Cursor | None) -> None:
        """Hand over new entries; `after` is known to come right before them.

        Never waits: what is past the bound, or may be of another story than the client was told, it reads itself.
        """
        if self._overrun:
            return
        if self._end is not None and self._end != after:
            # Where another claim has written, the log itself is asked, once, whether it goes on from here.
            entries = self._new(entries, self._end)
        if len(self._entries) + len(entries) > _BUFFER_ENTRIES:
            self.look_again()
        elif entries and not self._overrun:
            self._entries.extend(entries)
            if self._end is not None:
                self._end = Cursor.at(entries[-1])
            self._signal.set()

    def _new(self, entries: list[Entry], end: Cursor) -> list[Entry]:
        if goes_on(end, entries):
            return [entry for entry in entries if entry.seq > end.seq]
        self.look_again()
        return []

    def caught_up(self, position: Cursor) -> None:
        """The client has read the log itself, up to there. What came meanwhile may be more, or the same."""
        early, self._entries = list(self._entries), deque()
        self.position = self._end = position
        if not self._overrun:
            self._signal.clear()
            self.push(early, None)

    def look_again(self) -> None:
        """Have the client read the log itself, and so see whether it still tells the same story."""
        self._entries.clear()
        self._overrun = True
        self._signal.set()

    def wake(self) -> None:
        self._signal.set()

    def wake_if_due(self, now: float) -> None:
        """Called once a second."""
        if now >= self._wake_at:
            self._signal.set()

    def take(self, timeout: float) -> list[Entry] | None:
        """New entries, [] after `timeout` seconds without any, None if the log is to be read instead.

        Raises HubClosed.
        """
        if not self._hub.closed:  # a client that catches up forgets earlier signals, also that of the end
            self._wait(timeout)
        self._signal.clear()
        if self._hub.closed:
            raise HubClosed
        if self._overrun:
            self._overrun, self._end = False, None
            return None
        taken = list(self._entries)
        self._entries.clear()
        if taken:
            self.position = Cursor.at(taken[-1])
        return taken

    def _wait(self, timeout: float) -> None:
        """Long waits end with a sweep of the hub: a timer for each event is a tenth of what handing it on costs."""
        if timeout < _TIMER_S:
            self._signal.wait(timeout)
        else:
            self._wake_at = time.monotonic() + timeout
            self._signal.wait()
            self._wake_at = math.inf


class _Topic:
    """A followed turn: how far the hub has handed it out, whether it did since the last sweep, who follows, and for how
    many checks an id has been missing."""

    __slots__ = ("is_fresh", "last", "misses", "ref", "subscriptions")

    def __init__(self, ref: TurnRef, last: Cursor) -> None:
        self.ref = ref
        self.last = last
        self.is_fresh = False
        self.misses = 0
        self.subscriptions: set[Subscription] = set()

    def hand_over(self, entries: list[Entry], after: Cursor | None = None) -> None:
        """Give entries to all followers; `after` is known to come right before them."""
        self.last = Cursor.at(entries[-1])
        self.is_fresh = True
        for subscription in list(self.subscriptions):
            subscription.push(entries, after)

    def has(self, entry: Entry) -> bool:
        """Whether it was handed out: read from the log before its notice came."""
        return entry.seq <= self.last.seq and entry.epoch <= (self.last.epoch or 0)

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
        """`client` is for notices alone, over RESP2: of RESP3's, redis-py makes each into a text for its log."""
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
                full, count = True, _FIRST_PAGE
                while full:
                    page = read_from(self._reader, ref, cursor, count=count)
                    # A page that is not full was the last one: what came since then is in the subscription.
                    full, count = len(page) == count, _PAGE
                    fresh = page if cursor.seq == 0 else page[1:]
                    cursor = subscription.position = Cursor.at(page[-1])
                    if fresh:
                        yield fresh
                    if self.closed:
                        raise HubClosed
                self._caught_up(subscription)
                while (batch := subscription.take(idle_s)) is not None:
                    yield batch
                cursor = subscription.position

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

    def _caught_up(self, subscription: Subscription) -> None:
        """The hub need not read what the only follower of a turn has read."""
        subscription.caught_up(subscription.position)
        topic = self._topics[subscription.ref.member]
        if len(topic.subscriptions) == 1 and subscription.position.seq > topic.last.seq:
            topic.last = subscription.position

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
                with self._client.pubsub() as pubsub:  # type: ignore[no-untyped-call]
                    pubsub.subscribe(*(self._keys.channel(shard) for shard in range(SHARDS)))
                    while not self.closed:
                        self._hear_next(pubsub)
            except (RedisError, OSError) as error:
                logger.warning("tail notices wait for the store: %s", error)
                time.sleep(_SWEEP_S)

    def _hear_next(self, pubsub: PubSub) -> None:
        try:
            # Off the connection: `get_message` first asks twice whether there is something to read, which under gevent
            # costs as much as all the rest.
            connection: Any = pubsub.connection
            message = connection.read_response(disconnect_on_error=False, push_request=True, timeout=1)
        except RedisTimeoutError:
            pubsub.check_health()  # a ping, every now and then
            return
        if isinstance(message, list) and message[0] == b"message":
            self._hear(parse(message[2]))

    def _hear(self, notice: Notice) -> None:
        topic = self._topics.get(notice.member)
        if topic is None:
            return
        if not notice.entries:
            self._look_at(topic)
        elif topic.last.epoch is not None and notice.after == topic.last.id:
            topic.hand_over(notice.entries, topic.last)
        elif not topic.has(notice.entries[-1]):
            self._look_at(topic)

    def _look_at(self, topic: _Topic) -> None:
        self._changed.add(topic.ref.member)
        self._wake.set()

    def _read(self) -> None:
        next_sweep = next_check = time.monotonic()
        while not self.closed:
            self._wake.wait(max(0.0, next_sweep - time.monotonic()))
            self._wake.clear()
            changed, self._changed = self._changed, set()
            now = time.monotonic()
            if now >= next_sweep:
                changed |= self._not_heard_of()
                self._wake_those_due()
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

    def _not_heard_of(self) -> set[str]:
        """The followed turns that nothing was handed out of since the last sweep."""
        quiet = set()
        for member, topic in list(self._topics.items()):
            if not topic.is_fresh:
                quiet.add(member)
            topic.is_fresh = False
        return quiet

    def _wake_those_due(self) -> None:
        now = time.monotonic()
        for topic in list(self._topics.values()):
            for subscription in list(topic.subscriptions):
                subscription.wake_if_due(now)

    def _deliver(self, topics: list[_Topic]) -> None:
        asked = [topic.last for topic in topics]
        try:
            pages = self._reader.entries_many(
                [(topic.ref, last.seq) for topic, last in zip(topics, asked, strict=True)], count=_ENTRIES_PER_STREAM
            )
        except BlobGone:
            # A sweep is at one of them. Which one, its followers find out by themselves; the others read on.
            for topic in topics:
                topic.look_again()
            return
        for topic, last, page in zip(topics, asked, pages, strict=True):
            if page and topic.last == last:
                topic.hand_over(page)
            # Full, or a notice has brought something meanwhile: what goes on from there is read again.
            if page and (len(page) == _ENTRIES_PER_STREAM or page[-1].seq > topic.last.seq):
                self._look_at(topic)

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
