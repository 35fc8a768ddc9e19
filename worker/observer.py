"""What a worker process tells those who watch it: logs and metrics. The turn loop knows this interface only."""

from collections.abc import Sequence

from shared.errors import ProviderError
from shared.fold import TurnState
from shared.log.turn_log import Claim


class Observer:
    """Hears what happens in a worker process; this one does nothing about it.

    An insert job is told of like a turn: its id says what it is.

    Called on the way: every method returns at once, waits for nobody and raises nothing.
    """

    def claimed(self, claim: Claim, turn: TurnState) -> None:
        """A turn was taken up here. What follows in the same greenlet, up to `left`, belongs to it."""

    def left(self, claim: Claim) -> None:
        """The turn that was taken up has ended, rests, or is somebody else's."""

    def ended(self, turn: TurnState) -> None:
        """A turn has ended, and this process wrote its snapshot. Said once for each turn, by whichever worker."""

    def flushed(self, *, turns: int, events: int, seconds: float) -> None:
        """The journal wrote a batch for so many turns in one round trip."""

    def replied(self, provider_id: str, *, first_s: float | None, deltas: int) -> None:
        """A model's reply is over, or was left: its first piece came after `first_s` seconds, None if none came."""

    def tool_called(self, provider_id: str, *, outcome: str, seconds: float) -> None:
        """A server tool was called: `done`, `error` (as the tool says) or `failed` (it could not be called)."""

    def inserted(self, *, documents: int, chunks: int, failures: Sequence[str], seconds: float) -> None:
        """A batch of an insert job is done with: so many documents went in, as so many chunks, and others could not be
        read, for these codes."""

    def provider_failed(self, api: str, error: ProviderError) -> None:
        """A provider instance failed, whatever becomes of it: another one may yet answer."""


class Observers(Observer):
    """Tells several."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = observers

    def claimed(self, claim: Claim, turn: TurnState) -> None:
        for observer in self._observers:
            observer.claimed(claim, turn)

    def left(self, claim: Claim) -> None:
        for observer in self._observers:
            observer.left(claim)

    def ended(self, turn: TurnState) -> None:
        for observer in self._observers:
            observer.ended(turn)

    def flushed(self, *, turns: int, events: int, seconds: float) -> None:
        for observer in self._observers:
            observer.flushed(turns=turns, events=events, seconds=seconds)

    def replied(self, provider_id: str, *, first_s: float | None, deltas: int) -> None:
        for observer in self._observers:
            observer.replied(provider_id, first_s=first_s, deltas=deltas)

    def tool_called(self, provider_id: str, *, outcome: str, seconds: float) -> None:
        for observer in self._observers:
            observer.tool_called(provider_id, outcome=outcome, seconds=seconds)

    def inserted(self, *, documents: int, chunks: int, failures: Sequence[str], seconds: float) -> None:
        for observer in self._observers:
            observer.inserted(documents=documents, chunks=chunks, failures=failures, seconds=seconds)

    def provider_failed(self, api: str, error: ProviderError) -> None:
        for observer in self._observers:
            observer.provider_failed(api, error)
