"""Limits of a turn, turns failed by hand, the counts of those that wait, and what is confirmed."""

from collections.abc import Callable

import orjson
import pytest
from logkit import LEASE_S, SECOND, LogKit, Owner, delta, started
from shardcheck import counts

from shared.errors import Conflict, Fenced, InvalidRequest, QueueFull
from shared.events import Json
from shared.ids import SessionRef, TurnRef
from shared.log.sessions import SWEEP_DELAY_S
from shared.log.turn_log import NotClaimable, Terms

NOTHING = ("nothing", None)
FULL = Terms(counted=True, refusal="as many wait as may")
COUNTED = Terms(counted=True)


def limit(kit: LogKit, turn: TurnRef) -> int | None:
    return kit.index(turn.shard, "limits").get(turn.member)


def error(kit: LogKit, turn: TurnRef) -> Json:
    found: Json = orjson.loads(kit.reader.entries(turn)[-1].payload)["error"]
    return found


def waiting(kit: LogKit, session: SessionRef) -> dict[str, int]:
    return dict(counts(kit, session.shard))


def refused(kit: LogKit, turn: TurnRef) -> str:
    with pytest.raises(NotClaimable) as refusal:
        kit.claim(turn)
    return refusal.value.reason


# Time in the queue


def test_a_turn_without_limits_is_in_no_index_of_them(kit: LogKit) -> None:
    turn = kit.accept()
    kit.pass_time(1_000_000)

    assert limit(kit, turn) is None
    assert kit.log.expire(turn) == NOTHING
    assert kit.claim(turn).claim.kind == "start"


def test_a_turn_that_nobody_takes_up_in_time_fails(kit: LogKit) -> None:
    turn = kit.accept(terms=Terms(queue_ttl_s=10))
    assert limit(kit, turn) == kit.now + 10 * SECOND
    kit.pass_time(9.999999)
    assert kit.log.expire(turn) == NOTHING
    kit.pass_time(0.000001)

    assert kit.log.expire(turn) == ("ended", None)

    assert kit.types(turn) == ["turn_created", "turn_failed"]
    assert error(kit, turn)["code"] == "queue_timeout"
    assert (limit(kit, turn), kit.unfolded(turn)) == (None, True)


def test_the_sessions_next_turn_becomes_due_when_the_head_runs_out_of_time(kit: LogKit) -> None:
    session = kit.session()
    first, second = kit.accept(session, terms=Terms(queue_ttl_s=10)), kit.accept(session)
    kit.pass_time(10)

    assert kit.log.expire(first) == ("ended", second.turn_id)
    assert kit.due(second) == kit.now + SECOND


def test_a_turn_that_waits_behind_another_runs_out_of_time_in_its_place(kit: LogKit) -> None:
    session = kit.session()
    owner, second, third = kit.running(session), kit.accept(session, terms=Terms(queue_ttl_s=10)), kit.accept(session)
    kit.pass_time(10)

    assert kit.log.expire(second) == ("ended", None)
    assert kit.queue(session) == [owner.ref.turn_id, third.turn_id]


def test_a_turn_past_its_time_is_not_begun(kit: LogKit) -> None:
    turn = kit.accept(terms=Terms(queue_ttl_s=10))
    kit.pass_time(10)

    assert refused(kit, turn) == "expired"
    assert kit.types(turn) == ["turn_created"]


def test_the_time_in_the_queue_means_nothing_once_a_worker_has_taken_the_turn_up(kit: LogKit) -> None:
    owner = kit.claim(kit.accept(terms=Terms(queue_ttl_s=10)))
    assert limit(kit, owner.ref) is None
    owner.release()
    kit.pass_time(20)

    assert kit.log.expire(owner.ref) == NOTHING
    assert kit.claim(owner.ref).claim.kind == "recovered"


# Deadline


