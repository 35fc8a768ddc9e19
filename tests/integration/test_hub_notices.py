"""How the hub hands events on: with their notice where that says all, from the log where it does not."""

from collections.abc import Callable, Iterator
from functools import partial

import pytest
from apikit import Api
from failoverkit import DEADLINE_S, Reader
from redis import Redis
from test_lost_stories import Story
from waiting import wait_for

from api.streams import hub as hub_module
from shared.events import Entry
from shared.ids import TurnRef
from shared.log.keys import Keys
from shared.redis_client import connect

LARGE = "x" * 10_000
"""More than is sent along with a notice."""


@pytest.fixture
def client(redis_url: str) -> Iterator[Redis]:
    with connect(redis_url) as client:
        yield client


@pytest.fixture
def story(api: Api, client: Redis, key_prefix: str, monkeypatch: pytest.MonkeyPatch) -> Story:
    """A turn whose hub never looks by itself: what its tails get, a notice has brought."""
    monkeypatch.setattr(hub_module, "_SWEEP_S", 10**9)
    return Story(api, client, Keys(key_prefix))


@pytest.fixture
def reads(api: Api, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many turns the hub has read, at each time."""
    counts: list[int] = []
    plain = api.services.reader.entries_many

    def counted(cursors: list[tuple[TurnRef, int]], *, count: int) -> list[list[Entry]]:
        if count == hub_module._ENTRIES_PER_STREAM and len(cursors) > 0:
            counts.append(len(cursors))
        return plain(cursors, count=count)

    monkeypatch.setattr(api.services.reader, "entries_many", counted)
    return counts


def until_heard(api: Api, client: Redis, keys: Keys) -> None:
    """The hub listens."""
    channel = keys.channel(0)
    wait_for(lambda: client.pubsub_numsub(channel)[0][1] > 0, "the hub listens", seconds=DEADLINE_S)


@pytest.fixture
def tail(story: Story, api: Api, client: Redis, key_prefix: str, reads: list[int]) -> Reader:
    """One that has read all there is, and hears of what comes; what it has read so far does not count."""
    tail = story.tail()
    tail.wait_for_last(story.last_id)
    until_heard(api, client, Keys(key_prefix))
    reads.clear()
    return tail


def test_events_come_with_their_notices_and_are_not_read(story: Story, tail: Reader, reads: list[int]) -> None:
    for number in range(20):
        story.owner.say(f"word {number}")
        tail.wait_for_last(story.last_id)
    story.owner.finish()

    assert [frame.id for frame in tail.ended()] == story.ids
    assert reads == []


def test_another_claim_s_events_come_with_their_notices_too(story: Story, tail: Reader, reads: list[int]) -> None:
    other = story.another()
    other.say("go on")
    other.finish()

    assert [frame.id for frame in tail.ended()] == story.ids
    assert "reset" not in tail.types
    assert reads == []


@pytest.mark.parametrize(
    "act",
    [
        lambda story: story.owner.say(LARGE),
        lambda story: story.api.client.post(f"{story.path}/cancel"),
    ],
    ids=["much text", "a flag for its owner"],
)
def test_what_a_notice_does_not_bring_is_read(
    story: Story, api: Api, client: Redis, key_prefix: str, act: Callable[[Story], object]
) -> None:
    tail = story.tail()
    tail.wait_for_last(story.last_id)
    until_heard(api, client, Keys(key_prefix))

    act(story)
    tail.wait_for_last(story.last_id)
    story.owner.finish()

    assert [frame.id for frame in tail.ended()] == story.ids


def test_a_notice_that_was_lost_is_made_up_for_by_the_next(
    story: Story, api: Api, client: Redis, key_prefix: str
) -> None:
    tail = story.tail()
    tail.wait_for_last(story.last_id)
    until_heard(api, client, Keys(key_prefix))
    hub = api.services.tails._hub
    hear, lost = hub._hear, []
    hub._hear = lost.append  # type: ignore[method-assign]
    story.owner.say("unheard")
    wait_for(lambda: lost, "the notice is lost", seconds=DEADLINE_S)
    hub._hear = hear  # type: ignore[method-assign]

    story.owner.say("heard")
    story.owner.finish()

    assert [frame.id for frame in tail.ended()] == story.ids


def test_a_late_follower_and_an_early_one_get_the_same(story: Story, api: Api, client: Redis, key_prefix: str) -> None:
    early = story.tail()
    early.wait_for_last(story.last_id)
    until_heard(api, client, Keys(key_prefix))
    story.owner.say("one")
    early.wait_for_last(story.last_id)

    late = story.tail()
    story.owner.say("two")
    story.another().say("three")
    late.wait_for_last(story.last_id)
    story.another().finish()

    assert [frame.id for frame in early.ended()] == [frame.id for frame in late.ended()] == story.ids


def test_a_client_that_catches_up_while_the_hub_closes_does_not_wait(story: Story, api: Api) -> None:
    hub = api.services.tails._hub
    batches = hub.follow(story.ref, after=hub_module.Cursor(), idle_s=10**6)
    next(batches)
    (subscription,) = hub._topics[story.ref.member].subscriptions
    hub.close()
    subscription.caught_up(subscription.position)  # as right behind its own look at whether the hub is closed

    with pytest.raises(hub_module.HubClosed):
        subscription.take(10**6)


def test_a_long_wait_ends_with_a_sweep(
    api: Api, client: Redis, key_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "_SWEEP_S", 0.02)
    monkeypatch.setattr(hub_module, "_TIMER_S", 0.0)
    story = Story(api, client, Keys(key_prefix))
    follow = partial(api.services.tails._hub.follow, story.ref, after=hub_module.Cursor(), idle_s=0.1)

    batches = follow()

    assert [entry.id for entry in next(batches)] == story.ids
    assert next(batches) == []
