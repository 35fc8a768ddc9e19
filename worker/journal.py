"""The journal: turns hand it events, one greenlet writes them for all of them (group commit).

While a round trip is in flight the next batch gathers, so the first token leaves at once and batches grow with
load. Text that goes on waits a little for that of other turns: what a round trip, a notice and a wake-up cost is then
shared. So does the start of a reply, for its first token. Text deltas of one step that wait together become one event;
an event that has been sent is frozen.

What landed is kept for a while. Where a log ends before the place that its writer knows (the store has failed over to a
replica that lagged), the batches behind its end are sent again: each is a whole script, so what survives ends with one,
and under the same claim they get the same ids.
"""

import logging
import time
from collections import deque
from collections.abc import Iterable

import gevent
import orjson
from gevent.event import Event as Signal

from shared.errors import LogError, StoreError, TailMismatch, Unwritable
from shared.events import Event, Json, StepProgress, StepStart
from shared.fold import TurnState
from shared.ids import TurnRef
from shared.log.turn_log import Claim, TurnLog, Write, Written
from worker.interrupts import CancelAsked, Interrupts, LeaseLost
from worker.kept import Batch, Kept
from worker.observer import Observer
from worker.outage import Outage
from worker.refusals import Refusals
from worker.vital import spawn_vital

logger = logging.getLogger(__name__)

_RETRY_S = (0.05, 0.1, 0.2, 0.5, 1.0)
_PACE_S = 0.005
"""How long waits what can wait. Nobody reads so fast that they would see it."""
_OBJECT_BYTES = 330
"""What an event takes in memory beside its JSON, and a batch: a token by itself is 770 bytes, as measured."""
_TEXT_BYTES = _OBJECT_BYTES + 108
"""The same for a piece of text, with the JSON around it: not to be encoded twice."""


class TurnWriter:
    """One owned turn: its state, what is to be written, and where its log ends.

    `emit` never waits; `settle` waits until everything is in the store. Both raise LogError once the turn is lost;
    `interrupts` hears of that too, and of a cancel that a write's reply tells of. `close` it when the turn
    has been left.
    """

    def __init__(self, *, claim: Claim, state: TurnState, interrupts: Interrupts, journal: "Journal") -> None:
        self.ref: TurnRef = claim.ref
        self.token = claim.token
        self.state = state
        self._interrupts = interrupts
        self._journal = journal
        self._last = claim.last
        self._private_last = claim.private_last
        self._pending: list[Event] = []
        self._notes: list[tuple[str, bytes]] = []
        self._size = 0
        self._at_once = False
        """Whether there is something that does not wait for that of other turns."""
        self._frozen: deque[Batch] = deque()
        self._refusals = Refusals()
        self._lost: LogError | None = None
        self._idle = Signal()
        self._idle.set()

    def emit(self, event: Event) -> None:
        """Take the event into the state and have it written."""
        if self._lost is not None:
            raise self._lost
        self._size += _size_of(event)
        if not self._can_wait(event):
            self._at_once = True
        self.state.apply(event)
        if self._pending and (merged := _merge(self._pending[-1], event)) is not None:
            self._pending[-1] = merged
        else:
            self._pending.append(event)
        self._wake()

    def _wake(self) -> None:
        self._idle.clear()
        self._journal.wake(self, at_once=self._at_once)

    def _can_wait(self, event: Event) -> bool:
        """Whether it is text that goes on, or the start of a reply. The first token is neither."""
        if _is_text(event):
            return self.state.open_step is not None and bool(self.state.open_step.text)
        return isinstance(event, StepStart) and event.step_type == "inference"

    def note(self, kind: str, payload: Json) -> None:
        """Take a private record into the state and have it written, with the events around it or before them."""
        if self._lost is not None:
            raise self._lost
        record = orjson.dumps(payload)
        self._size += len(record) + _OBJECT_BYTES
        self._notes.append((kind, record))
        self.state.note(kind, payload)
        self._at_once = True
        self._wake()

    @property
    def unwritable(self) -> Unwritable | None:
        """Why the turn was lost, where it is because the store never takes what it has to write."""
        return self._lost if isinstance(self._lost, Unwritable) else None

    def settle(self) -> None:
        """Wait until all that was emitted is in the store."""
        self._idle.wait()
        if self._lost is not None:
            raise self._lost

    def last_write(self, *events: Event) -> Write:
        """`events` for the caller to write with finish or pause, once all before them is in the store.

        They are not taken into the state: the script may refuse them.
        """
        self.settle()
        return Write(ref=self.ref, token=self.token, last=self._last, private_last=self._private_last, events=events)

    def restore(self, short: TailMismatch) -> None:
        """Have what the store has lost written again; to be called where a `last_write` was refused.

        Raises `short` where that is not kept any more: the turn is lost.
        """
        if not self._again(short):
            self._lose(short)
            raise short
        self._idle.clear()
        self._journal.wake(self)

    def close(self) -> None:
        """Nothing of this turn needs to be kept any more."""
        self._journal.kept.drop(self.token)

    def begin(self) -> Write | None:
        """The next batch, or the one in doubt again. Called by the journal only."""
        if not self._frozen and (self._pending or self._notes):
            self._frozen.append(self._freeze())
        return self._frozen[0].write if self._frozen else None

    def landed(self, result: Written | LogError) -> None:
        """What the log said to the batch. Called by the journal only."""
        if not self._frozen:
            return
        sent = self._frozen[0]
        if isinstance(result, TailMismatch) and (result.last, result.private_last) == _end_of(sent.write):
            # The reply to an earlier try was lost; the batch is in the log.
            result = Written(result.last, result.private_last, False)
        if isinstance(result, TailMismatch) and self._again(result):
            self._journal.wake(self)
        elif isinstance(result, LogError):
            self._lose(result)
        else:
            self._refusals.clear()
            self._journal.kept.add(self._frozen.popleft())
            self._last, self._private_last = result.last, result.private_last
            self._after(result)

    def refused(self, error: StoreError) -> None:
        """The store answered, and took nothing. Called by the journal only."""
        try:
            self._refusals.add(error)
        except Unwritable as never:
            self._lose(never)

    def _freeze(self) -> Batch:
        write = Write(
            ref=self.ref,
            token=self.token,
            last=self._last,
            private_last=self._private_last,
            events=self._pending,
            private=self._notes,
        )
        batch = Batch(write, self._size + _OBJECT_BYTES)
        self._pending, self._notes, self._size, self._at_once = [], [], 0, False
        return batch

    def _again(self, short: TailMismatch) -> bool:
        """Put what the store has lost in front of what is to be sent; whether it was still there."""
        lost = self._journal.kept.take_after(self.token, short.last, short.private_last)
        if lost:
            logger.warning("the store has lost %d batches of turn %s: they are sent again", len(lost), self.ref.turn_id)
        self._frozen.extendleft(reversed(lost))
        return bool(lost)

    def _after(self, result: Written) -> None:
        if self._frozen or self._pending or self._notes:
            self._journal.wake(self, at_once=bool(self._frozen) or self._at_once)
        else:
            self._idle.set()
        if result.cancel:
            self._interrupts.ask(CancelAsked())

    def _lose(self, error: LogError) -> None:
        self._lost = error
        self._pending, self._notes = [], []
        self._frozen.clear()
        self.close()
        self._idle.set()
        # The turn may be waiting for a provider that says nothing.
        self._interrupts.ask(LeaseLost())


