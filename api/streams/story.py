"""Whether a log still tells the story that a reader was told.

A failover may lose the end of a log; another worker may then write another end under the same seqs. Only the whole id
tells them apart: a claim's epoch is never given twice, and who holds it writes each seq once. So a log that holds an id
holds all that came before it, too.
"""

from api.streams.cursor import Cursor
from shared.errors import TurnstoneError
from shared.events import Entry
from shared.ids import TurnRef
from shared.log.blobs import BlobGone
from shared.log.reader import LogReader


class StoryLost(TurnstoneError):
    """The log does not hold the last event that the reader has."""

    def __init__(self, ref: TurnRef) -> None:
        super().__init__(f"The log of turn '{ref.turn_id}' does not hold what was read of it.")


def read_from(reader: LogReader, ref: TurnRef, cursor: Cursor, *, count: int) -> list[Entry]:
    """At most `count` entries from the cursor's own on: that is the proof that the others go on from it.

    From event 1 on for a cursor at 0. A cursor without an epoch fits any. Raises StoryLost.
    """
    try:
        page = reader.entries(ref, after=max(cursor.seq - 1, 0), count=count)
    except BlobGone as error:
        raise StoryLost(ref) from error  # the turn is being removed: its log is next
    if not page or page[0].seq != max(cursor.seq, 1) or cursor.epoch not in (None, page[0].epoch):
        raise StoryLost(ref)
    return page


def goes_on(cursor: Cursor, batch: list[Entry]) -> bool:
    """Whether what is new in a batch surely goes on from the cursor: the next seqs, and all of the same claim.

    What the reader has already may be in the batch too: earlier seqs, of this claim or of earlier ones.
    """
    seq, epoch = cursor.seq, cursor.epoch or 0
    fresh = next((entry.seq for entry in batch if entry.seq > seq), seq + 1)
    return fresh == seq + 1 and all(
        entry.epoch == epoch or (entry.seq < seq and entry.epoch < epoch) for entry in batch
    )


def may_come_back(lost: Cursor, end: Cursor) -> bool:
    """Whether an id that a log does not hold may still be written again.

    Its owner does so after a failover, unless somebody else has written: then the log ends with a newer epoch.
    """
    return end.seq < lost.seq and (end.epoch or 0) <= (lost.epoch or 0)
