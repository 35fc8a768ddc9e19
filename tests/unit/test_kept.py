"""What is kept of landed batches: the newest, up to an age and a size, until the claim is over."""

from dataclasses import dataclass, field

import pytest

from shared.ids import DEFAULT_TENANT, TurnRef, new_session_id, new_turn_id
from shared.log.turn_log import Write
from worker.kept import Batch, Kept


@dataclass
class Bench:
    now: float = 1000.0
    session: str = field(default_factory=new_session_id)

    def __post_init__(self) -> None:
        self.kept = Kept(seconds=30, most_bytes=100, clock=lambda: self.now)

    def add(self, *lasts: int, claim: str = "a", size: int = 10) -> None:
        for last in lasts:
            ref = TurnRef(DEFAULT_TENANT, self.session, new_turn_id(self.session))
            self.kept.add(Batch(Write(ref=ref, token=claim, last=last, private_last=2 * last), size))

    def after(self, last: int, claim: str = "a") -> list[int]:
        return [batch.write.last for batch in self.kept.take_after(claim, last, 2 * last)]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_what_lies_behind_an_end_comes_in_its_order(bench: Bench) -> None:
    bench.add(1, 2, 3)

    assert bench.after(2) == [2, 3]
    assert bench.after(2) == []
    assert bench.after(1) == [1]
    assert bench.kept.size == 0


def test_an_end_that_no_kept_batch_begins_at_cannot_be_gone_on_from(bench: Bench) -> None:
    bench.add(2, 3)

    assert bench.after(1) == []


def test_claims_do_not_mix(bench: Bench) -> None:
    bench.add(1, claim="a")
    bench.add(1, 2, claim="b")

    assert bench.after(1, "b") == [1, 2]
    assert bench.after(1, "a") == [1]


def test_what_is_older_than_its_time_is_forgotten(bench: Bench) -> None:
    bench.add(1)
    bench.now += 31
    bench.add(2)

    assert bench.kept.size == 10
    assert bench.after(2) == [2]


def test_above_the_bound_the_oldest_go_first_whose_turn_it_is(bench: Bench) -> None:
    bench.add(1, claim="a", size=60)
    bench.add(1, claim="b", size=30)
    bench.add(2, claim="b", size=30)

    assert bench.kept.size == 60
    assert bench.after(1, "a") == []
    assert bench.after(1, "b") == [1, 2]


def test_a_batch_that_is_larger_than_the_bound_is_not_kept(bench: Bench) -> None:
    bench.add(1, size=101)

    assert bench.kept.size == 0
    assert bench.after(1) == []


def test_a_claim_that_is_over_leaves_its_room_to_others(bench: Bench) -> None:
    bench.add(1, claim="a", size=90)
    bench.kept.drop("a")
    bench.add(1, claim="b", size=90)

    assert bench.kept.size == 90
    assert bench.after(1, "b") == [1]


def test_what_landed_again_is_kept_for_its_own_time(bench: Bench) -> None:
    bench.add(1)
    bench.after(1)
    bench.now += 20
    bench.add(1)
    bench.now += 20
    bench.add(2)

    assert bench.after(1) == [1, 2]
