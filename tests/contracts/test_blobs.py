"""What every place for large values promises."""

import pytest
from logkit import LogKit

from shared.ids import DEFAULT_TENANT, TurnRef, new_session_id, new_turn_id
from shared.log.blobs import INLINE_LIMIT, BlobStore, RedisBlobs


@pytest.fixture
def blobs(kit: LogKit) -> BlobStore:
    return RedisBlobs(client=kit.client, keys=kit.keys)


@pytest.fixture
def turn() -> TurnRef:
    session_id = new_session_id()
    return TurnRef(DEFAULT_TENANT, session_id, new_turn_id(session_id))


def test_a_value_comes_back_byte_for_byte(blobs: BlobStore, turn: TurnRef) -> None:
    value = bytes(range(256)) * 1000

    blobs.put(turn, "name", value)

    assert blobs.get(turn, "name") == value


def test_an_empty_value_is_a_value(blobs: BlobStore, turn: TurnRef) -> None:
    blobs.put(turn, "name", b"")

    assert blobs.get(turn, "name") == b""


def test_a_value_that_is_not_there_is_a_key_error(blobs: BlobStore, turn: TurnRef) -> None:
    with pytest.raises(KeyError):
        blobs.get(turn, "name")


def test_a_value_of_one_turn_is_not_another_turns(blobs: BlobStore, turn: TurnRef) -> None:
    other = TurnRef(turn.tenant, turn.session_id, new_turn_id(turn.session_id))
    blobs.put(turn, "name", b"x")

    with pytest.raises(KeyError):
        blobs.get(other, "name")


def test_deleting_removes_all_values_of_the_turn_and_of_no_other(blobs: BlobStore, turn: TurnRef) -> None:
    other = TurnRef(turn.tenant, turn.session_id, new_turn_id(turn.session_id))
    for ref in (turn, other):
        blobs.put(ref, "a", b"1")
        blobs.put(ref, "b", b"2")

    blobs.delete(turn)
    blobs.delete(turn)

    for name in ("a", "b"):
        with pytest.raises(KeyError):
            blobs.get(turn, name)
    assert (blobs.get(other, "a"), blobs.get(other, "b")) == (b"1", b"2")


def test_a_value_up_to_the_limit_lies_in_its_entry(blobs: BlobStore, turn: TurnRef, kit: LogKit) -> None:
    value = b"x" * INLINE_LIMIT

    assert blobs.store(turn, value) == ("p", value)
    assert kit.everything() == []


def test_a_larger_value_is_kept_and_named_by_its_content(blobs: BlobStore, turn: TurnRef) -> None:
    value = b"x" * (INLINE_LIMIT + 1)

    stored = blobs.store(turn, value)

    assert stored.field == "b"
    assert blobs.get(turn, stored.value.decode()) == value
    assert blobs.store(turn, value) == stored
    assert blobs.store(turn, value + b"y") != stored