@pytest.mark.parametrize("state", ["queued", "running", "awaiting", "resumed", "released", "lapsed"])
def test_a_turn_past_its_deadline_fails_whatever_it_is_at(kit: LogKit, state: str) -> None:
    session = kit.session()
    turn = kit.accept(session, terms=Terms(deadline_s=60, queue_ttl_s=90))
    second = kit.accept(session)
    owner = None if state == "queued" else kit.claim(turn)
    if owner is not None and state in ("awaiting", "resumed"):
        owner.pause("c1")
    if state == "resumed":
        kit.resume(turn, "c1")
    if owner is not None and state == "released":
        owner.release()
    kit.pass_time(59.999999)
    assert kit.log.expire(turn) == NOTHING
    if state == "lapsed":
        kit.log.reap(turn)
    kit.pass_time(0.000001)

    assert kit.log.expire(turn) == ("ended", second.turn_id)

    assert error(kit, turn)["code"] == "deadline_exceeded"
    assert kit.types(turn)[-1] == "turn_failed"
    assert refused(kit, turn) == "ended"


def test_the_owner_of_a_turn_past_its_deadline_is_fenced_and_told(kit: LogKit) -> None:
    owner = kit.claim(kit.accept(terms=Terms(deadline_s=60)))
    owner.append(started())
    listener = kit.client.pubsub()
    listener.subscribe(kit.keys.control, kit.keys.channel(owner.ref.shard))
    assert [listener.get_message(timeout=5)["type"] for _ in range(2)] == ["subscribe", "subscribe"]
    kit.pass_time(60)

    kit.log.expire(owner.ref)

    told = [listener.get_message(timeout=5) for _ in range(2)]
    assert [message["channel"].decode() for message in told] == [kit.keys.control, kit.keys.channel(owner.ref.shard)]
    assert {message["data"].decode() for message in told} == {owner.ref.member}
    assert owner.renew() == "LOST"
    with pytest.raises(Fenced):
        owner.append(delta())
    listener.close()


def test_a_turn_past_its_deadline_is_not_taken_over(kit: LogKit) -> None:
    owner = kit.claim(kit.accept(terms=Terms(deadline_s=60)))
    kit.pass_time(60)

    assert refused(kit, owner.ref) == "expired"


def test_an_owner_that_is_quicker_than_the_reaper_may_still_finish(kit: LogKit) -> None:
    owner = kit.claim(kit.accept(terms=Terms(deadline_s=60)))
    kit.pass_time(61)

    owner.finish()

    assert kit.log.expire(owner.ref) == NOTHING
    assert kit.status(owner.ref) == "completed"


def test_the_sooner_limit_counts_while_nobody_has_taken_the_turn_up(kit: LogKit) -> None:
    turn = kit.accept(terms=Terms(deadline_s=5, queue_ttl_s=10))
    assert limit(kit, turn) == kit.now + 5 * SECOND
    other = kit.accept(terms=Terms(deadline_s=50, queue_ttl_s=10))
    assert limit(kit, other) == kit.now + 10 * SECOND

    kit.claim(other)

    assert limit(kit, other) == kit.now + 50 * SECOND


def test_where_both_limits_have_passed_the_deadline_is_the_reason(kit: LogKit) -> None:
    turn = kit.accept(terms=Terms(deadline_s=10, queue_ttl_s=5))
    kit.pass_time(10)

    kit.log.expire(turn)

    assert error(kit, turn)["code"] == "deadline_exceeded"


def test_a_turn_whose_cancel_was_asked_for_ends_as_canceled_also_at_its_deadline(kit: LogKit) -> None:
    owner = kit.claim(kit.accept(terms=Terms(deadline_s=60)))
    kit.pass_time(55)
    owner.renew()
    assert kit.log.cancel(owner.ref, reason="no") == ("asked", None)
    kit.pass_time(5)

    assert kit.log.expire(owner.ref) == ("ended", None)

    assert kit.status(owner.ref) == "canceled"
    assert kit.types(owner.ref)[-1] == "turn_canceled"


