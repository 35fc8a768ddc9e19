"""Interrupts: thrown once, where the turn waits, and nowhere else."""

import gevent
import pytest
from gevent.event import Event as Signal

from worker.interrupts import CancelAsked, Draining, Interrupts, LeaseLost


@pytest.fixture
def interrupts() -> Interrupts:
    return Interrupts()


def run_others() -> None:
    for _ in range(3):
        gevent.sleep(0)


def test_what_is_asked_is_thrown_where_the_turn_waits(interrupts: Interrupts) -> None:
    def turn() -> str:
        try:
            with interrupts.open():
                Signal().wait()
        except CancelAsked:
            return "canceled"
        return "not canceled"

    running = gevent.spawn(turn)
    run_others()
    interrupts.ask(CancelAsked())

    assert running.get(timeout=5) == "canceled"


def test_outside_it_waits_for_the_next_check(interrupts: Interrupts) -> None:
    written, reached = Signal(), []

    def turn() -> None:
        written.wait()
        reached.append("written")
        interrupts.check()
        reached.append("went on")

    running = gevent.spawn(turn)
    run_others()
    interrupts.ask(Draining())
    run_others()
    written.set()
    running.join(timeout=5)

    assert reached == ["written"]
    assert isinstance(running.value, Draining)


def test_a_second_one_does_not_tear_how_the_first_is_handled(interrupts: Interrupts) -> None:
    ended = Signal()

    def turn() -> str:
        try:
            with interrupts.open():
                Signal().wait()
        except CancelAsked:
            ended.wait()
            return "ended"
        return "not canceled"

    running = gevent.spawn(turn)
    run_others()
    interrupts.ask(CancelAsked())
    interrupts.ask(CancelAsked())
    run_others()
    interrupts.ask(LeaseLost())
    run_others()
    ended.set()

    assert running.get(timeout=5) == "ended"


def test_one_that_is_on_its_way_when_the_turn_goes_on_is_not_thrown_into_what_follows(interrupts: Interrupts) -> None:
    token, written = Signal(), Signal()

    def turn() -> str:
        with interrupts.open():
            token.wait()
        written.wait()
        return "written"

    running = gevent.spawn(turn)
    run_others()
    token.set()  # the turn is to run before the interrupt
    interrupts.ask(CancelAsked())
    run_others()
    written.set()

    assert running.get(timeout=5) == "written"


def test_what_was_asked_before_is_raised_at_the_door(interrupts: Interrupts) -> None:
    interrupts.ask(Draining())

    with pytest.raises(Draining), interrupts.open():
        raise AssertionError("must not begin")


def test_being_asked_to_leave_is_heard_at_a_boundary_only(interrupts: Interrupts) -> None:
    interrupts.ask_to_leave()

    interrupts.check()
    with interrupts.open():
        run_others()
    with pytest.raises(Draining):
        interrupts.boundary()


def test_a_turn_that_was_asked_to_leave_can_still_be_canceled_at_once(interrupts: Interrupts) -> None:
    def turn() -> str:
        try:
            with interrupts.open():
                Signal().wait()
        except CancelAsked:
            return "canceled"
        return "not canceled"

    running = gevent.spawn(turn)
    run_others()
    interrupts.ask_to_leave()
    run_others()
    interrupts.ask(CancelAsked())

    assert running.get(timeout=5) == "canceled"
    with pytest.raises(CancelAsked):
        interrupts.boundary()
