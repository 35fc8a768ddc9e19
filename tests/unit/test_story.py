"""Whether entries go on from where a reader stands, and whether what a log has lost may come back."""

import pytest

from api.streams.cursor import Cursor
from api.streams.story import goes_on, may_come_back
from shared.events import Entry


def batch(*ids: tuple[int, int]) -> list[Entry]:
    return [Entry(seq, epoch, "step_progress", 1, b"{}") for seq, epoch in ids]


@pytest.mark.parametrize(
    ("ids", "surely"),
    [
        ([(6, 20), (7, 20)], True),
        ([], True),
        ([(4, 10), (5, 20), (6, 20)], True),
        ([(3, 10), (4, 10)], True),
        ([(6, 30)], False),
        ([(6, 20), (7, 30)], False),
        ([(7, 20)], False),
        ([(5, 30)], False),
        ([(5, 10)], False),
        ([(4, 30), (5, 30)], False),
    ],
    ids=[
        "the next ones",
        "none",
        "with what is known",
        "only what is known",
        "of another claim",
        "another claim among them",
        "a gap",
        "another at the cursor",
        "an older one at the cursor",
        "a newer claim before the cursor",
    ],
)
def test_only_what_goes_on_for_certain_is_handed_out_unasked(ids: list[tuple[int, int]], surely: bool) -> None:
    assert goes_on(Cursor(5, 20), batch(*ids)) is surely


@pytest.mark.parametrize(
    ("end", "may"),
    [
        (Cursor(7, 20), True),
        (Cursor(7, 10), True),
        (Cursor(), True),
        (Cursor(8, 30), False),
        (Cursor(9, 20), False),
        (Cursor(12, 30), False),
    ],
    ids=["same claim", "its claim is lost too", "no log", "another claim", "same seq", "another claim is further"],
)
def test_what_is_lost_may_come_back_unless_another_claim_has_written(end: Cursor, may: bool) -> None:
    assert may_come_back(Cursor(9, 20), end) is may
