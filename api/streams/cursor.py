"""Where a reader says that it stands."""

import re
from dataclasses import dataclass

from shared.errors import InvalidRequest
from shared.events import Entry

_CURSOR = re.compile(r"(\d{1,18})(?:-(\d{1,18}))?")


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last event that a reader has: its seq, and its epoch where it named the whole id."""

    seq: int = 0
    epoch: int | None = None

    @classmethod
    def at(cls, entry: Entry) -> "Cursor":
        """Behind an entry."""
        return cls(entry.seq, entry.epoch)

    @property
    def id(self) -> str:
        """The public id of the event. Only for one whose epoch is known."""
        return f"{self.seq}-{self.epoch}"

    @classmethod
    def parse(cls, text: str | None) -> "Cursor":
        """From `Last-Event-ID` or `?after=`. Raises InvalidRequest for what is neither an id nor a seq."""
        if not text:
            return cls()
        match = _CURSOR.fullmatch(text.strip())
        if match is None or not text.isascii():
            raise InvalidRequest(
                "The cursor must be an event id such as '5-1764000000000000', or a seq such as '5'.", param="after"
            )
        return cls(int(match[1]), int(match[2]) if match[2] else None)