def test_an_index_that_is_too_early_is_put_right(kit: LogKit) -> None:
    owner = kit.claim(kit.accept(terms=Terms(deadline_s=60)))
    due = limit(kit, owner.ref)
    kit.client.zadd(kit.keys.shard(owner.ref.shard).limits, {owner.ref.member: kit.now})

    assert kit.log.expire(owner.ref) == NOTHING
    assert limit(kit, owner.ref) == due


def test_an_index_entry_of_what_has_ended_or_is_gone_is_taken_out(kit: LogKit) -> None:
    ended, gone = kit.running(), kit.new_turn(kit.session())
    ended.finish()
    for ref in (ended.ref, gone):
        kit.client.zadd(kit.keys.shard(ref.shard).limits, {ref.member: kit.now})

        assert kit.log.expire(ref) == NOTHING
        assert limit(kit, ref) is None


def test_a_repeated_expire_changes_nothing(kit: LogKit) -> None:
    session = kit.session()
    turn, _ = kit.accept(session, terms=Terms(queue_ttl_s=1)), kit.accept(session)
    kit.pass_time(1)
    kit.log.expire(turn)
    before = kit.hash(turn), kit.queue(session)

    assert kit.log.expire(turn) == NOTHING
    assert (kit.hash(turn), kit.queue(session)) == before


def test_limits_count_from_the_first_acceptance(kit: LogKit) -> None:
    session = kit.session()
    turn = kit.accept(session, idempotency_key="k", terms=Terms(deadline_s=60))
    due = limit(kit, turn)
    kit.pass_time(30)

    kit.submit(kit.new_turn(session), idempotency_key="k", terms=Terms(deadline_s=60))

    assert limit(kit, turn) == due


# Failed by hand


@pytest.mark.parametrize("state", ["queued", "running", "awaiting", "lapsed", "asked to cancel"])
def test_a_turn_can_be_failed_by_hand_whatever_it_is_at(kit: LogKit, state: str) -> None:
    session = kit.session()
    turn = kit.accept(session)
    second = kit.accept(session)
    owner = None if state == "queued" else kit.claim(turn)
    if owner is not None and state == "awaiting":
        owner.pause("c1")
    if state == "asked to cancel":
        kit.log.cancel(turn, reason="no")
    kit.pass_time(LEASE_S if state == "lapsed" else 0)

    assert kit.log.fail(turn, code="stuck", message="It hung.") == ("ended", second.turn_id)

    assert (kit.status(turn), error(kit, turn)) == ("failed", {"code": "stuck", "message": "It hung."})
    assert kit.index(turn.shard, "ended").keys() == {turn.member}
    if owner is not None and state == "running":
        assert owner.renew() == "LOST"


def test_failing_what_has_ended_or_is_gone_changes_nothing(kit: LogKit) -> None:
    owner = kit.running()
    owner.finish()
    before = kit.hash(owner.ref)

    assert kit.log.fail(owner.ref, code="c", message="m") == ("terminal", "completed")
    assert kit.hash(owner.ref) == before
    assert kit.log.fail(kit.new_turn(kit.session()), code="c", message="m") == ("gone", None)


# Counts


def test_turns_that_nobody_has_taken_up_are_counted_in_all_and_for_their_agent(kit: LogKit) -> None:
    session = kit.session()
    for _ in range(3):
        kit.accept(session, terms=COUNTED)
    kit.accept(session)

    assert waiting(kit, session) == {"total": 3, "default/agent_a": 3}


def _claimed(kit: LogKit, turn: TurnRef) -> None:
    kit.claim(turn)


def _past_its_time(kit: LogKit, turn: TurnRef) -> None:
    kit.pass_time(60)
    kit.log.expire(turn)


def _interrupted(kit: LogKit, turn: TurnRef) -> None:
    kit.accept(turn.session, terms=Terms(strategy="interrupt"))


