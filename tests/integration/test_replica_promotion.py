"""A replica is promoted while the link to it is cut: what was confirmed stands, and of each turn one story does.

Real servers, real replication, real sockets. What happens is in the order of the test's lines: the links are held back
before anything is written that must not reach a replica.
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import orjson
import pytest
from apikit import Api, assert_problem, ref_of
from failoverkit import DEADLINE_S, InBackground, Reader, assert_tells
from logkit import TERMINAL_TYPES, delta, started
from redis.exceptions import RedisError
from rooms import Rooms, is_healthy
from storetrio import StoreTrio, port_of
from turnkit import Bench, turn_bench
from waiting import wait_for
from werkzeug.test import TestResponse

from shared.cli.follow import Frame, frames
from shared.errors import Fenced, LogError, StoreError
from shared.events import Json
from shared.ids import TurnRef, new_token
from shared.log.keys import Keys
from shared.log.reader import LogReader
from shared.log.turn_log import NotClaimable, Write
from shared.redis_client import connect
from shared.registry import RegisteredModel, Registry
from shared.runconfig import FrontConfig
from worker.kept import Kept
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
def parts(trio: StoreTrio, key_prefix: str) -> Iterator["Parts"]:
    api = Api.on(trio.url, key_prefix, FrontConfig(durability="replicated"), registry=REGISTRY)
    with turn_bench(trio.url, key_prefix) as bench:  # at its end all sessions and turns hold together
        bench.tools.journal.kept = Kept(seconds=600)  # however slow this machine is
        yield Parts(api, bench)
        api.services.tails.close()
    for thread in api.services.tails._hub._threads:
        thread.join(DEADLINE_S)
    for client in (api.services.reader._client, api.services.calls._client, bench.kit.client):
        client.connection_pool.disconnect()


@dataclass
class Parts:
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
    trio: StoreTrio, parts: Parts, lives: bool
) -> None:
    running, unclaimed, claimed, ended = (parts.accepted(text) for text in ("running", "unclaimed", "claimed", "ended"))
    owner, ender = parts.claim(running), parts.claim(ended)
    owner.writer.emit(started("s1"))
    says(owner, "known", "to the replicas")
    trio.until_replicated()
    known = {turn: parts.ids(turn) for turn in (running, claimed, ended)}

    # The primary is alone, and nobody has noticed.
    trio.isolate()
    says(owner, "known", "to the primary", "alone")
    lonely = parts.claim(claimed)
    ender.run()
    seen_alone = {turn: parts.ids(turn) for turn in (running, claimed, ended)}
    readers = {turn: parts.tail(turn) for turn in (running, claimed, ended)}
    assert readers[ended].ended()[-1].type == "turn_complete"
    session = unclaimed.rpartition("/turn/")[0]
    refused = parts.post(session, "unconfirmed", Idempotency_Key="k")

    problem = assert_problem(refused, 503, "not_replicated")
    assert problem["error"]["turn_id"].startswith("turn_")
    assert refused.headers["Retry-After"]
    assert all(len(seen_alone[turn]) > len(known[turn]) for turn in known)

    # A replica that knows none of it becomes the primary.
    trio.promote()
    parts.until_back()
    assert {turn: parts.ids(turn) for turn in known} == known
    assert refuses_writes(trio, owner)

    assert (lives and goes_on(owner)) is lives
    with pytest.raises(LogError):
        says(lonely, "this claim is lost")
    if lives:
        assert parts.ids(running)[: len(seen_alone[running])] == seen_alone[running]
        owner.run()
    else:
        assert parts.ids(running) == known[running]
        parts.claim(running).run()
    taker = parts.claim(claimed)
    with pytest.raises(Fenced):
        parts.bench.tools.log.append(as_of(taker, token=lonely.writer.token))
    taker.run()
    for turn in (ended, unclaimed):
        parts.claim(turn).run()
    again = parts.post(session, "unconfirmed", Idempotency_Key="k")

    assert again.status_code == 202, again.text
    parts.claim(again.headers["Location"]).run()
    turns = [turn["turn_id"] for turn in parts.api.client.get(session).json["turns"]]
    assert turns == [ref_of(unclaimed).turn_id, again.json["turn_id"]]
    for turn in (running, unclaimed, claimed, ended, again.headers["Location"]):
        parts.assert_ended_once(turn)
    assert not set(parts.ids(claimed)) & set(seen_alone[claimed][1:])
    assert not set(parts.ids(ended)) & set(seen_alone[ended][len(known[ended]) :])

    # Who had read what is gone was told, and has the story that stands.
    reader = parts.api.services.reader
    assert_tells(readers[claimed].ended(), reader, ref_of(claimed))
    assert "reset" in readers[claimed].types
    assert_tells(readers[running].ended(), reader, ref_of(running))
    assert ("reset" in readers[running].types) is not lives
    late = Reader(parts.api.client.get(f"{ended}/events?after={seen_alone[ended][-1]}", buffered=False).iter_encoded())
    assert [frame.type for frame in late.ended()] == ["reset", "turn_complete"]


def test_a_turn_that_no_replica_confirmed_is_found_again_once_the_link_is_back(trio: StoreTrio, parts: Parts) -> None:
    session = parts.session()
    trio.until_replicated()

    trio.isolate()
    refused = assert_problem(parts.post(session, "hello", Idempotency_Key="k"), 503, "not_replicated")
    trio.rejoin()
    found = parts.post(session, "hello", Idempotency_Key="k")

    assert (found.status_code, found.headers["Idempotent-Replayed"]) == (202, "true")
    assert found.json["turn_id"] == refused["error"]["turn_id"]
    trio.promote()
    parts.until_back()
    parts.claim(found.headers["Location"]).run()
    parts.assert_ended_once(found.headers["Location"])


def test_a_tail_of_a_turn_that_the_promoted_one_never_knew_ends_and_says_so(
    trio: StoreTrio, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.streams.hub._PATIENCE", 1)
    session = parts.session()
    trio.until_replicated()
    trio.isolate()
    refused = assert_problem(parts.post(session, "hello"), 503, "not_replicated")
    reader = parts.tail(f"{session}/turn/{refused['error']['turn_id']}")

    trio.promote()

    assert reader.ended()[-1].type == "turn_lost"
    parts.until_back()
    assert parts.api.client.get(session).json["turns"] == []


def test_the_rooms_themselves_go_on_after_a_promotion(trio: StoreTrio, tmp_path: Path) -> None:
    with Rooms(tmp_path, CONFIG, redis_url=trio.url) as rooms:
        rooms.broker_url = rooms.store_url  # hints go another way: here it is about the turn
        api, _ = rooms.api(), rooms.worker()
        rooms.until(lambda: is_healthy(api.port), "the API serves")
        with httpx.Client(base_url=api.url, timeout=DEADLINE_S) as http:
            turn = submitted(http, "story")
            seen: list[Frame] = []
            client = InBackground(lambda: followed(http, turn, seen))
            wait_for(lambda: len(seen) > 10, "the turn runs", seconds=DEADLINE_S)
            trio.isolate()
            alone = len(seen)
            wait_for(lambda: len(seen) > alone + 10, "the turn runs on the primary alone", seconds=DEADLINE_S)
            trio.promote()
            client.result()

            with connect(f"redis://127.0.0.1:{port_of(trio.promoted)}") as store:
                assert_tells(seen, LogReader(client=store, keys=Keys(rooms.key_prefix)), ref_of(turn))
            assert http.get(turn).json()["status"] == "completed"
            assert finished(http, submitted(http, "and another one"))["status"] == "completed"


CONFIG = {
    "durability": "replicated",
    "turns": {"lease_s": 5},
    "providers": {
        "inference": [
            {
                "provider_id": "play",
                "provider_type": "inline::scripted",
                "config": {"rules": [{"match": "story", "text": "once upon a time " * 40, "token_ms": 100}]},
            }
        ]
    },
}


def submitted(http: httpx.Client, text: str) -> str:
    """The path of an accepted turn; one that the store could not take yet is sent again, as clients do it."""
    agent = patiently(http, "/v1/agents", {"agent_config": {"model": "scripted", "instructions": ""}}).json()[
        "agent_id"
    ]
    session = patiently(http, f"/v1/agents/{agent}/session", {"session_name": "s"}).json()["session_id"]
    body = {"messages": [{"role": "user", "content": text}]}
    path: str = patiently(http, f"/v1/agents/{agent}/session/{session}/turn", body).headers["Location"]
    return path


def patiently(http: httpx.Client, path: str, body: Json) -> httpx.Response:
    headers, deadline = {"Idempotency-Key": new_token()}, time.monotonic() + DEADLINE_S
    while (answer := http.post(path, json=body, headers=headers)).status_code == 503:
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.2)
    assert answer.status_code in (200, 202), answer.text
    return answer


def followed(http: httpx.Client, turn: str, seen: list[Frame]) -> None:
    """Fills `seen` to the turn's end, over as many connections as it takes."""
    while not seen or seen[-1].type not in TERMINAL_TYPES:
        headers = {"Last-Event-ID": seen[-1].id} if seen else {}
        with contextlib.suppress(httpx.TransportError):
            with http.stream("GET", f"{turn}/events", headers=headers) as answer:
                seen.extend(frames(answer.iter_bytes()))


def finished(http: httpx.Client, turn: str) -> Json:
    """The turn once it has ended."""
    ended: list[Json] = []

    def has_ended() -> bool:
        ended.append(http.get(turn).json())
        return ended[-1].get("status") in TERMINAL_TYPES.values()

    wait_for(has_ended, f"{turn} ends", seconds=DEADLINE_S)
    return ended[-1]


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