class Journal:
    """Writes the events of all turns of this process. `start` it once, `stop` it after the last turn."""

    def __init__(self, *, log: TurnLog, observer: Observer | None = None, kept: Kept | None = None) -> None:
        self.kept = kept or Kept()
        self._log = log
        self._observer = observer or Observer()
        self._dirty: dict[TurnWriter, None] = {}
        self._at_once = Signal()
        self._refused: set[TurnWriter] = set()
        self._outage = Outage("events wait")
        self._wake = Signal()
        self._greenlet: gevent.Greenlet | None = None

    def start(self) -> None:
        self._greenlet = spawn_vital("journal", self._run)

    def stop(self) -> None:
        if self._greenlet is not None:
            self._greenlet.kill()

    def open(self, claim: Claim, state: TurnState, interrupts: Interrupts) -> TurnWriter:
        """A writer for a turn that this process has claimed."""
        return TurnWriter(claim=claim, state=state, interrupts=interrupts, journal=self)

    def wake(self, writer: TurnWriter, *, at_once: bool = True) -> None:
        """Have the writer's events written; soon, where the store has just refused some of them."""
        if writer not in self._refused:
            self._dirty[writer] = None
            self._wake.set()
            if at_once:
                self._at_once.set()

    def _run(self) -> None:
        failures = 0
        while True:
            self._wake.wait()
            self._at_once.wait(_PACE_S)
            self._wake.clear()
            self._at_once.clear()
            failures = 0 if self._flush() else failures + 1
            if failures:
                gevent.sleep(_RETRY_S[min(failures, len(_RETRY_S)) - 1])

    def _flush(self) -> bool:
        """Write one batch for each turn that has something. False where the store could not be reached."""
        writers, self._dirty = list(self._dirty), {}
        batches = {writer: write for writer in writers if (write := writer.begin()) is not None}
        if not batches:
            return True
        begun = time.monotonic()
        try:
            results = self._log.append_many(list(batches.values()))
        except StoreError as error:
            self._outage.failed(error)
            for writer in batches:
                self.wake(writer)
            return False
        self._outage.passed()
        self._observer.flushed(
            turns=len(batches),
            events=sum(len(write.events) for write in batches.values()),
            seconds=time.monotonic() - begun,
        )
        refused = {}
        for writer, result in zip(batches, results, strict=True):
            if isinstance(result, StoreError):
                refused[writer] = result
                writer.refused(result)
            else:
                writer.landed(result)
        if refused:
            self._try_later(refused)
        return True

    def _try_later(self, refused: dict[TurnWriter, StoreError]) -> None:
        """What the store refuses of some turns must not slow down the others."""
        logger.warning("the events of %d turns wait: %s", len(refused), next(iter(refused.values())))
        self._refused.update(refused)
        gevent.spawn_later(_RETRY_S[-1], self._again, refused)

    def _again(self, writers: Iterable[TurnWriter]) -> None:
        self._refused.difference_update(writers)
        for writer in writers:
            self.wake(writer)


def _end_of(write: Write) -> tuple[int, int]:
    """Where the log ends once a batch is in it."""
    return write.last + len(write.events), write.private_last + len(write.private)


def _size_of(event: Event) -> int:
    """What it takes in memory. Raises TypeError for what cannot be encoded: here it fails its own turn, and not the
    journal later on."""
    if isinstance(event, StepProgress) and event.delta["type"] == "text":
        return len(orjson.dumps(event.delta["text"])) + _TEXT_BYTES
    return len(event.encode()) + _OBJECT_BYTES


def _is_text(event: Event) -> bool:
    return isinstance(event, StepProgress) and event.delta["type"] == "text"


def _merge(before: Event, event: Event) -> StepProgress | None:
    """One event for two text deltas of a step, or None."""
    if not isinstance(before, StepProgress) or not isinstance(event, StepProgress):
        return None
    if before.step_id != event.step_id or not _is_text(before) or not _is_text(event):
        return None
    text = before.delta["text"] + event.delta["text"]
    return StepProgress(step_type=event.step_type, step_id=event.step_id, delta={"type": "text", "text": text})
