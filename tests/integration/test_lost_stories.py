"""Readers whose story the store has lost in a failover: each is told, none waits in silence."""

from collections.abc import Callable, Iterator
from functools import partial

import orjson
import pytest
from apikit import HELLO, Api, Worker, assert_problem, ref_of
from failoverkit import DEADLINE_S, InBackground, Past, Reader, assert_tells, lose
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis
from waiting import wait_for
from werkzeug.test import TestResponse

from api.streams import hub
from shared.cli.follow import Frame
from shared.events import Json
from shared.ids import TurnRef
from shared.log.keys import Keys
from shared.redis_client import connect


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub looks often, so that no test waits for seconds."""
    monkeypatch.setattr("api.streams.hub._CHECK_S", 0.05)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub waits for ever for what may come back."""
    monkeypatch.setattr("api.streams.hub._PATIENCE", 10**9)


class Story:
    """A running turn, what its first owner writes, and what becomes of it in a failover."""

    def __init__(self, api: Api, client: Redis, keys: Keys, *, path: str | None = None) -> None:
        self.api, self.client, self.keys = api, client, keys
        self.path = path or api.turn()
        self.ref = ref_of(self.path)
        self.owner = api.worker(self.path)

    def remember(self) -> Past:
        return Past(self.client, self.keys, self.ref)

    def lose(self) -> None:
        lose(self.client, self.keys, self.ref)

    def another(self) -> Worker:
        """Another owner: the one that the store knows of gives the turn back."""
        token = self.client.hget(self.keys.turn(self.ref).turn, "token")
        if token is not None:
            self.api.services.log.release(self.ref, token=token.decode())  # type: ignore[union-attr]
        return self.api.worker(self.path)

    @property
    def last_id(self) -> str:
        return self.ids[-1]

    @property
    def ids(self) -> list[str]:
        return [entry.id for entry in self.api.services.reader.all_entries(self.ref)]

    def tail(self, path: str | None = None) -> Reader:
        return Reader(self.api.client.get(f"{path or self.path}/events", buffered=False).iter_encoded())

    def tail_to_the_end(self) -> Reader:
        """A tail that has all there is, and so has the hub that it follows."""
        reader = self.tail()
        reader.wait_for_last(self.last_id)
        topic = self.api.services.tails._hub._topics[self.ref.member]
        wait_for(lambda: topic.last.id == self.last_id, "the hub has read it", seconds=DEADLINE_S)
        return reader


@pytest.fixture
def stories(api: Api, redis_url: str, key_prefix: str) -> Iterator[Callable[..., Story]]:
    """Makes stories, each of a turn of its own."""
    with connect(redis_url) as client:
        yield partial(Story, api, client, Keys(key_prefix))


@pytest.fixture
def story(stories: Callable[..., Story]) -> Story:
    return stories()


# Tails


