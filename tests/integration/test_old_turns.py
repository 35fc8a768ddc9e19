"""Turns that an earlier release has left in the middle, taken over by this one's turn loop on a real store."""

from collections.abc import Iterator
from typing import Any

import pytest
from oldlogs import recorded_turns
from turnkit import Bench, turn_bench

from shared.ids import DEFAULT_TENANT, TurnRef

Json = dict[str, Any]

UNFINISHED = {name: turn for name, turn in recorded_turns() if turn["unfinished"]}


@pytest.fixture
def bench(redis_url: str, key_prefix: str) -> Iterator[Bench]:
    with turn_bench(redis_url, key_prefix) as bench:
        yield bench


def put_back(bench: Bench, recorded: Json) -> TurnRef:
    """The turn as it lay in the store of the earlier release, whose worker is gone."""
    ref = TurnRef(DEFAULT_TENANT, recorded["session_id"], recorded["turn_id"])
    client, keys, session = bench.kit.client, bench.kit.keys.turn(ref), bench.kit.keys.session(ref.session)
    shard = bench.kit.keys.shard(ref.shard)
    client.hset(keys.turn, mapping=recorded["hash"])
    client.hset(session.session, mapping=recorded["session"])
    client.rpush(session.queue, ref.turn_id)
    client.zadd(session.turns, {ref.turn_id: int(recorded["hash"]["ordinal"])})
    for entry_id, kind, version, payload in recorded["events"]:
        client.xadd(keys.events, {"t": kind, "v": version, "p": payload}, id=entry_id)
    for entry_id, kind, payload in recorded["private"]:
        client.xadd(keys.private, {"k": kind, "p": payload}, id=entry_id)
    if "deadline" in recorded["hash"]:
        client.zadd(shard.leases, {ref.member: int(recorded["hash"]["deadline"])})
    else:
        client.zadd(shard.due, {ref.member: 0})
    return ref


@pytest.mark.parametrize("name", UNFINISHED)
def test_an_unfinished_turn_of_an_earlier_release_is_taken_over_and_ends(bench: Bench, name: str) -> None:
    recorded = UNFINISHED[name]
    ref = put_back(bench, recorded)
    before = bench.kit.raw_events(ref)
    if recorded["hash"]["status"] == "awaiting_input":
        (call,) = bench.turn(ref)["output_message"]["tool_calls"]
        bench.answer(ref, call, "seen")

    bench.run(ref)

    turn = bench.turn(ref)
    assert (turn["status"], bench.kit.status(ref), bench.kit.queue(ref.session)) == ("completed", "completed", [])
    assert (bench.kit.lease(ref), bench.kit.due(ref)) == (None, None)
    assert bench.kit.raw_events(ref)[: len(before)] == before
    done = [step for step in recorded["fold"]["steps"] if step["completed_at"] is not None]
    assert turn["steps"][: len(done)] == done
    made = [call[0] for call in bench.seats.calls]
    responses = [said["content"] for step in turn["steps"] for said in step.get("tool_responses", [])]
    if recorded["name"] == "a call that may not be repeated, without an outcome":
        assert made == []
        assert responses[0].startswith("Unknown outcome")
    elif recorded["name"] == "a call that may be repeated, without an outcome":
        assert (made, responses) == (["read"], ["read slow"])
    else:
        assert made == []
    if recorded["name"] == "a reply that no shield has seen":
        assert turn["output_message"]["content"] == "Let us hold on."
        assert [step["step_type"] for step in turn["steps"]] == ["inference", "shield_call"]
