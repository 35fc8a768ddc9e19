"""Watches a turn, or an insert job, to its end in a terminal that its user may leave at any time."""

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from queue import Empty, SimpleQueue
from types import FrameType

from shared.cli.client import ApiClient
from shared.cli.exits import AWAITING, FAILED, INTERRUPTED, OK
from shared.cli.follow import Back, Frame, Lost, follow
from shared.cli.terminal import YELLOW, Terminal
from shared.cli.transcript import View
from shared.cli.turnpath import JobPath, TurnPath
from shared.errors import ApiError
from shared.events import TERMINAL_EVENTS
from shared.status import TurnStatus

TICK_S = 0.1
_EXITS = {TurnStatus.COMPLETED: OK, TurnStatus.AWAITING_INPUT: AWAITING}


@dataclass(frozen=True, slots=True)
class _Failed:
    """The following has ended with an error."""

    error: ApiError


class _Sign(Enum):
    END = auto()
    """There are no more events."""

    INTERRUPT = auto()
    """Ctrl-C."""


_Item = Frame | Lost | Back | _Failed | _Sign


class Choice(Enum):
    """What to do about a turn after Ctrl-C."""

    DETACH = "d"
    CANCEL = "c"
    KEEP = "k"


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """One turn, or insert job, to watch.

    `after` is the id of the last event that its user has, `known` says that the API was reached already,
    `ends_at_input` that the turn is left where it waits for its client. `url` is the address to repeat in the
    commands shown, where one was given by flag.
    """

    turn: TurnPath | JobPath
    after: str | None = None
    known: bool = False
    ends_at_input: bool = False
    url: str | None = None


def watch(api: ApiClient, terminal: Terminal, view: View, watched: Watch) -> int:
    """Show the turn's events until it ends or its user leaves; the exit code."""
    return _Watching(api, terminal, view, watched).run()


class _Watching:
    """One queue for everything that happens: events from a thread, Ctrl-C from the signal handler."""

    def __init__(self, api: ApiClient, terminal: Terminal, view: View, watched: Watch) -> None:
        self._api, self._terminal, self._view, self._watched = api, terminal, view, watched
        self._items: SimpleQueue[_Item] = SimpleQueue()  # its put may interrupt its get, as a signal handler does
        self._since = time.monotonic()
        self._lost_since: float | None = None
        self._what = "job" if isinstance(watched.turn, JobPath) else "turn"

    def run(self) -> int:
        threading.Thread(target=self._follow, daemon=True).start()
        with self._interrupts():
            while True:
                code = self._take()
                if code is not None:
                    return code

    def _follow(self) -> None:
        watched = self._watched
        try:
            for item in follow(self._api, watched.turn.path, after=watched.after, known=watched.known):
                self._items.put(item)
            self._items.put(_Sign.END)
        except ApiError as error:
            self._items.put(_Failed(error))

    def _take(self) -> int | None:
        """Do what the next item asks for; the exit code where it is the last."""
        try:
            item = self._items.get(timeout=TICK_S)
        except Empty:
            self._spin()
            return None
        match item:
            case Frame():
                return self._show(item)
            case Lost():
                self._lost_since = self._lost_since or time.monotonic()
            case Back():
                self._lost_since = None
            case _Failed(error):
                self._terminal.end_line()
                if self._watched.known:
                    self._tell_how_to_tail(f"The {self._what} itself goes on. To follow it again:")
                raise error
            case _Sign.INTERRUPT:
                return self._interrupted()
            case _Sign.END:
                return self._ended()
        return None

    def _spin(self) -> None:
        label, since = self._view.waiting_for, self._since
        if self._lost_since is not None:
            label, since = "connection lost, trying again", self._lost_since
        self._terminal.spin(label, time.monotonic() - since)

    def _show(self, frame: Frame) -> int | None:
        before = self._view.waiting_for
        self._view.show(frame)
        if self._view.waiting_for != before:
            self._since = time.monotonic()
        if frame.type in TERMINAL_EVENTS:
            self._terminal.end_line()
            return OK if frame.type == "turn_complete" else FAILED
        if frame.type == "turn_awaiting_input" and self._watched.ends_at_input:
            self._tell_how_to_tail("It goes on when POST …/resume has brought the answers. To follow it then:")
            return AWAITING
        return None

    def _ended(self) -> int:
        """The reader had everything before it began: the turn itself says how it ended."""
        self._terminal.end_line()
        status = TurnStatus(self._api.get(self._watched.turn.path)["status"])
        self._terminal.note(f"There is nothing after this event; the {self._what} is {status.value}.")
        return _EXITS.get(status, FAILED)

    def _interrupted(self) -> int | None:
        choice = self._ask() if self._terminal.has_reader and sys.stdin.isatty() else Choice.DETACH
        if choice is Choice.DETACH:
            self._tell_how_to_tail(f"Detached. The {self._what} goes on; to follow it again:")
            return INTERRUPTED
        if choice is Choice.CANCEL:
            self._cancel()
        return None

    def _ask(self) -> Choice:
        # A second Ctrl-C is an answer too.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            self._terminal.prompt(f"\n[D]etach (the {self._what} goes on), [c]ancel it, or [k]eep watching? ")
            answer = sys.stdin.readline().strip().lower()
        except KeyboardInterrupt:
            answer = ""
            self._terminal.prompt("\n")
        finally:
            signal.signal(signal.SIGINT, self._on_interrupt)
        return next((choice for choice in Choice if answer.startswith(choice.value)), Choice.DETACH)

    def _cancel(self) -> None:
        self._view.waiting_for = "canceling"
        try:
            self._api.post(f"{self._watched.turn.path}/cancel")
        except ApiError as error:
            # It may have ended a moment ago: then its last event says so.
            self._terminal.note(f"It could not be canceled: {error.message}", style=YELLOW)

    def _tell_how_to_tail(self, sentence: str) -> None:
        self._terminal.note(f"{sentence}\n  {self._watched.turn.tail_command(url=self._watched.url)}", style=0)

    @contextmanager
    def _interrupts(self) -> Iterator[None]:
        before = signal.signal(signal.SIGINT, self._on_interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        self._items.put(_Sign.INTERRUPT)
