"""What a shard's channel carries: that the log of a turn grew, and what is new of it where that is little.

Written by `notify` in `_lib.lua`. The first line is the turn's member; where events follow, then the id of the event
before them too. Each further line is one event: `<seq>-<epoch> <type> <schema version> <payload>`, where a payload is
JSON text and so has no line end in it.
"""

from dataclasses import dataclass

from shared.events import Entry


@dataclass(frozen=True, slots=True)
class Notice:
    """The log of a turn grew. `entries` are what is new, in order, and `after` is the id of the event before them; none
    where they are to be read from the log."""

    member: str
    after: str
    entries: list[Entry]


def parse(data: bytes) -> Notice:
    """A message of a shard's channel."""
    head, *lines = data.split(b"\n")
    member, _, after = head.decode().partition(" ")
    return Notice(member, after, [_entry(line) for line in lines])


def _entry(line: bytes) -> Entry:
    entry_id, event_type, version, payload = line.split(b" ", 3)
    seq, _, epoch = entry_id.partition(b"-")
    return Entry(int(seq), int(epoch), event_type.decode(), int(version), payload)
