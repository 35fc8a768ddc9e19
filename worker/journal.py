"""The journal: turns hand it events, one greenlet writes them for all of them (group commit).

While a round trip is in flight the next batch gathers, so the first token leaves at once and batches grow with
load. Text deltas of one step that wait together become one event; an event that has been sent is frozen.
"""

import logging
import time
from collections.abc import Iterable

import gevent
import orjson
from gevent.event import Event as Signal

from shared.errors import LogError, StoreError, TailMismatch
from shared.events import Event, Json, StepProgress
from shared.fold import TurnState
from shared.ids import TurnRef
from shared.log.turn_log import Claim, TurnLog, Write, Written
from worker.interrupts import CancelAsked, Interrupts, LeaseLost
from worker.observer import Observer
from worker.outage import Outage
from worker.vital import spawn_vital

logger = logging.getLogger(__name__)

_RETRY_S = (0.05, 0.1, 0.2, 0.5, 1.0)


class TurnWriter:
    """One owned turn: its state, what is to be written, and where its log ends.

    `emit` never waits; `settle` waits until everything is in the store. Both raise LogError once the turn is lost;
    `interrupts` hears of that too, and of a cancel that a write's reply tells of.
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
        self._sent: Write | None = None
        self._lost: LogError | None = None
        self._idle = Signal()
        self._idle.set()

    def emit(self, event: Event) -> None:
        """Take the event into the state and have it written."""
        if self._lost is not None:
            raise self._lost
        # Here and not in the journal: what cannot be encoded must fail its own turn and no other.
        event.encode()
        self.state.apply(event)
        if self._pending and (merged := _merge(self._pending[-1], event)) is not None:
            self._pending[-1] = merged
        else:
            self._pending.append(event)
        self._idle.clear()
        self._journal.wake(self)

    def note(self, kind: str, payload: Json) -> None:
        """Take a private record into the state and have it written, with the events around it or before them."""
        if self._lost is not None:
            raise self._lost
        self._notes.append((kind, orjson.dumps(payload)))
        self.state.note(kind, payload)
        self._idle.clear()
        self._journal.wake(self)

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

    def begin(self) -> Write | None:
        """The next batch, or the one in doubt again. Called by the journal only."""
        if self._sent is None and (self._pending or self._notes):
            events, self._pending = self._pending, []
            notes, self._notes = self._notes, []
            self._sent = Write(
                ref=self.ref,
                token=self.token,
                last=self._last,
                private_last=self._private_last,
                events=events,
                private=notes,
            )
        return self._sent

    def landed(self, result: Written | LogError) -> None:
        """What the log said to the batch. Called by the journal only."""
        sent = self._sent
        if sent is None:
            return
        if isinstance(result, TailMismatch) and (result.last, result.private_last) == _end_of(sent):
            # The reply to an earlier try was lost; the batch is in the log.
            result = Written(result.last, result.private_last, False)
        if isinstance(result, LogError):
            self._lose(result)
        else:
            self._last, self._private_last, self._sent = result.last, result.private_last, None
            self._after(result)

    def _after(self, result: Written) -> None:
        if self._pending or self._notes:
            self._journal.wake(self)
        else:
            self._idle.set()
        if result.cancel:
            self._interrupts.ask(CancelAsked())

    def _lose(self, error: LogError) -> None:
        self._lost = error
        self._pending, self._notes, self._sent = [], [], None
        self._idle.set()
        # The turn may be waiting for a provider that says nothing.
        self._interrupts.ask(LeaseLost())


class Journal:
    """Writes the events of all turns of this process. `start` it once, `stop` it after the last turn."""

    def __init__(self, *, log: TurnLog, observer: Observer | None = None) -> None:
        self._log = log
        self._observer = observer or Observer()
        self._dirty: dict[TurnWriter, None] = {}
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

    def wake(self, writer: TurnWriter) -> None:
        """Have the writer's events written; soon, where the store has just refused some of them."""
        if writer not in self._refused:
            self._dirty[writer] = None
            self._wake.set()

    def _run(self) -> None:
        failures = 0
        while True:
            self._wake.wait()
            self._wake.clear()
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


def _merge(before: Event, event: Event) -> StepProgress | None:
    """One event for two text deltas of a step, or None."""
    if not isinstance(before, StepProgress) or not isinstance(event, StepProgress):
        return None
    if before.step_id != event.step_id or before.delta["type"] != "text" or event.delta["type"] != "text":
        return None
    text = before.delta["text"] + event.delta["text"]
    return StepProgress(step_type=event.step_type, step_id=event.step_id, delta={"type": "text", "text": text})
