"""A store that loses the end of a turn's log, as one does that fails over to a replica which lagged."""

from typing import Any

from logkit import LogKit

from shared.ids import TurnRef

Entry = tuple[bytes, dict[bytes, bytes]]


def cut(kit: LogKit, ref: TurnRef, *, last: int, private_last: int) -> None:
    """Set the turn back to this end of its log, atomically."""
    names = kit.keys.turn(ref)
    pipe = kit.client.pipeline(transaction=True)
    for stream, end in ((names.events, last), (names.private, private_last)):
        # Written anew up to there: a stream remembers the highest id that it had, and a replica never had those.
        kept = [entry for entry in entries(kit, stream) if int(entry[0].split(b"-")[0]) <= end]
        pipe.delete(stream)
        for name, values in kept:
            pipe.xadd(stream, values, id=name)
    pipe.hset(names.turn, mapping={"last": last, "plast": private_last})
    pipe.execute()


def entries(kit: LogKit, stream: str) -> list[Entry]:
    """A stream as it lies in the store."""
    found: Any = kit.client.xrange(stream)
    return list(found)


def lies(kit: LogKit, ref: TurnRef) -> tuple[list[Entry], list[Entry]]:
    """The events and the private records of a turn as they lie in the store."""
    names = kit.keys.turn(ref)
    return entries(kit, names.events), entries(kit, names.private)
