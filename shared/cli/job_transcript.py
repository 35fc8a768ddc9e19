"""Tells an insert job's events to a person."""

from collections.abc import Callable

from shared.cli.follow import Frame
from shared.cli.terminal import RED, YELLOW, Terminal
from shared.cli.transcript import View
from shared.cli.wrap import one_line
from shared.events import Json
from shared.fold import MOST_FAILURES


class JobTranscript(View):
    """A line for each batch and for each document that could not be read; at the end, on standard output, what became
    of it all."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._documents: int | None = None
        self._failed = 0
        self._tellers: dict[str, Callable[[Json], None]] = {
            "turn_start": self._start,
            "turn_recovered": self._recovered,
            "step_start": self._step_start,
            "step_progress": self._progress,
            "reset": self._reset,
            "turn_complete": self._complete,
            "turn_failed": self._fail,
            "turn_canceled": self._cancel,
        }

    def show(self, frame: Frame) -> None:
        """A type that is not known here comes from a newer server, and is passed over."""
        tell = self._tellers.get(frame.type)
        if tell is not None:
            tell(frame.payload)

    def _start(self, payload: Json) -> None:
        self.waiting_for = "starting"

    def _recovered(self, payload: Json) -> None:
        self._terminal.brief(f"  ~ taken over by another worker (attempt {payload['attempt']})", style=YELLOW)

    def _step_start(self, payload: Json) -> None:
        metadata = payload["metadata"]
        self._documents = metadata["documents"]
        self._terminal.brief(f"{self._documents} documents for the bank {metadata['memory_bank_id']}")
        self.waiting_for = self._told(0)

    def _progress(self, payload: Json) -> None:
        delta = payload["delta"]
        for failure in delta["failures"][: max(0, MOST_FAILURES - self._failed)]:
            self._failure(failure)
        self._failed += len(delta["failures"])
        self._terminal.brief(f"  {self._told(delta['done'])}, {delta['chunks']} chunks")
        self.waiting_for = self._told(delta["done"])

    def _failure(self, failure: Json) -> None:
        said = one_line(failure["message"])
        self._terminal.brief(f"  ! {failure['document_id']} ({failure['code']}): {said}", style=YELLOW)

    def _reset(self, payload: Json) -> None:
        self._terminal.note("  ~ the events up to here are no longer there; the job as it is:", style=YELLOW)
        for step in payload["turn"]["steps"]:
            self._documents, self._failed = step["documents"], step["failed"]
            self._terminal.brief(f"  {self._told(step['done'])}, {step['chunks']} chunks")
            self.waiting_for = self._told(step["done"])

    def _complete(self, payload: Json) -> None:
        self._terminal.lines(self._summary(payload))

    def _fail(self, payload: Json) -> None:
        error = payload["error"]
        self._terminal.note(f"The job failed ({error['code']}): {one_line(error['message'])}", style=RED)
        self._terminal.lines(self._summary(payload))

    def _cancel(self, payload: Json) -> None:
        self._terminal.note(f"The job was canceled: {one_line(payload.get('reason') or 'no reason given')}", style=RED)
        self._terminal.lines(self._summary(payload))

    def _told(self, done: int) -> str:
        return f"{done} of {self._documents} documents"

    def _summary(self, payload: Json) -> str:
        """What became of it: from the whole job at its end, which knows it also where its events have expired."""
        steps = payload.get("turn", {}).get("steps")
        if not steps:
            return "no document was looked at"
        step = steps[-1]
        self._documents = step["documents"]
        unread = f", {step['failed']} could not be read" if step["failed"] else ""
        return f"{self._told(step['done'])}, {step['chunks']} chunks{unread}"
