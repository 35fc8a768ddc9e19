"""Finished turns, read back whole."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import orjson

from shared.ids import TurnRef
from shared.log.reader import LogReader
from shared.status import TERMINAL


class Archive(ABC):
    """Where finished turns are read from."""

    @abstractmethod
    def read(self, refs: Sequence[TurnRef]) -> list[bytes | None]:
        """Each turn as clients get it, as JSON; None for one that has not ended or is not there."""


class RedisArchive(Archive):
    """Snapshots in the turns' hashes. One that ended inside a script a moment ago is folded from its log."""

    def __init__(self, *, reader: LogReader) -> None:
        self._reader = reader

    def read(self, refs: Sequence[TurnRef]) -> list[bytes | None]:
        snapshots: list[bytes | None] = []
        for ref, row in zip(refs, self._reader.rows(refs), strict=True):
            if row is None or row.status not in TERMINAL:
                snapshots.append(None)
            else:
                snapshots.append(row.snapshot or orjson.dumps(self._reader.state(ref).as_turn()))
        return snapshots
