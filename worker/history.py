"""The session's earlier turns, read when a turn first asks the model."""

import orjson

from shared.events import Json
from shared.ids import TurnRef
from shared.log.archive import Archive
from shared.log.sessions import SessionStore

_PAGE = 200


class History:
    """Reads what came before a turn in its session."""

    def __init__(self, *, sessions: SessionStore, archive: Archive) -> None:
        self._sessions = sessions
        self._archive = archive

    def before(self, ref: TurnRef, ordinal: int) -> list[Json]:
        """The turns before the `ordinal`-th, in order. All have ended: a session runs one at a time. Those that were
        rolled back are left out."""
        turns: list[Json] = []
        for start in range(0, ordinal - 1, _PAGE):
            count = min(_PAGE, ordinal - 1 - start)
            page = self._sessions.history(ref.session, start=start, count=count)
            turns += [orjson.loads(snapshot) for snapshot in self._archive.read(page) if snapshot is not None]
        return turns