def _swept(kit: LogKit, turn: TurnRef) -> None:
    kit.sessions.delete(turn.session)
    kit.pass_time(SWEEP_DELAY_S)
    assert kit.sessions.sweep(turn.session)


LEAVING: dict[str, Callable[[LogKit, TurnRef], object]] = {
    "started": _claimed,
    "canceled": lambda kit, turn: kit.log.cancel(turn, reason="no"),
    "failed by hand": lambda kit, turn: kit.log.fail(turn, code="c", message="m"),
    "past its time": _past_its_time,
    "interrupted": _interrupted,
    "session deleted": lambda kit, turn: kit.sessions.delete(turn.session),
    "session swept": _swept,
}


@pytest.mark.parametrize("how", LEAVING)
def test_a_turn_leaves_the_counts_once_however_it_leaves_the_queue(kit: LogKit, how: str) -> None:
    session = kit.session()
    key = kit.keys.shard(session.shard).queued
    kit.client.hset(key, mapping={"total": 5, "default/agent_a": 5})  # others: what is taken off twice would be missing
    turn = kit.accept(session, terms=Terms(counted=True, deadline_s=60))
    assert waiting(kit, session) == {"total": 6, "default/agent_a": 6}

    LEAVING[how](kit, turn)
    kit.log.cancel(turn, reason="again", end_running=True)
    kit.log.fail(turn, code="again", message="again")
    kit.log.expire(turn)
    kit.log.reap(turn)
    kit.sessions.delete(session)

    assert waiting(kit, session) == {"total": 5, "default/agent_a": 5}
    kit.client.delete(key)


def test_a_turn_is_counted_for_its_first_start_only(kit: LogKit) -> None:
    session = kit.session()
    owner = kit.claim(kit.accept(session, terms=COUNTED))
    assert waiting(kit, session) == {}
    owner.release()
    again = kit.claim(owner.ref)
    again.pause("c1")
    kit.resume(owner.ref, "c1")

    kit.claim(owner.ref).finish()

    assert waiting(kit, session) == {}


def test_a_repeated_claim_takes_one_off_only(kit: LogKit) -> None:
    session = kit.session()
    turn, _ = kit.accept(session, terms=COUNTED), kit.accept(session, terms=COUNTED)
    for _ in range(3):
        kit.claim(turn, token="same")

    assert waiting(kit, session) == {"total": 1, "default/agent_a": 1}


def test_a_repeated_accept_counts_once(kit: LogKit) -> None:
    session = kit.session()
    turn = kit.accept(session, idempotency_key="k", terms=COUNTED)
    kit.submit(turn, idempotency_key="k", terms=COUNTED)
    kit.submit(kit.new_turn(session), idempotency_key="k", terms=COUNTED)
    kit.submit(kit.new_turn(session), keyless_retry=True, terms=COUNTED)

    assert waiting(kit, session) == {"total": 1, "default/agent_a": 1}


def test_turns_that_make_way_leave_the_counts_and_the_new_one_joins_them(kit: LogKit) -> None:
    session = kit.session()
    for _ in range(3):
        kit.accept(session, terms=COUNTED)

    kit.accept(session, terms=Terms(counted=True, strategy="rollback"))

    assert waiting(kit, session) == {"total": 1, "default/agent_a": 1}


# As many as may


@pytest.mark.parametrize("strategy", ["enqueue", "interrupt", "rollback"])
def test_a_new_turn_is_refused_where_as_many_wait_as_may_and_nothing_makes_way_for_it(
    kit: LogKit, strategy: str
) -> None:
    session = kit.session(strategy=strategy)
    owner = kit.running(session)
    before = kit.everything()

    with pytest.raises(QueueFull, match="as many wait as may"):
        kit.submit(kit.new_turn(session), text="x" * 100_000, idempotency_key="k", terms=FULL)

    assert owner.renew() == "OK"
    assert kit.everything() == before


