"""Identifiers say where their keys lie."""

from dataclasses import astuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import InvalidRequest
from shared.ids import (
    DEFAULT_TENANT,
    SHARDS,
    SessionRef,
    TurnRef,
    new_agent_id,
    new_session_id,
    new_step_id,
    new_token,
    new_turn_id,
    shard_of,
)
from shared.log.keys import Keys


def test_a_turn_lies_in_the_shard_of_its_session() -> None:
    for _ in range(200):
        session_id = new_session_id()
        assert shard_of(new_turn_id(session_id)) == shard_of(session_id) < SHARDS


def test_sessions_spread_over_all_shards() -> None:
    assert {shard_of(new_session_id()) for _ in range(64 * 40)} == set(range(SHARDS))


def test_no_two_ids_are_equal() -> None:
    session_id = new_session_id()
    for new in (new_agent_id, new_session_id, new_step_id, new_token, lambda: new_turn_id(session_id)):
        assert len({new() for _ in range(1000)}) == 1000


@pytest.mark.parametrize(
    "identifier",
    ["", "turn", "turn_", "turn_5_ab", "turn_64_ab", "turn_99_ab", "turn_-1_ab", "turn_05", "turn_05_a_b",
     "turn_\u0660\u0661_ab", "turn_ 1_ab", "turn_+1_ab", "turn_0x_ab", "turn_\u00b2\u00b2_ab", "\x00"],
)  # fmt: skip
def test_an_id_that_nobody_issued_is_refused(identifier: str) -> None:
    with pytest.raises(InvalidRequest):
        shard_of(identifier)


@given(st.text())
def test_any_text_has_a_shard_or_is_refused(identifier: str) -> None:
    try:
        assert 0 <= shard_of(identifier) < SHARDS
    except InvalidRequest:
        pass


def test_a_turns_member_leads_back_to_the_turn_and_begins_with_its_sessions() -> None:
    session_id = new_session_id()
    turn = TurnRef(DEFAULT_TENANT, session_id, new_turn_id(session_id))

    assert TurnRef.parse(turn.member) == turn
    assert turn.session == SessionRef(DEFAULT_TENANT, session_id)
    assert turn.member == turn.session.member + turn.turn_id


def test_keys_of_a_turn_its_session_and_its_shard_have_one_tag_and_name_the_tenant() -> None:
    keys, session_id = Keys("p"), "sess_07_ab"
    turn = TurnRef("acme", session_id, "turn_07_cd")
    shard, session, own = keys.shard(turn.shard), keys.session(turn.session), keys.turn(turn)

    named = [session.session, session.queue, session.turns, own.turn, own.events, own.private, own.blobs]
    named.append(keys.turn_idempotency(turn.session, "any } key { at all"))
    named += astuple(keys.index(turn.shard, "acme"))
    indexes = astuple(shard)

    assert all(key.startswith("p:{s07}:acme:") for key in named)
    assert all(key.startswith("p:{s07}:") for key in indexes)
    assert len({*named, *indexes}) == len(named) + len(indexes)


def test_tenants_share_no_key() -> None:
    keys = Keys("p")
    mine, theirs = (TurnRef(tenant, "sess_07_ab", "turn_07_cd") for tenant in ("a", "b"))

    assert keys.turn(mine) != keys.turn(theirs)
    assert keys.session(mine.session) != keys.session(theirs.session)
    assert keys.agents("a") != keys.agents("b")
    assert keys.agent_sessions("a", "x") != keys.agent_sessions("b", "x")
    assert mine.member != theirs.member