def test_a_tail_is_reset_where_another_claim_goes_on_at_its_next_seq(
    story: Story, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.streams.hub._CHECK_S", 10**9)  # the entry itself gives it away, and not the next check
    story.owner.say("kept")
    past = story.remember()
    story.owner.say("lost")
    reader = story.tail_to_the_end()

    past.return_to()
    other = story.another()
    for text in ("told", "in", "another", "way"):
        other.say(text)
    other.finish()

    seen = reader.ended()
    assert "reset" in reader.types
    reset = next(frame for frame in seen if frame.type == "reset")
    assert reset.payload["reason"] == "events_lost"
    assert_tells(seen, api.services.reader, story.ref)


@pytest.mark.parametrize("ends", [True, False], ids=["ended", "running"])
def test_a_tail_is_reset_where_the_new_story_is_shorter_than_what_it_has_read(
    story: Story, api: Api, ends: bool
) -> None:
    past = story.remember()
    for _ in range(5):
        story.owner.say("lost")
    reader = story.tail_to_the_end()

    past.return_to()
    other = story.another()
    if not ends:
        reader.wait_for("the tail is reset", lambda me: "reset" in me.types)
    other.finish()

    assert_tells(reader.ended(), api.services.reader, story.ref)


def test_a_tail_is_reset_where_nobody_writes_what_was_lost(story: Story, api: Api) -> None:
    past = story.remember()
    story.owner.say("lost")
    reader = story.tail_to_the_end()

    past.return_to()

    reader.wait_for("the tail is reset", lambda me: "reset" in me.types)
    assert reader.ids[-1] == story.last_id
    story.another().finish()
    assert_tells(reader.ended(), api.services.reader, story.ref)


@pytest.mark.usefixtures("patient")
def test_a_tail_sees_no_break_where_the_owner_writes_the_same_ids_again(story: Story, api: Api) -> None:
    past = story.remember()
    story.owner.say("lost and found")
    restored = story.remember()
    reader = story.tail_to_the_end()
    topic = api.services.tails._hub._topics[story.ref.member]

    past.return_to()
    wait_for(lambda: topic.misses > 0, "the hub misses what was read", seconds=DEADLINE_S)
    assert topic.last.id == story.last_id
    restored.return_to()
    wait_for(lambda: topic.misses == 0, "the hub finds it again", seconds=DEADLINE_S)
    story.owner.finish()

    seen = reader.ended()
    assert "reset" not in reader.types
    assert_tells(seen, api.services.reader, story.ref)


def test_a_tail_whose_turn_is_lost_ends_and_says_so(story: Story, api: Api) -> None:
    reader = story.tail_to_the_end()

    story.lose()

    last = reader.ended()[-1]
    assert (last.type, last.payload["turn_id"]) == ("turn_lost", story.ref.turn_id)
    assert "submit it again" in last.payload["message"]
    assert_problem(api.client.get(f"{story.path}/events"), 404)


def test_a_tail_whose_log_alone_is_lost_ends_and_says_so(story: Story) -> None:
    reader = story.tail_to_the_end()

    story.client.delete(story.keys.turn(story.ref).events)

    assert reader.ended()[-1].type == "turn_lost"


@pytest.mark.usefixtures("patient")
def test_only_readers_of_what_was_lost_are_reset(story: Story, api: Api) -> None:
    story.owner.say("kept")
    kept = len(story.ids)
    past = story.remember()
    slow = api.client.get(f"{story.path}/events", buffered=False).iter_encoded()
    begun = [next(slow)]
    assert f"id: {story.last_id}".encode() in begun[0]
    story.owner.say("lost")
    quick = story.tail_to_the_end()

    past.return_to()
    story.another().finish()

    assert_tells(quick.ended(), api.services.reader, story.ref)
    assert "reset" in quick.types
    behind = Reader([*begun, *slow])
    assert_tells(behind.ended(), api.services.reader, story.ref)
    assert "reset" not in behind.types
    assert len(behind.seen) == kept + 2


def test_a_tail_asks_the_log_once_for_each_claim_and_not_for_each_event(
    story: Story, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []
    plain = api.services.reader.entries

    def counted(ref: TurnRef, *, after: int = 0, count: int = 1000) -> object:
        if count == hub._PAGE:  # the test's own readings have other sizes
            reads.append(after)
        return plain(ref, after=after, count=count)

    monkeypatch.setattr(api.services.reader, "entries", counted)
    reader = story.tail_to_the_end()
    other = story.another()
    reader.wait_for_last(story.last_id)

    for _ in range(20):
        other.say("more")
        reader.wait_for_last(story.last_id)
    in_between = len(reads)
    other.finish()
    reader.ended()

    assert in_between <= 2  # its own beginning, and the new claim where its notice was missed


def test_a_large_value_that_a_sweep_has_removed_ends_its_tails_and_no_other(
    stories: Callable[..., Story], api: Api
) -> None:
    large, other = stories(), stories()
    reader, bystander = large.tail_to_the_end(), other.tail_to_the_end()

    entry = {"t": "step_progress", "v": "1", "b": "removed"}
    large.client.xadd(large.keys.turn(large.ref).events, entry, id=f"3-{2**53}")  # type: ignore[arg-type]

    assert reader.ended()[-1].type == "turn_lost"
    other.owner.say("still here")
    bystander.wait_for_last(other.last_id)
    other.owner.finish()
    assert_tells(bystander.ended(), api.services.reader, other.ref)


# Pages


def test_a_page_is_a_reset_where_the_cursor_is_of_a_lost_story(story: Story, api: Api) -> None:
    past = story.remember()
    story.owner.say("lost")
    lost = story.last_id
    past.return_to()
    story.another().say("told in another way, and at greater length")

    page = api.client.get(f"{story.path}/events", query_string={"after": lost, "wait": "0"}).json

    (item,) = page["data"]
    assert item["event"]["payload"]["event_type"] == "reset"
    assert item["id"] == page["last_id"] == story.last_id


@pytest.mark.parametrize("forks", [True, False], ids=["forked", "cut off"])
def test_a_page_that_waits_is_a_reset_once_its_story_is_lost(
    story: Story, api: Api, forks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if forks:  # only the other claim's event ends the wait: no check that comes before it
        monkeypatch.setattr("api.streams.hub._PATIENCE", 10**9)
    past = story.remember()
    for _ in range(3):
        story.owner.say("lost")
    page = waited(story, f"{story.path}/events?wait=60&after={story.last_id}", api)

    past.return_to()
    if forks:
        story.another()

    (item,) = page.result().json["data"]
    assert item["event"]["payload"]["event_type"] == "reset"
    assert item["id"] == story.last_id


def test_a_page_that_waits_for_a_turn_that_is_lost_is_not_found(story: Story, api: Api) -> None:
    page = waited(story, f"{story.path}/events?wait=60&after={story.last_id}", api)

    story.lose()

    assert_problem(page.result(), 404)


# Waiting for the turn itself


def test_a_long_poll_sees_the_turn_end_on_a_shorter_log_than_it_began_with(story: Story, api: Api) -> None:
    past = story.remember()
    for _ in range(3):
        story.owner.say("lost")
    turn = waited(story, f"{story.path}?wait=60", api)

    past.return_to()
    story.another().finish()

    answer = turn.result().json
    assert (answer["status"], answer["steps"]) == ("completed", [])


def test_a_long_poll_for_a_turn_that_is_lost_is_not_found(story: Story, api: Api) -> None:
    turn = waited(story, f"{story.path}?wait=60", api)

    story.lose()

    assert_problem(turn.result(), 404)


# The streams of POST


@pytest.mark.parametrize("forks", [True, False], ids=["forked", "cut off"])
def test_a_posts_stream_ends_with_an_error_where_its_story_is_lost(
    stories: Callable[..., Story], api: Api, forks: bool
) -> None:
    story, text = posted(stories, api)
    past = story.remember()
    story.owner.say("lost")
    wait_for(lambda: "lost" in "".join(text), "the client has read it", seconds=DEADLINE_S)

    past.return_to()
    if forks:
        story.another()

    error = error_of(text)
    assert (error["code"], error["turn_id"]) == ("events_lost", story.ref.turn_id)
    assert "read it with GET" in error["message"]


def test_a_posts_stream_ends_with_an_error_where_its_turn_is_lost(stories: Callable[..., Story], api: Api) -> None:
    story, text = posted(stories, api)
    wait_for(lambda: "turn_start" in "".join(text), "the client has read it", seconds=DEADLINE_S)

    story.lose()

    assert error_of(text)["code"] == "turn_lost"


def posted(stories: Callable[..., Story], api: Api) -> tuple[Story, list[str]]:
    """A turn that was submitted with `stream: true`, and what its client reads, as it comes."""
    answer = api.client.post(f"{api.session()}/turn", json={**HELLO, "stream": True}, buffered=False)
    assert answer.status_code == 200
    text: list[str] = []
    InBackground(lambda: text.extend(piece.decode() for piece in answer.iter_encoded()))
    return stories(path=answer.headers["Location"]), text


def error_of(text: list[str]) -> Json:
    """The frame that ended a POST's stream."""
    wait_for(lambda: '"error"' in "".join(text), "the stream ends with an error", seconds=DEADLINE_S)
    (*_, last) = [line for line in "".join(text).splitlines() if line.startswith("data: ")]
    error: Json = orjson.loads(last.removeprefix("data: "))["error"]
    return error


def waited(story: Story, path: str, api: Api) -> InBackground[TestResponse]:
    """A request that waits for the turn, once it really does."""
    topics = api.services.tails._hub._topics
    request = InBackground(lambda: api.client.get(path))

    def waits() -> bool:
        topic = topics.get(story.ref.member)
        return topic is not None and any(one.position.epoch is not None for one in topic.subscriptions)

    wait_for(lambda: waits() or request.is_over(), "the request waits", seconds=DEADLINE_S)
    return request


# Any order of failovers

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(1, 3)),
        st.tuples(st.just("read"), st.integers(1, 4)),
        st.tuples(st.sampled_from(["remember", "fail over", "claim"]), st.just(0)),
    ),
    max_size=25,
)
FOREVER = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True, database=None
)


