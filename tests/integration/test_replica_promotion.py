"""A replica is promoted while the link to it is cut: what was confirmed stands, and of each turn one story does.

Real servers, real replication, real sockets. What happens is in the order of the test's lines: the links are held back
before anything is written that must not reach a replica.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import orjson
import pytest
from apikit import Api, assert_problem, ref_of
from failoverkit import DEADLINE_S, Reader, assert_tells
from logkit import TERMINAL_TYPES, delta, started
from redis.exceptions import RedisError
from storetrio import StoreTrio
from turnkit import Bench, turn_bench
from waiting import wait_for
from werkzeug.test import TestResponse

from shared.errors import Fenced, LogError, StoreError
from shared.events import Json
from shared.ids import TurnRef
from shared.log.turn_log import NotClaimable, Write
from shared.registry import RegisteredModel, Registry
from shared.runconfig import FrontConfig
from worker.turn import TurnRun

REGISTRY = Registry(
    models=[
        RegisteredModel(
            identifier="scripted", model_type="llm", provider_ids=["play"], resource_ids={"play": "scripted"}
        )
    ]
)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an owner may write again is waited for, however slow this machine is."""
    monkeypatch.setattr("api.streams.hub._PATIENCE", 10**9)


@pytest.fixture
def trio() -> Iterator[StoreTrio]:
    with StoreTrio(max_lag_s=60) as trio:
        yield trio


@pytest.fixture
def rooms(trio: StoreTrio, key_prefix: str) -> Iterator["Rooms"]:
    api = Api.on(trio.url, key_prefix, FrontConfig(durability="replicated"), registry=REGISTRY)
    with turn_bench(trio.url, key_prefix) as bench:  # at its end all sessions and turns hold together
        yield Rooms(api, bench)
        api.services.tails.close()


@dataclass
class Rooms:
    """An API that promises `durability: replicated`, and workers. Both know the store by its address alone."""

    api: Api
    bench: Bench
    tokens: dict[tuple[str, int], str] = field(default_factory=dict)

    def session(self) -> str:
        return self.api.session(self.api.agent(model="scripted"))

    def post(self, session: str, text: str, **headers: str) -> TestResponse:
        return self.api.post(f"{session}/turn", {"messages": [{"role": "user", "content": text}]}, **headers)

    def accepted(self, text: str) -> str:
        """The path of a turn that the API has promised to keep."""
        answer = self.post(self.session(), text)
        assert answer.status_code == 202, answer.text
        path: str = answer.headers["Location"]
        self.bench.kit.seen.append(ref_of(path).session)
        return path

    def claim(self, turn: str) -> TurnRun:
        """Become the owner as soon as the store allows it. No epoch of a turn is ever given to two tokens."""
        ref, deadline = ref_of(turn), time.monotonic() + DEADLINE_S
        while True:
            try:
                run = self.bench.claim(ref)
                break
            except (NotClaimable, StoreError):
                assert time.monotonic() < deadline, f"nobody can claim {turn}"
                time.sleep(0.1)
        known = self.tokens.setdefault((ref.turn_id, run._claim.epoch), run._claim.token)
        assert known == run._claim.token, "two claims with one epoch"
        return run

    def tail(self, turn: str) -> Reader:
        """A client that has all there is."""
        reader = Reader(self.api.client.get(f"{turn}/events", buffered=False).iter_encoded())
        reader.wait_for_last(self.ids(turn)[-1])
        return reader

    def ids(self, turn: str) -> list[str]:
        """The ids in the turn's log, as the store at the address has it now."""
        return [f"{seq}-{epoch}" for seq, epoch, _ in self.events(ref_of(turn))]

    def events(self, ref: TurnRef) -> list[tuple[int, int, str]]:
        return self.bench.kit.raw_events(ref)

    def until_back(self) -> None:
        """The connections to the old primary are used up, and the address leads to a store that takes writes."""

        def writes() -> bool:
            try:
                self.bench.kit.client.set(f"{self.bench.kit.prefix}:back", 1, ex=60)
                return bool(self.api.client.get("/v1/health").status_code)
            except RedisError:
                return False

        wait_for(lambda: all(writes() for _ in range(3)), "the store is back", seconds=DEADLINE_S)

    def assert_ended_once(self, turn: str) -> Json:
        ref = ref_of(turn)
        events = self.events(ref)
        epochs = [epoch for _, epoch, _ in events]
        assert [seq for seq, _, _ in events] == list(range(1, len(events) + 1))
        assert epochs == sorted(epochs)
        assert [kind for _, _, kind in events if kind in TERMINAL_TYPES] == ["turn_complete"]
        ended: Json = self.api.client.get(turn).json
        assert ended["status"] == "completed"
        return ended


def says(owner: TurnRun, *texts: str) -> None:
    """Each text is written by itself, and is in the store at the end. Raises LogError."""
    for text in texts:
        owner.writer.emit(delta("s1", text))
        owner.writer.settle()


