"""Limits over HTTP: how long a turn may wait and run, and how many may wait."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import gevent
import pytest
from apikit import HELLO, Api, assert_problem, ref_of
from waiting import wait_for

from api import bounds
from shared.errors import StoreError
from shared.ids import SHARDS
from shared.runconfig import FrontConfig, Turns

OTHER = {"messages": [{"role": "user", "content": "another"}]}


@pytest.fixture
def limited(redis_url: str, key_prefix: str) -> Iterator[Callable[..., Api]]:
    """Makes an API with limits in its run config; each has what it counts itself, as processes do."""
    made: list[Api] = []

    def make(**turns: Any) -> Api:
        made.append(Api.on(redis_url, key_prefix, FrontConfig(turns=Turns(**turns))))
        return made[-1]

    yield make
    for api in made:
        api.services.tails.close()


def limits_of(api: Api, turn: str) -> dict[str, float]:
    """The limits of a turn as they lie in the store, in seconds from its acceptance."""
    row = api.services.sessions._client.hgetall(api.services.sessions._keys.turn(ref_of(turn)).turn)
    found = {name.decode(): int(value) for name, value in row.items() if name in (b"start_by", b"end_by")}
    return {name: (at - int(row[b"created_us"])) / 1_000_000 for name, at in found.items()}


# Times


@pytest.mark.parametrize(
    ("config", "body", "expected"),
    [
        ({}, {}, {}),
        ({"deadline_s": 60, "queue_ttl_s": 5}, {}, {"end_by": 60, "start_by": 5}),
        ({"deadline_s": 60}, {"deadline_s": 30.5}, {"end_by": 30.5}),
        ({"deadline_s": 60, "queue_ttl_s": 5}, {"deadline_s": 60, "queue_ttl_s": 1}, {"end_by": 60, "start_by": 1}),
        ({}, {"deadline_s": 7, "queue_ttl_s": 2}, {"end_by": 7, "start_by": 2}),
        ({"queue_ttl_s": 5}, {"deadline_s": None, "queue_ttl_s": None}, {"start_by": 5}),
    ],
)
def test_a_turn_has_the_limits_of_the_run_config_or_shorter_ones_of_its_own(
    limited: Callable[..., Api], config: Any, body: Any, expected: Any
) -> None:
    api = limited(**config)

    assert limits_of(api, api.turn(**body)) == expected


@pytest.mark.parametrize("name", ["deadline_s", "queue_ttl_s"])
def test_a_longer_limit_than_the_run_config_s_is_refused_with_the_bound(limited: Callable[..., Api], name: str) -> None:
    api = limited(**{name: 60})

    problem = assert_problem(api.post(f"{api.session()}/turn", {**HELLO, name: 60.5}), 422, "invalid_fields")

    assert problem["error"]["param"] == name
    assert "at most 60 s" in problem["detail"] and f"turns.{name}" in problem["detail"]


@pytest.mark.parametrize("name", ["deadline_s", "queue_ttl_s"])
@pytest.mark.parametrize("value", [0, -1, "5", 1e300, True])
def test_a_limit_that_is_no_sensible_number_is_refused(api: Api, name: str, value: Any) -> None:
    problem = assert_problem(api.post(f"{api.session()}/turn", {**HELLO, name: value}), 422, "invalid_fields")

    assert problem["error"]["param"] == name


# How many may wait


def test_no_more_turns_wait_than_may(limited: Callable[..., Api]) -> None:
    api = limited(max_queued=2)
    session = api.session()
    turns = [api.turn(session), api.turn()]

    answer = api.post(f"{api.session()}/turn", HELLO)

    problem = assert_problem(answer, 429, "too_many_queued")
    assert int(answer.headers["Retry-After"]) >= 1
    assert "2 (turns.max_queued " in problem["detail"]
    assert [api.client.get(turn).json["status"] for turn in turns] == ["queued", "queued"]


@pytest.mark.parametrize("how", ["claimed", "canceled"])
def test_a_turn_that_waits_no_more_makes_room_for_another(limited: Callable[..., Api], how: str) -> None:
    api = limited(max_queued=1)
    first = api.turn()
    assert_problem(api.post(f"{api.session()}/turn", HELLO), 429)

    api.worker(first) if how == "claimed" else api.client.post(f"{first}/cancel")

    session = api.session()
    wait_for(lambda: api.post(f"{session}/turn", HELLO).status_code == 202, "there is room again")
    assert_problem(api.post(f"{api.session()}/turn", HELLO), 429)


def test_turns_that_were_taken_up_at_once_never_count_against_later_ones(
    limited: Callable[..., Api], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "NO_OLDER_S", 0.0)
    api = limited(max_queued=1)

    for _ in range(20):
        api.worker(api.turn())


def test_an_agent_has_a_bound_of_its_own(limited: Callable[..., Api]) -> None:
    api = limited(max_queued_per_agent=1, max_queued=3)
    busy, other = api.agent(), api.agent()
    api.turn(api.session(busy))

    problem = assert_problem(api.post(f"{api.session(busy)}/turn", HELLO), 429, "too_many_queued")

    assert "of this agent" in problem["detail"] and "turns.max_queued_per_agent" in problem["detail"]
    api.turn(api.session(other))


def test_what_another_process_has_accepted_counts_too(limited: Callable[..., Api]) -> None:
    one, other = limited(max_queued=2), limited(max_queued=2)
    session = one.session()
    for _ in range(2):
        one.turn(session)

    wait_for(lambda: other.post(f"{session}/turn", OTHER).status_code == 429, "the other process has counted")


def test_a_repeated_submit_finds_its_turn_where_as_many_wait_as_may(limited: Callable[..., Api]) -> None:
    api = limited(max_queued=1)
    session = api.session()
    first = api.post(f"{session}/turn", HELLO, Idempotency_Key="k")
    assert_problem(api.post(f"{session}/turn", OTHER), 429)

    by_key = api.post(f"{session}/turn", HELLO, Idempotency_Key="k")
    by_count = api.post(f"{session}/turn", HELLO, x_stainless_retry_count="2")

    assert {one.headers["Location"] for one in (by_key, by_count)} == {first.headers["Location"]}
    assert (by_key.status_code, by_count.status_code) == (202, 202)


def test_repeated_submits_take_no_places(limited: Callable[..., Api]) -> None:
    api = limited(max_queued=2)
    session = api.session()
    for _ in range(5):
        assert api.post(f"{session}/turn", HELLO, Idempotency_Key="k").status_code == 202

    api.turn(session, **OTHER)


def test_many_submits_at_once_do_not_slip_past_the_bound(limited: Callable[..., Api]) -> None:
    counting = limited(max_queued=3).services.bounds

    with ExitStack() as submits:
        places = [submits.enter_context(counting.place("default", "a")) for _ in range(10)]
        assert [bool(place.refusal) for place in places] == [False] * 3 + [True] * 7

    with counting.place("default", "a") as place:
        assert place.refusal == "", "none of them was accepted in the end"


def test_a_turn_that_was_accepted_while_the_store_is_counted_is_not_forgotten(
    limited: Callable[..., Api], monkeypatch: pytest.MonkeyPatch
) -> None:
    counting = limited(max_queued=1).services.bounds
    plain = counting._count

    def count_slowly() -> Any:
        found = plain()
        monkeypatch.setattr(counting, "_count", plain)
        with counting.place("default", "a") as place:
            place.taken = True
        return found  # without the turn that has just been accepted

    monkeypatch.setattr(counting, "_count", count_slowly)
    monkeypatch.setattr(bounds, "NO_OLDER_S", 60.0)

    with counting.place("default", "a") as place:
        assert place.refusal


def test_the_store_is_read_once_a_second_and_not_at_all_where_nothing_is_bounded(
    limited: Callable[..., Api], monkeypatch: pytest.MonkeyPatch
) -> None:
    bounded, free = limited(max_queued=1000), limited()
    reads = {"bounded": 0, "free": 0}
    for name, api in (("bounded", bounded), ("free", free)):
        plain = api.services.bounds._count

        def count(name: str = name, plain: Callable[[], Any] = plain) -> Any:
            reads[name] += 1
            return plain()

        monkeypatch.setattr(api.services.bounds, "_count", count)
    monkeypatch.setattr(bounds, "READ_EVERY_S", 60.0)

    for api in (bounded, free):
        session = api.session()
        for _ in range(20):
            api.turn(session)

    assert reads == {"bounded": 1, "free": 0}


def test_a_bound_that_cannot_be_counted_answers_503_and_loses_no_count(
    limited: Callable[..., Api], monkeypatch: pytest.MonkeyPatch
) -> None:
    api = limited(max_queued=1)
    session = api.session()
    counting = api.services.bounds
    monkeypatch.setattr(bounds, "READ_EVERY_S", 0.0)
    api.turn(session)
    plain = counting._count

    def broken() -> Any:
        raise StoreError("away")

    monkeypatch.setattr(counting, "_count", broken)
    assert_problem(api.post(f"{session}/turn", OTHER), 503, "store_unavailable")
    monkeypatch.setattr(counting, "_count", plain)

    assert_problem(api.post(f"{session}/turn", OTHER), 429)


def test_greenlets_do_not_wait_for_one_that_reads(limited: Callable[..., Api], monkeypatch: pytest.MonkeyPatch) -> None:
    api = limited(max_queued=5)
    counting, plain = api.services.bounds, api.services.bounds._count
    with counting.place("default", "a"):
        pass
    monkeypatch.setattr(bounds, "READ_EVERY_S", 0.0)
    reading, go_on = gevent.event.Event(), gevent.event.Event()

    def slow() -> Any:
        reading.set()
        go_on.wait(30)
        return plain()

    monkeypatch.setattr(counting, "_count", slow)

    def submit() -> str:
        with counting.place("default", "a") as place:
            return place.refusal

    first = gevent.spawn(submit)
    assert reading.wait(30)
    second = gevent.spawn(submit)
    second.join(30)
    answered = second.ready()
    go_on.set()
    gevent.joinall([first, second], timeout=30)

    assert answered
    assert (first.value, second.value) == ("", "")


def test_every_shard_is_counted(limited: Callable[..., Api]) -> None:
    api = limited(max_queued=SHARDS)
    keys, client = api.services.sessions._keys, api.services.sessions._client
    for shard in range(SHARDS):
        client.hset(keys.shard(shard).queued, "total", 1)

    assert_problem(api.post(f"{api.session()}/turn", HELLO), 429)