@settings(FOREVER, max_examples=60)
@given(steps=STEPS)
def test_who_polls_and_applies_resets_ends_with_the_logs_story(
    stories: Callable[..., Story], api: Api, steps: list[tuple[str, int]]
) -> None:
    story = stories()
    seen: list[Frame] = []

    def read(limit: int) -> bool:
        query = {"wait": "0", "limit": str(limit), "after": seen[-1].id if seen else ""}
        page = api.client.get(f"{story.path}/events", query_string=query).json
        for item in page["data"]:
            payload = item["event"]["payload"]
            seen.append(Frame(item["id"], payload["event_type"], payload))
        return bool(page["data"])

    live(story, steps, read=read)
    while read(100):
        pass

    assert_tells(seen, api.services.reader, story.ref)


@settings(FOREVER, max_examples=25)
@given(steps=STEPS)
def test_who_tails_and_applies_resets_ends_with_the_logs_story(
    stories: Callable[..., Story], api: Api, steps: list[tuple[str, int]]
) -> None:
    story = stories()
    reader = story.tail()

    def read(_: int) -> None:
        last = story.last_id
        wait_for(lambda: last in reader.ids, f"the tail comes to {last}", seconds=DEADLINE_S)

    live(story, steps, read=read)

    assert_tells(reader.ended(), api.services.reader, story.ref)


def live(story: Story, steps: list[tuple[str, int]], *, read: Callable[[int], object]) -> None:
    """The turn's life in these steps, and its end. Owners whose claim a failover lost write no more."""
    owner, past = story.owner, story.remember()
    for step, number in steps:
        match step:
            case "write":
                for _ in range(number):
                    owner.say(f"words of {owner.token}")
            case "read":
                read(number)
            case "remember":
                past = story.remember()
            case "fail over":
                past.return_to()
                owner = story.another()
            case "claim":
                owner = story.another()
    owner.finish()