@pytest.mark.parametrize("lives", [True, False], ids=["owner lives", "owner dies"])
def test_after_a_promotion_each_turn_has_one_story_and_every_confirmed_one_ends(
    trio: StoreTrio, rooms: Rooms, lives: bool
) -> None:
    running, unclaimed, claimed, ended = (rooms.accepted(text) for text in ("running", "unclaimed", "claimed", "ended"))
    owner, ender = rooms.claim(running), rooms.claim(ended)
    owner.writer.emit(started("s1"))
    says(owner, "known", "to the replicas")
    trio.until_replicated()
    known = {turn: rooms.ids(turn) for turn in (running, claimed, ended)}

    # The primary is alone, and nobody has noticed.
    trio.isolate()
    says(owner, "known", "to the primary", "alone")
    lonely = rooms.claim(claimed)
    ender.run()
    seen_alone = {turn: rooms.ids(turn) for turn in (running, claimed, ended)}
    readers = {turn: rooms.tail(turn) for turn in (running, claimed, ended)}
    assert readers[ended].ended()[-1].type == "turn_complete"
    session = unclaimed.rpartition("/turn/")[0]
    refused = rooms.post(session, "unconfirmed", Idempotency_Key="k")

    problem = assert_problem(refused, 503, "not_replicated")
    assert problem["error"]["turn_id"].startswith("turn_")
    assert refused.headers["Retry-After"]
    assert all(len(seen_alone[turn]) > len(known[turn]) for turn in known)

    # A replica that knows none of it becomes the primary.
    trio.promote()
    rooms.until_back()
    assert {turn: rooms.ids(turn) for turn in known} == known
    assert refuses_writes(trio, owner)

    restored = lives and goes_on(owner)
    with pytest.raises(LogError):
        says(lonely, "this claim is lost")
    if restored:
        assert rooms.ids(running)[: len(seen_alone[running])] == seen_alone[running]
        owner.run()
    else:
        assert rooms.ids(running) == known[running]
        rooms.claim(running).run()
    taker = rooms.claim(claimed)
    with pytest.raises(Fenced):
        rooms.bench.tools.log.append(as_of(taker, token=lonely.writer.token))
    taker.run()
    for turn in (ended, unclaimed):
        rooms.claim(turn).run()
    again = rooms.post(session, "unconfirmed", Idempotency_Key="k")

    assert again.status_code == 202, again.text
    rooms.claim(again.headers["Location"]).run()
    turns = [turn["turn_id"] for turn in rooms.api.client.get(session).json["turns"]]
    assert turns == [ref_of(unclaimed).turn_id, again.json["turn_id"]]
    for turn in (running, unclaimed, claimed, ended, again.headers["Location"]):
        rooms.assert_ended_once(turn)
    assert not set(rooms.ids(claimed)) & set(seen_alone[claimed][1:])
    assert not set(rooms.ids(ended)) & set(seen_alone[ended][len(known[ended]) :])

    # Who had read what is gone was told, and has the story that stands.
    reader = rooms.api.services.reader
    assert_tells(readers[claimed].ended(), reader, ref_of(claimed))
    assert "reset" in readers[claimed].types
    assert_tells(readers[running].ended(), reader, ref_of(running))
    assert ("reset" in readers[running].types) is not restored
    late = Reader(rooms.api.client.get(f"{ended}/events?after={seen_alone[ended][-1]}", buffered=False).iter_encoded())
    assert [frame.type for frame in late.ended()] == ["reset", "turn_complete"]


def test_a_turn_that_no_replica_confirmed_is_found_again_once_the_link_is_back(trio: StoreTrio, rooms: Rooms) -> None:
    session = rooms.session()
    trio.until_replicated()

    trio.isolate()
    refused = assert_problem(rooms.post(session, "hello", Idempotency_Key="k"), 503, "not_replicated")
    trio.rejoin()
    found = rooms.post(session, "hello", Idempotency_Key="k")

    assert (found.status_code, found.headers["Idempotent-Replayed"]) == (202, "true")
    assert found.json["turn_id"] == refused["error"]["turn_id"]
    trio.promote()
    rooms.until_back()
    rooms.claim(found.headers["Location"]).run()
    rooms.assert_ended_once(found.headers["Location"])


def test_a_tail_of_a_turn_that_the_promoted_one_never_knew_ends_and_says_so(
    trio: StoreTrio, rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.streams.hub._PATIENCE", 1)
    session = rooms.session()
    trio.until_replicated()
    trio.isolate()
    refused = assert_problem(rooms.post(session, "hello"), 503, "not_replicated")
    reader = rooms.tail(f"{session}/turn/{refused['error']['turn_id']}")

    trio.promote()

    assert reader.ended()[-1].type == "turn_lost"
    rooms.until_back()
    assert rooms.api.client.get(session).json["turns"] == []


def as_of(owner: TurnRun, *, token: str) -> Write:
    """A write that would fit the log as its owner knows it, by somebody with this token."""
    fitting = owner.writer.last_write(delta("s1", "two owners"))
    return replace(fitting, token=token)


def goes_on(owner: TurnRun) -> bool:
    """Whether the owner's next write lands, which it does only behind all that it wrote before."""
    try:
        says(owner, "after the promotion")
    except LogError:
        return False
    return True


def refuses_writes(trio: StoreTrio, owner: TurnRun) -> bool:
    """Whether the old primary, which has no replica any more, takes nothing from an owner that still reaches it."""
    wait_for(lambda: trio.good_replicas() == 0, "the old primary sees that it is alone", seconds=DEADLINE_S)
    try:
        trio.primary.set("written", orjson.dumps(owner.ref.turn_id))
    except RedisError as error:
        return "NOREPLICAS" in str(error)
    return False
