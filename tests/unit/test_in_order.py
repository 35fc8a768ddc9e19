"""Places that are handed on in order."""

import gevent

from worker.providers.in_order import InOrder


def test_who_asks_again_at_once_waits_behind_those_that_wait() -> None:
    places, order = InOrder(1), []

    def ask(name: str) -> None:
        for _ in range(3):
            with places.place():
                order.append(name)
                gevent.sleep(0)

    gevent.joinall([gevent.spawn(ask, name) for name in "abc"], raise_error=True)

    assert "".join(order) == "abcabcabc"


def test_a_place_goes_on_where_one_that_waits_is_killed_before_or_after_it_was_given() -> None:
    places, had = InOrder(1), []

    def ask(name: str) -> None:
        with places.place():
            had.append(name)

    with places.place():
        before, after, last = (gevent.spawn(ask, name) for name in ("before", "after", "last"))
        gevent.sleep(0)
        before.kill()
        after.kill(block=False)  # happens once this block has given its place to it
    last.join(5)

    assert had == ["last"]
    with gevent.Timeout(5), places.place():
        pass
