"""What whoever follows a turn hears of each write: that the log grew, and small events themselves."""

from collections.abc import Iterator
from itertools import pairwise

import pytest
from logkit import LogKit, delta, started, text_step

from shared.events import Entry, TurnAwaitingInput
from shared.ids import TurnRef
from shared.log.blobs import INLINE_LIMIT
from shared.log.notices import Notice, parse
from shared.log.reader import LogReader


class Listener:
    """Hears of one shard."""

    def __init__(self, kit: LogKit, ref: TurnRef) -> None:
        self._pubsub = kit.client.pubsub()
        self._pubsub.subscribe(kit.keys.channel(ref.shard))
        assert self._pubsub.get_message(timeout=5)["type"] == "subscribe"

    def next(self) -> Notice:
        message = self._pubsub.get_message(timeout=5)
        assert message is not None
        return parse(message["data"])

    def is_silent(self) -> bool:
        return self._pubsub.get_message(timeout=0.01) is None

    def close(self) -> None:
        self._pubsub.close()


@pytest.fixture
def ref(kit: LogKit) -> TurnRef:
    return kit.accept()


@pytest.fixture
def listener(kit: LogKit, ref: TurnRef) -> Iterator[Listener]:
    listener = Listener(kit, ref)
    yield listener
    listener.close()


def log(kit: LogKit, ref: TurnRef) -> list[Entry]:
    return list(LogReader(client=kit.client, keys=kit.keys).all_entries(ref))


def test_each_write_brings_its_events_and_names_the_one_before_them(
    kit: LogKit, ref: TurnRef, listener: Listener
) -> None:
    owner = kit.claim(ref)
    owner.append(*text_step("s1"))
    owner.append(TurnAwaitingInput(turn_id=ref.turn_id, tool_calls=[]))
    owner.finish()

    told = [listener.next() for _ in range(4)]

    entries = log(kit, ref)
    assert [notice.member for notice in told] == [ref.member] * 4
    assert [entry for notice in told for entry in notice.entries] == entries[1:]
    before = {entry.id: previous.id for previous, entry in pairwise(entries)}
    assert [notice.after for notice in told] == [before[notice.entries[0].id] for notice in told]


def test_a_rest_and_a_resume_bring_theirs(kit: LogKit, ref: TurnRef, listener: Listener) -> None:
    kit.claim(ref).pause("c1")
    kit.resume(ref, "c1")
    kit.claim(ref)

    told = [listener.next() for _ in range(3)]

    assert [entry for notice in told for entry in notice.entries] == log(kit, ref)[1:]
    assert listener.is_silent()  # a claim after a resume writes no event


def test_text_with_line_ends_stays_one_event(kit: LogKit, ref: TurnRef, listener: Listener) -> None:
    owner = kit.claim(ref)
    owner.append(started("s1"), delta("s1", "one\ntwo\r\n\u2028 three"))

    assert listener.next().entries == log(kit, ref)[1:2]
    assert listener.next().entries == log(kit, ref)[2:]


def test_much_text_is_not_sent_along(kit: LogKit, ref: TurnRef, listener: Listener) -> None:
    owner = kit.claim(ref)
    owner.append(*(delta("s1", "x" * 1000) for _ in range(10)))

    assert listener.next().entries
    assert listener.next() == Notice(ref.member, "", [])


def test_an_event_that_lies_in_a_blob_is_not_sent_along(kit: LogKit, ref: TurnRef, listener: Listener) -> None:
    owner = kit.claim(ref)
    owner.append(started("s1"), delta("s1", "x" * INLINE_LIMIT))

    assert listener.next().entries
    assert listener.next() == Notice(ref.member, "", [])


def test_an_end_by_somebody_else_is_told_of_alone(kit: LogKit, ref: TurnRef, listener: Listener) -> None:
    kit.log.cancel(ref, reason="Enough.")

    assert listener.next() == Notice(ref.member, "", [])


def test_private_records_alone_are_not_told_of(kit: LogKit, ref: TurnRef, listener: Listener) -> None:
    owner = kit.claim(ref)
    owner.append(private=[("intent", b"{}")])

    assert listener.next().entries == log(kit, ref)[1:]
    assert listener.is_silent()
