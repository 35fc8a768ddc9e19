"""What `accept` promises: a turn is accepted once, into its session's queue."""

import orjson
import pytest
from logkit import START, LogKit

from shared.errors import InvalidRequest, NotFound
from shared.ids import DEFAULT_TENANT, SessionRef, new_session_id
from shared.log.blobs import INLINE_LIMIT


def test_an_accepted_turn_is_queued_with_its_input_as_event_1_and_its_config_private(kit: LogKit) -> None:
    session = kit.session()
    turn = kit.new_turn(session)

    accepted = kit.submit(turn, text="hello", config={"model": "m", "instructions": "be brief"})

    assert (accepted.turn_id, accepted.repeated, accepted.is_head) == (turn.turn_id, False, True)
    assert kit.raw_events(turn) == [(1, START, "turn_created")]
    assert kit.raw_private(turn) == [(1, START, "config")]
    [event], [config] = kit.reader.entries(turn), kit.reader.private(turn)
    assert orjson.loads(event.payload)["input_messages"] == [{"role": "user", "content": "hello"}]
    assert "instructions" not in event.payload.decode()
    assert orjson.loads(config.payload) == {"model": "m", "instructions": "be brief"}
    row = kit.reader.row(turn)
    assert row is not None
    assert (row.status, row.agent_id, row.session_id) == ("queued", "agent_a", session.session_id)
    assert (row.attempts, row.last, row.snapshot) == (0, 1, None)


def test_the_head_is_due_after_the_publishers_own_hint_and_the_others_are_not_due(kit: LogKit) -> None:
    session = kit.session()
    first, second = kit.new_turn(session), kit.new_turn(session)

    heads = [kit.submit(first).is_head, kit.submit(second).is_head]

    assert heads == [True, False]
    assert kit.due(first) == START + 1_000_000
    assert kit.due(second) is None
    assert kit.queue(session) == [first.turn_id, second.turn_id]


def test_turns_are_listed_in_the_order_of_their_acceptance(kit: LogKit) -> None:
    session = kit.session()

    turns = [kit.accept(session, text=str(number)) for number in range(12)]

    assert kit.sessions.turns(session) == turns
    assert kit.sessions.turns(session, start=3, count=2) == turns[3:5]


def test_a_repeated_accept_of_the_same_turn_id_changes_nothing(kit: LogKit) -> None:
    turn = kit.accept()
    before = kit.hash(turn)
    kit.pass_time(1)

    again = kit.submit(turn)

    assert (again.turn_id, again.repeated) == (turn.turn_id, True)
    assert kit.hash(turn) == before
    assert kit.types(turn) == ["turn_created"]


def test_a_repeated_accept_keeps_the_large_input_of_the_first(kit: LogKit) -> None:
    text = "x" * (INLINE_LIMIT + 1)
    turn = kit.accept(text=text)

    kit.submit(turn, text=text)

    assert text in kit.reader.entries(turn)[0].payload.decode()


def test_the_same_idempotency_key_and_body_give_the_first_turn(kit: LogKit) -> None:
    session = kit.session()
    first = kit.accept(session, idempotency_key="k", text="x" * (INLINE_LIMIT + 1))
    second = kit.new_turn(session)

    again = kit.submit(second, idempotency_key="k", text="x" * (INLINE_LIMIT + 1))

    assert (again.turn_id, again.repeated) == (first.turn_id, True)
    assert kit.queue(session) == [first.turn_id]
    assert not [key for key in kit.everything() if second.turn_id in key]


def test_an_idempotency_key_holds_after_its_turn_has_ended_and_for_a_day(kit: LogKit) -> None:
    session = kit.session()
    first = kit.accept(session, idempotency_key="k")
    kit.log.cancel(first, reason="no")
    kit.accept(session, text="another turn since")

    again = kit.submit(kit.new_turn(session), idempotency_key="k")

    assert again.turn_id == first.turn_id
    assert 86_000 < kit.client.ttl(kit.keys.turn_idempotency(session, "k")) <= 86_400


def test_the_same_idempotency_key_with_another_body_is_refused_and_leaves_nothing(kit: LogKit) -> None:
    session = kit.session()
    first = kit.accept(session, idempotency_key="k")
    second = kit.new_turn(session)

    with pytest.raises(InvalidRequest) as refusal:
        kit.submit(second, idempotency_key="k", text="y" * (INLINE_LIMIT + 1))

    assert refusal.value.code == "idempotency_key_reused"
    assert kit.queue(session) == [first.turn_id]
    assert not [key for key in kit.everything() if second.turn_id in key]


