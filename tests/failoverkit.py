"""What tests of a store that fails over share: a turn set back to what a replica knew, and readers on record."""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import orjson
from redis import Redis
from waiting import wait_for

from shared.cli.follow import Frame, frames
from shared.events import TERMINAL_EVENTS
from shared.ids import TurnRef
from shared.log.keys import Keys
from shared.log.reader import LogReader

DEADLINE_S = 60.0
T = TypeVar("T")


@dataclass
class Past:
    """A turn's keys, its session's and its shard's as they were: what a promoted replica knows of it."""

    client: Redis
    keys: Keys
    ref: TurnRef

    def __post_init__(self) -> None:
        turn, session, shard = (
            self.keys.turn(self.ref),
            self.keys.session(self.ref.session),
            self.keys.shard(self.ref.shard),
        )
        self._names = [turn.turn, turn.events, turn.private, session.session, session.queue, session.turns]
        self._names += [shard.due, shard.leases, shard.ended]
        self._dumps = cast(list[bytes | None], [self.client.dump(name) for name in self._names])

    def return_to(self) -> None:
        """All at once, as a promotion does it. Nobody is told."""
        pipe = self.client.pipeline(transaction=True)
        pipe.delete(*self._names)
        for name, dump in zip(self._names, self._dumps, strict=True):
            if dump is not None:
                pipe.restore(name, 0, cast(Any, dump))
        pipe.execute()


def lose(client: Redis, keys: Keys, ref: TurnRef) -> None:
    """The turn was accepted by a primary, and no replica knows of it."""
    turn = keys.turn(ref)
    client.delete(turn.turn, turn.events, turn.private, turn.blobs)


class InBackground(Generic[T]):
    """Something that waits, in a thread of its own."""

    def __init__(self, wait: Callable[[], T]) -> None:
        self._results: list[T] = []
        self._failures: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, args=(wait,), daemon=True)
        self._thread.start()

    def _run(self, wait: Callable[[], T]) -> None:
        try:
            self._results.append(wait())
        except BaseException as error:  # told to the test, which fails with it
            self._failures.append(error)

    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def result(self) -> T:
        self._thread.join(DEADLINE_S)
        assert self.is_over(), "it still waits"
        if self._failures:
            raise self._failures[0]
        return self._results[0]


class Reader:
    """A client that reads a stream of events in a thread of its own, until the stream ends."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = pieces
        self.seen: list[Frame] = []
        self._reading = InBackground(self._read)

    def _read(self) -> None:
        for frame in frames(self._pieces):
            self.seen.append(frame)

    @property
    def ids(self) -> list[str]:
        return [frame.id for frame in self.seen]

    @property
    def types(self) -> list[str]:
        return [frame.type for frame in self.seen]

    def wait_for(self, what: str, condition: Callable[["Reader"], bool]) -> None:
        wait_for(lambda: condition(self) or self._reading.is_over(), what, seconds=DEADLINE_S)
        assert condition(self), f"{what}: the stream has ended with {self.seen[-1:]}"

    def wait_for_last(self, entry_id: str) -> None:
        """Until this is the last event that the client has."""
        self.wait_for(f"the reader is at {entry_id}", lambda me: bool(me.seen) and me.seen[-1].id == entry_id)

    def ended(self) -> list[Frame]:
        """All that was read, once the stream has ended."""
        self._reading.result()
        return self.seen


def assert_tells(seen: list[Frame], reader: LogReader, ref: TurnRef) -> None:
    """Whoever applies the resets among `seen` has the log's own story: each event once, in order, to its end."""
    log = [entry.id for entry in reader.all_entries(ref)]
    resets = [index for index, frame in enumerate(seen) if frame.type == "reset"]
    start = 0
    if resets:
        reset = seen[resets[-1]]
        assert reset.id in log, f"{reset.id} is not in {log}"
        start = log.index(reset.id) + 1
        assert reset.payload["turn"] == reader.state(ref, upto=start).as_turn()
        seen = seen[resets[-1] + 1 :]
    assert [frame.id for frame in seen] == log[start:]
    assert seen[-1].type in TERMINAL_EVENTS
    assert seen[-1].payload["turn"] == orjson.loads(reader.row(ref).snapshot)  # type: ignore[union-attr, arg-type]
