"""What becomes of a session's unfinished turns when a new one comes: they stay, or it is refused, or they make way."""

from collections.abc import Callable, Sequence
from typing import Any

import orjson
import pytest
from logkit import LEASE_S, LogKit, Owner, delta, started, text_step

from shared.errors import Conflict, Fenced, InvalidRequest, NotFound
from shared.ids import SessionRef, TurnRef
from shared.log import scripts
from shared.log.turn_log import Terms
from shared.redis_client import Store
from shared.round_trips import Command

MAKING_WAY = ["interrupt", "rollback"]


def terms(strategy: str) -> Terms:
    return Terms(strategy=strategy)


def busy(kit: LogKit, session: SessionRef) -> tuple[Owner, TurnRef, TurnRef]:
    """A session with a turn that runs and two that wait."""
    return kit.running(session), kit.accept(session, text="second"), kit.accept(session, text="third")


def reason(kit: LogKit, turn: TurnRef) -> str:
    return str(orjson.loads(kit.reader.entries(turn)[-1].payload)["reason"])


def between_the_calls(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object], *, times: int = 1) -> None:
    """Have something happen each time that `accept` has said which turns have to make way."""
    plain, left = scripts.Scripts.call, [times]

    def call(self: Any, script: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        reply = plain(self, script, keys, args)
        if script == "accept" and reply[0] == b"MAKE_WAY" and left[0]:
            left[0] -= 1
            act()
        return reply

    monkeypatch.setattr(scripts.Scripts, "call", call)


# Enqueue, reject


def test_a_turn_waits_for_the_others_where_nobody_says_otherwise(kit: LogKit) -> None:
    session = kit.session()
    owner, second, third = busy(kit, session)

    assert kit.queue(session) == [owner.ref.turn_id, second.turn_id, third.turn_id]
    assert owner.renew() == "OK"


def test_a_session_from_an_older_release_enqueues(kit: LogKit) -> None:
    session = kit.session()
    kit.client.hdel(kit.keys.session(session).session, "multitask_strategy")

    owner, second = kit.running(session), kit.accept(session)

    assert kit.queue(session) == [owner.ref.turn_id, second.turn_id]
    assert kit.sessions.get(session).multitask_strategy == "enqueue"  # type: ignore[union-attr]


@pytest.mark.parametrize("state", ["queued", "running", "awaiting", "lapsed"])
def test_a_session_that_rejects_takes_no_turn_beside_an_unfinished_one(kit: LogKit, state: str) -> None:
    session = kit.session(strategy="reject")
    match state:
        case "queued":
            first = kit.accept(session)
        case "awaiting":
            first = kit.awaiting("c1", session=session)
        case _:
            first = kit.running(session).ref
    kit.pass_time(LEASE_S if state == "lapsed" else 0)
    before, turn = kit.everything(), kit.new_turn(session)

    with pytest.raises(Conflict) as refusal:
        kit.submit(turn, text="x" * 100_000)

    assert (refusal.value.code, refusal.value.lasting) == ("session_busy", True)
    assert first.turn_id in refusal.value.message
    assert kit.everything() == before


def test_a_session_that_rejects_takes_a_turn_once_the_one_before_it_has_ended(kit: LogKit) -> None:
    session = kit.session(strategy="reject")
    kit.running(session).finish()

    assert kit.submit(kit.new_turn(session)).is_head


def test_a_rejected_submit_leaves_its_idempotency_key_free(kit: LogKit) -> None:
    session = kit.session(strategy="reject")
    owner = kit.running(session)
    with pytest.raises(Conflict):
        kit.submit(kit.new_turn(session), text="again", idempotency_key="k")
    owner.finish()
    turn = kit.new_turn(session)

    assert kit.submit(turn, text="again", idempotency_key="k").turn_id == turn.turn_id


def test_a_turn_that_was_accepted_is_found_again_by_a_session_that_rejects(kit: LogKit) -> None:
    session = kit.session(strategy="reject")
    first = kit.accept(session, idempotency_key="k")

    by_key = kit.submit(kit.new_turn(session), idempotency_key="k")
    by_id = kit.submit(first, idempotency_key="k")
    by_count = kit.submit(kit.new_turn(session), keyless_retry=True)

    assert {by_key.turn_id, by_id.turn_id, by_count.turn_id} == {first.turn_id}


def test_what_a_turn_says_stands_above_what_its_session_says(kit: LogKit) -> None:
    rejecting, queueing = kit.session(strategy="reject"), kit.session()
    for session in (rejecting, queueing):
        kit.accept(session)

    assert not kit.submit(kit.new_turn(rejecting), terms=terms("enqueue")).is_head
    with pytest.raises(Conflict):
        kit.submit(kit.new_turn(queueing), terms=terms("reject"))

    assert kit.sessions.get(rejecting).multitask_strategy == "reject"  # type: ignore[union-attr]


# Interrupt, rollback


@pytest.mark.parametrize("strategy", MAKING_WAY)
@pytest.mark.parametrize("own", [True, False], ids=["of the turn", "of the session"])
def test_all_unfinished_turns_make_way_and_the_new_one_is_the_head(kit: LogKit, strategy: str, own: bool) -> None:
    session = kit.session(strategy="enqueue" if own else strategy)
    owner, second, third = kit.running(session), *(kit.accept(session, terms=terms("enqueue")) for _ in range(2))
    turn = kit.new_turn(session)

    accepted = kit.submit(turn, terms=terms(strategy) if own else Terms())

    assert (accepted.turn_id, accepted.repeated, accepted.is_head) == (turn.turn_id, False, True)
    assert kit.queue(session) == [turn.turn_id]
    assert kit.due(turn) == kit.now + 1_000_000
    for ended in (owner.ref, second, third):
        assert kit.status(ended) == "canceled"
        assert turn.turn_id in reason(kit, ended)
        assert kit.unfolded(ended)
    assert kit.claim(turn).claim.kind == "start"


@pytest.mark.parametrize("strategy", MAKING_WAY)
def test_the_owner_of_an_interrupted_turn_is_fenced_and_told(kit: LogKit, strategy: str) -> None:
    session = kit.session()
    owner = kit.running(session)
    listener = kit.client.pubsub()
    listener.subscribe(kit.keys.control)
    assert listener.get_message(timeout=5)["type"] == "subscribe"

    kit.accept(session, terms=terms(strategy))

    assert listener.get_message(timeout=5)["data"] == owner.ref.member.encode()
    assert owner.renew() == "LOST"
    for write in (lambda: owner.append(delta()), owner.finish, lambda: owner.pause("c1")):
        with pytest.raises(Fenced):
            write()
    listener.close()


def test_readers_of_an_interrupted_turn_hear_of_its_end(kit: LogKit) -> None:
    session = kit.session()
    owner, second = kit.running(session), kit.accept(session)
    listener = kit.client.pubsub()
    listener.subscribe(kit.keys.channel(session.shard))
    assert listener.get_message(timeout=5)["type"] == "subscribe"

    kit.accept(session, terms=terms("interrupt"))

    told = [listener.get_message(timeout=5)["data"].decode() for _ in range(2)]
    assert told == [second.member, owner.ref.member]
    listener.close()


def test_what_an_interrupted_turn_had_finished_stays_and_its_successor_remembers_it(kit: LogKit) -> None:
    session = kit.session()
    owner = kit.running(session)
    owner.append(*text_step("s1"), started("s2"), delta("s2", "half"))

    turn = kit.accept(session, terms=terms("interrupt"))

    assert kit.types(owner.ref)[-1] == "turn_canceled"
    assert kit.reader.state(owner.ref).as_turn()["steps"][0]["completed_at"] is not None
    assert kit.sessions.history(session) == [owner.ref, turn]


def test_turns_that_were_rolled_back_keep_their_place_and_are_left_out_of_the_history(kit: LogKit) -> None:
    session = kit.session()
    kept = kit.running(session)
    kept.finish()
    owner, second = kit.running(session), kit.accept(session)
    turn = kit.accept(session, terms=terms("rollback"))
    successor = kit.accept(session)

    assert kit.sessions.turns(session) == [kept.ref, owner.ref, second, turn, successor]
    assert kit.sessions.history(session) == [kept.ref, turn, successor]
    assert kit.sessions.history(session, start=1, count=3) == [turn]
    ordinals = [kit.claim(turn).claim.ordinal, int(kit.hash(successor)["ordinal"])]
    assert ordinals == [4, 5]


def test_a_turn_rolled_back_by_one_strategy_stays_so_after_another(kit: LogKit) -> None:
    session = kit.session()
    rolled_back = kit.accept(session)
    interrupted = kit.accept(session, terms=terms("rollback"))
    last = kit.accept(session, terms=terms("interrupt"))

    assert kit.sessions.turns(session) == [rolled_back, interrupted, last]
    assert kit.sessions.history(session) == [interrupted, last]


@pytest.mark.parametrize("strategy", MAKING_WAY)
def test_a_session_without_unfinished_turns_just_takes_the_new_one(kit: LogKit, strategy: str) -> None:
    session = kit.session(strategy=strategy)
    ended = kit.running(session)
    ended.finish()

    turn = kit.accept(session)

    assert kit.status(ended.ref) == "completed"
    assert kit.sessions.history(session) == [ended.ref, turn]


def test_a_turn_that_waits_for_its_client_makes_way_too(kit: LogKit) -> None:
    session = kit.session()
    waiting = kit.awaiting("c1", session=session)

    turn = kit.accept(session, terms=terms("interrupt"))

    assert (kit.status(waiting), kit.queue(session)) == ("canceled", [turn.turn_id])
    with pytest.raises(Conflict):
        kit.resume(waiting, "c1")


def test_a_turn_whose_worker_was_lost_makes_way_at_once(kit: LogKit) -> None:
    session = kit.session()
    owner = kit.running(session)
    kit.pass_time(LEASE_S)
    kit.log.reap(owner.ref)

    turn = kit.accept(session, terms=terms("interrupt"))

    assert kit.status(owner.ref) == "canceled"
    assert kit.claim(turn).claim.kind == "start"


def test_a_turn_whose_cancel_was_asked_for_makes_way_at_once(kit: LogKit) -> None:
    session = kit.session()
    owner = kit.running(session)
    kit.log.cancel(owner.ref, reason="no")

    turn = kit.accept(session, terms=terms("interrupt"))

    assert turn.turn_id in reason(kit, owner.ref)
    assert "cancel" not in kit.hash(owner.ref)


def test_very_many_turns_make_way_at_once_in_order(kit: LogKit) -> None:
    session = kit.session()
    turns = [kit.accept(session, text=str(number)) for number in range(400)]
    kit.claim(turns[0])

    turn = kit.accept(session, terms=terms("rollback"))

    assert kit.queue(session) == [turn.turn_id]
    assert {kit.status(one) for one in turns} == {"canceled"}
    assert kit.sessions.history(session) == [turn]
    assert kit.sessions.turns(session) == [*turns, turn]


def test_an_idle_sessions_expiry_does_not_come_back_with_the_turns_that_made_way(kit: LogKit) -> None:
    session = kit.session(idle_ttl_s=100)
    kit.running(session)

    turn = kit.accept(session, terms=terms("interrupt"))

    assert kit.due(session) is None
    kit.claim(turn).finish()
    assert kit.due(session) == kit.now + 100_000_000


# The queue changes between the two calls


@pytest.mark.parametrize("strategy", MAKING_WAY)
def test_a_turn_that_joined_the_queue_meanwhile_makes_way_too(
    kit: LogKit, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = kit.session()
    first, late = kit.accept(session), kit.new_turn(session)
    between_the_calls(monkeypatch, lambda: kit.submit(late, text="late"))

    turn = kit.accept(session, terms=terms(strategy))

    assert kit.queue(session) == [turn.turn_id]
    assert [kit.status(one) for one in (first, late)] == ["canceled", "canceled"]


def test_a_turn_that_ended_meanwhile_stays_as_it_ended(kit: LogKit, monkeypatch: pytest.MonkeyPatch) -> None:
    session = kit.session()
    owner, second = kit.running(session), kit.accept(session)
    between_the_calls(monkeypatch, owner.finish)

    turn = kit.accept(session, terms=terms("interrupt"))

    assert (kit.status(owner.ref), kit.status(second)) == ("completed", "canceled")
    assert kit.queue(session) == [turn.turn_id]
    assert kit.sessions.history(session) == [owner.ref, second, turn]


def test_the_last_unfinished_turn_may_end_meanwhile(kit: LogKit, monkeypatch: pytest.MonkeyPatch) -> None:
    session = kit.session()
    owner = kit.running(session)
    between_the_calls(monkeypatch, owner.finish)

    turn = kit.accept(session, terms=terms("rollback"))

    assert kit.status(owner.ref) == "completed"
    assert kit.sessions.history(session) == [owner.ref, turn]


def test_a_queue_that_keeps_changing_is_asked_for_until_it_holds_still(
    kit: LogKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = kit.session()
    kit.accept(session)
    late: list[TurnRef] = []
    between_the_calls(monkeypatch, lambda: late.append(kit.accept(session, text=str(len(late)))), times=5)

    turn = kit.accept(session, terms=terms("interrupt"))

    assert len(late) == 5
    assert kit.queue(session) == [turn.turn_id]


def test_a_session_that_was_deleted_meanwhile_takes_no_turn(kit: LogKit, monkeypatch: pytest.MonkeyPatch) -> None:
    session = kit.session()
    first, turn = kit.accept(session), kit.new_turn(session)
    between_the_calls(monkeypatch, lambda: kit.sessions.delete(session))

    with pytest.raises(NotFound):
        kit.submit(turn, text="x" * 100_000, terms=terms("interrupt"))

    assert "deleted" in reason(kit, first)
    assert not [key for key in kit.everything() if turn.turn_id in key]


def test_the_same_key_that_landed_meanwhile_gives_the_turn_that_it_made(
    kit: LogKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = kit.session()
    kit.accept(session)
    first = kit.new_turn(session)
    options: dict[str, Any] = {"text": "new", "idempotency_key": "k", "terms": terms("interrupt")}
    between_the_calls(monkeypatch, lambda: kit.submit(first, **options))

    again = kit.submit(kit.new_turn(session), **options)

    assert (again.turn_id, again.repeated) == (first.turn_id, True)
    assert kit.queue(session) == [first.turn_id]


# Repetitions


@pytest.mark.parametrize("strategy", MAKING_WAY)
@pytest.mark.parametrize("how", ["same id", "same key", "an SDK without a key"])
@pytest.mark.parametrize("state", ["queued", "running", "ended"])
def test_a_repetition_never_interrupts_the_turn_that_it_made(kit: LogKit, strategy: str, how: str, state: str) -> None:
    session = kit.session(strategy=strategy)
    kit.running(session)
    key = "k" if how == "same key" else None
    turn = kit.accept(session, text="new", idempotency_key=key)
    owner = None if state == "queued" else kit.claim(turn)
    if owner is not None and state == "ended":
        owner.finish()
    before = kit.hash(turn)

    ref = turn if how == "same id" else kit.new_turn(session)
    again = kit.submit(ref, text="new", idempotency_key=key, keyless_retry=how == "an SDK without a key")

    assert (again.turn_id, again.repeated) == (turn.turn_id, True)
    assert kit.hash(turn) == before
    assert kit.sessions.turns(session)[-1] == turn


def test_the_key_of_a_turn_that_was_interrupted_finds_it_and_interrupts_nothing(kit: LogKit) -> None:
    session = kit.session(strategy="interrupt")
    first = kit.accept(session, text="first", idempotency_key="k")
    second = kit.accept(session, text="second")

    again = kit.submit(kit.new_turn(session), text="first", idempotency_key="k")

    assert (again.turn_id, again.repeated) == (first.turn_id, True)
    assert kit.queue(session) == [second.turn_id]


def test_a_key_that_came_with_another_body_interrupts_nothing(kit: LogKit) -> None:
    session = kit.session(strategy="rollback")
    first = kit.accept(session, text="first", idempotency_key="k")

    with pytest.raises(InvalidRequest):
        kit.submit(kit.new_turn(session), text="other", idempotency_key="k")

    assert kit.queue(session) == [first.turn_id]


def test_a_session_on_another_shard_is_not_touched(kit: LogKit) -> None:
    session, other = kit.session(), kit.session()
    bystander = kit.running(other)
    kit.running(session)

    kit.accept(session, terms=terms("interrupt"))

    assert bystander.renew() == "OK"


def test_everything_happens_in_one_script(kit: LogKit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is killed in between, either nothing has changed or everything has."""
    session = kit.session()
    owner = kit.running(session)
    sent: list[str] = []
    plain = Store.together

    def counted(self: Store, commands: Sequence[Command]) -> list[Any]:
        sent.extend(kit.status(owner.ref) for command in commands if command[0] == "EVALSHA")
        return plain(self, commands)

    monkeypatch.setattr(Store, "together", counted)
    kit.accept(session, terms=terms("interrupt"))

    assert sent == ["in_progress", "in_progress"], "the question, then the one script that does it all"
    assert kit.status(owner.ref) == "canceled"