def test_an_idempotency_key_means_nothing_in_another_session(kit: LogKit) -> None:
    first = kit.accept(idempotency_key="k")

    second = kit.accept(idempotency_key="k")

    assert first.turn_id != second.turn_id
    assert kit.types(second) == ["turn_created"]


def test_a_turn_of_a_session_that_is_not_there_is_refused_and_leaves_nothing(kit: LogKit) -> None:
    session = SessionRef(DEFAULT_TENANT, new_session_id())

    with pytest.raises(NotFound) as refusal:
        kit.submit(kit.new_turn(session), text="x" * (INLINE_LIMIT + 1))

    assert refusal.value.kind == "session"
    assert kit.everything() == []


def test_a_turn_of_another_agents_session_is_refused_and_leaves_nothing(kit: LogKit) -> None:
    session = kit.session(agent_id="agent_b")
    before = kit.everything()

    with pytest.raises(NotFound) as refusal:
        kit.submit(kit.new_turn(session))

    assert refusal.value.kind == "session"
    assert kit.everything() == before


def test_a_turn_of_a_deleted_session_is_refused(kit: LogKit) -> None:
    session = kit.session()
    kit.sessions.delete(session)

    with pytest.raises(NotFound):
        kit.submit(kit.new_turn(session))

    assert kit.queue(session) == []


def test_an_accept_repeated_after_its_session_was_deleted_still_finds_its_turn(kit: LogKit) -> None:
    session = kit.session()
    turn = kit.accept(session, text="x" * (INLINE_LIMIT + 1))
    kit.sessions.delete(session)

    again = kit.submit(turn, text="x" * (INLINE_LIMIT + 1))

    assert again.repeated
    assert [entry.event_type for entry in kit.reader.entries(turn)] == ["turn_created", "turn_canceled"]


def test_an_sdk_that_retries_without_a_key_gets_the_latest_turn_with_the_same_body(kit: LogKit) -> None:
    session = kit.session()
    first = kit.accept(session)
    kit.pass_time(200)

    again = kit.submit(kit.new_turn(session), keyless_retry=True)

    assert (again.turn_id, again.repeated) == (first.turn_id, True)
    assert kit.queue(session) == [first.turn_id]


def test_an_sdks_retry_finds_its_turn_also_after_that_has_ended(kit: LogKit) -> None:
    session = kit.session()
    owner = kit.running(session)
    owner.finish()

    again = kit.submit(kit.new_turn(session), keyless_retry=True)

    assert again.turn_id == owner.ref.turn_id


def test_an_sdks_retry_after_200_seconds_is_a_new_turn(kit: LogKit) -> None:
    session = kit.session()
    kit.accept(session)
    kit.pass_time(200.000001)
    turn = kit.new_turn(session)

    accepted = kit.submit(turn, keyless_retry=True)

    assert (accepted.turn_id, accepted.repeated) == (turn.turn_id, False)


def test_an_sdks_retry_never_gets_an_older_turn_than_the_latest(kit: LogKit) -> None:
    session = kit.session()
    kit.accept(session, text="a")
    kit.accept(session, text="b")
    turn = kit.new_turn(session)

    accepted = kit.submit(turn, text="a", keyless_retry=True)

    assert accepted.turn_id == turn.turn_id


def test_an_sdks_retry_with_another_body_is_a_new_turn(kit: LogKit) -> None:
    session = kit.session()
    kit.accept(session, text="a")
    turn = kit.new_turn(session)

    accepted = kit.submit(turn, text="b", keyless_retry=True)

    assert accepted.turn_id == turn.turn_id


def test_an_sdks_first_try_that_never_arrived_is_a_new_turn(kit: LogKit) -> None:
    session = kit.session()
    turn = kit.new_turn(session)

    accepted = kit.submit(turn, keyless_retry=True)

    assert (accepted.turn_id, accepted.repeated, accepted.is_head) == (turn.turn_id, False, True)


def test_two_equal_messages_without_a_key_are_two_turns(kit: LogKit) -> None:
    session = kit.session()

    first, second = kit.accept(session), kit.accept(session)

    assert kit.queue(session) == [first.turn_id, second.turn_id]


def test_a_large_config_and_a_large_input_are_read_back_whole(kit: LogKit) -> None:
    text, instructions = "é" * INLINE_LIMIT, "i" * (INLINE_LIMIT + 1)

    turn = kit.accept(text=text, config={"instructions": instructions})

    assert orjson.loads(kit.reader.entries(turn)[0].payload)["input_messages"][0]["content"] == text
    assert orjson.loads(kit.reader.private(turn)[0].payload) == {"instructions": instructions}
    assert kit.client.memory_usage(kit.keys.turn(turn).events) < INLINE_LIMIT