def test_a_repetition_finds_its_turn_also_where_as_many_wait_as_may(kit: LogKit) -> None:
    session = kit.session()
    turn = kit.accept(session, idempotency_key="k")

    found = [
        kit.submit(turn, idempotency_key="k", terms=FULL),
        kit.submit(kit.new_turn(session), idempotency_key="k", terms=FULL),
        kit.submit(kit.new_turn(session), keyless_retry=True, terms=FULL),
    ]

    assert {one.turn_id for one in found} == {turn.turn_id}
    with pytest.raises(InvalidRequest):
        kit.submit(kit.new_turn(session), text="other", idempotency_key="k", terms=FULL)


def test_a_session_that_rejects_says_so_before_it_says_that_too_many_wait(kit: LogKit) -> None:
    session = kit.session(strategy="reject")
    kit.accept(session)

    with pytest.raises(Conflict):
        kit.submit(kit.new_turn(session), terms=FULL)


# Lists


def test_a_turn_is_listed_by_the_time_of_its_acceptance_and_a_failed_one_by_that_of_its_end(kit: LogKit) -> None:
    session = kit.session()
    first = kit.accept(session)
    kit.pass_time(5)
    second = kit.accept(session)
    kit.pass_time(5)
    kit.log.fail(first, code="c", message="m")

    names = kit.keys.index(session.shard, session.tenant)
    scores = {
        name: kit.client.zrange(getattr(names, name), 0, -1, withscores=True) for name in ("all", "active", "failed")
    }
    start = kit.now - 10 * SECOND
    assert scores == {
        "all": [(first.member.encode(), start), (second.member.encode(), start + 5 * SECOND)],
        "active": [(second.member.encode(), start + 5 * SECOND)],
        "failed": [(first.member.encode(), kit.now)],
    }


def test_a_swept_session_leaves_no_list_and_no_limit(kit: LogKit) -> None:
    session = kit.session()
    failed = kit.accept(session, terms=Terms(deadline_s=60, counted=True))
    kit.log.fail(failed, code="c", message="m")
    kit.accept(session, terms=Terms(deadline_s=60, counted=True))
    kit.sessions.delete(session)
    kit.pass_time(SWEEP_DELAY_S)

    assert kit.sessions.sweep(session)
    assert kit.everything() == []


def test_whatever_ends_a_turn_its_lists_have_it_as_it_ended(kit: LogKit) -> None:
    session = kit.session()
    ends: list[Callable[[Owner], object]] = [
        lambda owner: owner.finish(),
        lambda owner: kit.log.cancel(owner.ref, reason="no", end_running=True),
        lambda owner: kit.log.fail(owner.ref, code="c", message="m"),
        lambda owner: kit.log_with(max_attempts=1).reap(owner.ref),
    ]
    for end in ends * 3:
        owner = kit.running(session)
        kit.pass_time(LEASE_S)
        end(owner)

    kit.check()
    assert len(kit.client.zrange(kit.keys.index(session.shard, session.tenant).failed, 0, -1)) == 6


# Confirmed


@pytest.mark.parametrize("durability", ["none", "fsync"])
def test_what_the_store_has_answered_for_is_confirmed_at_once(kit: LogKit, durability: str) -> None:
    turn = kit.accept()
    before = kit.hash(turn)

    assert kit.log_with(durability=durability).confirm(turn)
    assert kit.hash(turn) == before


def test_nothing_is_confirmed_by_a_store_without_a_replica_and_the_turn_stays_as_it_is(kit: LogKit) -> None:
    turn = kit.accept()
    before = kit.hash(turn)

    assert not kit.log_with(durability="replicated").confirm(turn)

    assert {**kit.hash(turn), "confirmed": ""} == {**before, "confirmed": ""}
    assert kit.types(turn) == ["turn_created"]


def test_confirming_a_turn_that_is_gone_makes_no_keys(kit: LogKit) -> None:
    turn = kit.new_turn(kit.session())
    before = kit.everything()

    kit.log_with(durability="replicated").confirm(turn)

    assert kit.everything() == before
