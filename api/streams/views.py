"""Turns as clients get them."""

from collections.abc import Sequence

import orjson

from shared.events import Json
from shared.ids import TurnRef
from shared.log.blobs import BlobGone
from shared.log.reader import LogReader, TurnRow
from shared.status import TurnStatus


class TurnViews:
    """Reads turns: one that has ended from its snapshot, a running one by folding its log."""

    def __init__(self, *, reader: LogReader) -> None:
        self._reader = reader

    def turn(self, ref: TurnRef) -> Json | None:
        """The turn as it is now, partial steps included; None where there is none."""
        try:
            return self.turns([ref])[0]
        except BlobGone:
            return None  # a sweep has just removed it

    def turns(self, refs: Sequence[TurnRef]) -> list[Json | None]:
        """Turns in the order of `refs`. One round trip for those that have ended."""
        rows = self._reader.rows(refs)
        return [None if row is None else self._view(ref, row) for ref, row in zip(refs, rows, strict=True)]

    def snapshot(self, ref: TurnRef) -> bytes:
        """The turn as JSON text, for completing the frame of its end."""
        row = self._reader.row(ref)
        return orjson.dumps(self._reader.state(ref).as_turn()) if row is None else self._text(ref, row)

    def texts(self, refs: Sequence[TurnRef]) -> list[bytes]:
        """As `turns`, each as JSON text, without those that are not there. Those that have ended are not parsed."""
        found = zip(refs, self._reader.rows(refs), strict=True)
        return [self._text(ref, row) for ref, row in found if row is not None]

    def _text(self, ref: TurnRef, row: TurnRow) -> bytes:
        stored = row.snapshot if row.retry_of is None else None
        return orjson.dumps(self._view(ref, row)) if stored is None else stored

    def _view(self, ref: TurnRef, row: TurnRow) -> Json:
        view = self._told(ref, row)
        if row.retry_of is not None:
            view["retry_of"] = row.retry_of  # not in the log, which the release before this one has to be able to read
        return view

    def _told(self, ref: TurnRef, row: TurnRow) -> Json:
        if row.snapshot is not None:
            view: Json = orjson.loads(row.snapshot)
            return view
        state = self._reader.state(ref)
        if row.status in (TurnStatus.IN_PROGRESS, TurnStatus.QUEUED):
            # Between two events the row knows better: a resumed turn that was claimed wrote no event.
            state.status = row.status if state.status not in _LATER else state.status
        return state.as_turn()


_LATER = frozenset({TurnStatus.AWAITING_INPUT, TurnStatus.COMPLETED, TurnStatus.FAILED, TurnStatus.CANCELED})
"""What the log may tell a moment after the row was read; it is never taken back."""
