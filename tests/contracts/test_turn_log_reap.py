"""What `reap` promises: no turn is forgotten, none is hinted without end, none kills workers for ever."""

import orjson
import pytest
from logkit import INPUT_TIMEOUT_S, LEASE_S, MAX_ATTEMPTS, SECOND, LogKit, Owner, text_step

HINT, NOTHING = ("hint", None), ("nothing", None)


def lapse(kit: LogKit, owner: Owner) -> tuple[str, str | None]:
    """The owner is silent until its lease is over, and the reaper comes by."""
    kit.pass_time(LEASE_S)
    return kit.log.reap(owner.ref)


def test_a_turn_that_nobody_claims_is_hinted_with_pauses_that_grow_to_a_minute(kit: LogKit) -> None:
    turn = kit.accept()
    pauses = []
    for _ in range(10):
        due = kit.due(turn)
        assert due is not None
        assert kit.log.reap(turn) == NOTHING
        pauses.append((due - kit.now) / SECOND)
        kit.now = due
        assert kit.log.reap(turn) == HINT

    assert pauses == [1, 1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert kit.types(turn) == ["turn_created"]


def test_hints_count_nothing_against_the_turn(kit: LogKit) -> None:
    turn = kit.accept()
    for _ in range(100):
        kit.pass_time(61)
        assert kit.log.reap(turn) == HINT

    assert kit.claim(turn).claim.kind == "start"
    assert "lapses" not in kit.hash(turn)


def test_a_claim_sets_the_pauses_back(kit: LogKit) -> None:
    turn = kit.accept()
    for _ in range(6):
        kit.pass_time(61)
        kit.log.reap(turn)
    kit.claim(turn).release()

    kit.log.reap(turn)

    assert kit.due(turn) == kit.now + SECOND


def test_a_turn_that_is_not_due_is_left_alone(kit: LogKit) -> None:
    turn = kit.accept()
    kit.pass_time(0.999999)
    before = kit.hash(turn)

    assert kit.log.reap(turn) == NOTHING
    assert kit.hash(turn) == before


def test_a_live_lease_is_left_alone(kit: LogKit) -> None:
    owner = kit.running()
    kit.pass_time(LEASE_S - 0.000001)

    assert kit.log.reap(owner.ref) == NOTHING
    assert owner.renew() == "OK"


def test_a_lapsed_lease_is_taken_and_the_turn_hinted_at_once(kit: LogKit) -> None:
    owner = kit.running()

    assert lapse(kit, owner) == HINT

    assert (kit.lease(owner.ref), kit.due(owner.ref)) == (None, kit.now + SECOND)
    assert kit.log.reap(owner.ref) == NOTHING
    assert owner.renew() == "LOST"


def test_a_turn_whose_workers_are_lost_again_and_again_fails_with_the_reason(kit: LogKit) -> None:
    session = kit.session()
    owner, second = kit.running(session), kit.accept(session)
    for _ in range(MAX_ATTEMPTS - 1):
        assert lapse(kit, owner) == HINT
        owner = kit.claim(owner.ref)

    assert lapse(kit, owner) == ("ended", second.turn_id)

    assert kit.status(owner.ref) == "failed"
    assert owner.claim.attempts == MAX_ATTEMPTS
    error = orjson.loads(kit.reader.entries(owner.ref)[-1].payload)["error"]
    assert error["code"] == "max_attempts_exceeded"
    assert str(MAX_ATTEMPTS) in error["message"]
    assert kit.unfolded(owner.ref)
    assert kit.due(second) == kit.now + SECOND


def test_lapses_that_only_claims_saw_count_as_well(kit: LogKit) -> None:
    owner = kit.running()
    for _ in range(MAX_ATTEMPTS - 1):
        kit.pass_time(LEASE_S)
        owner = kit.claim(owner.ref)

    assert lapse(kit, owner) == ("ended", None)


def test_a_turn_that_finishes_a_step_between_lapses_never_fails_for_them(kit: LogKit) -> None:
    owner = kit.running()
    for number in range(3 * MAX_ATTEMPTS):
        owner.append(*text_step(f"s{number}"))
        assert lapse(kit, owner) == HINT
        owner = kit.claim(owner.ref)

    assert kit.status(owner.ref) == "in_progress"


def test_the_epoch_of_a_failure_is_above_the_lost_owners(kit: LogKit) -> None:
    owner = kit.running()
    kit.pass_time(LEASE_S)

    kit.log_with(max_attempts=1).reap(owner.ref)

    assert kit.raw_events(owner.ref)[-1][1] > owner.claim.epoch


def test_a_client_that_does_not_answer_in_time_fails_the_turn(kit: LogKit) -> None:
    session = kit.session()
    turn = kit.awaiting("c1", session=session)
    second = kit.accept(session)
    kit.pass_time(INPUT_TIMEOUT_S - 1)
    assert kit.log.reap(turn) == NOTHING
    kit.pass_time(1)

    assert kit.log.reap(turn) == ("ended", second.turn_id)

    assert kit.status(turn) == "failed"
    assert orjson.loads(kit.reader.entries(turn)[-1].payload)["error"]["code"] == "input_timeout"


def test_a_turn_that_was_answered_in_time_is_hinted_and_does_not_fail(kit: LogKit) -> None:
    turn = kit.awaiting("c1")
    kit.pass_time(INPUT_TIMEOUT_S - 1)
    kit.resume(turn, "c1")
    kit.pass_time(INPUT_TIMEOUT_S)

    assert kit.log.reap(turn) == HINT
    assert kit.claim(turn).claim.kind == "resumed"


@pytest.mark.parametrize("ending", ["finished", "canceled", "gone"])
def test_an_index_that_names_a_turn_which_needs_nothing_is_mended(kit: LogKit, ending: str) -> None:
    owner = kit.running()
    if ending == "finished":
        owner.finish()
    elif ending == "canceled":
        kit.log.cancel(owner.ref, reason="no", end_running=True)
    else:
        for key in kit.everything():
            kit.client.delete(key)
    shard = kit.keys.shard(owner.ref.shard)
    kit.client.zadd(shard.due, {owner.ref.member: 1})
    kit.client.zadd(shard.leases, {owner.ref.member: 1})

    assert kit.log.reap(owner.ref) == NOTHING
    assert (kit.due(owner.ref), kit.lease(owner.ref)) == (None, None)


def test_a_turn_that_is_not_the_head_is_not_hinted_and_leaves_the_index(kit: LogKit) -> None:
    session = kit.session()
    kit.running(session)
    second = kit.accept(session)
    kit.client.zadd(kit.keys.shard(second.shard).due, {second.member: 1})

    assert kit.log.reap(second) == NOTHING
    assert kit.due(second) is None


def test_a_reaper_mends_a_deadline_that_a_clock_step_put_far_off(kit: LogKit) -> None:
    owner = kit.running()
    kit.pass_time(-3600)

    assert kit.log.reap(owner.ref) == NOTHING
    assert kit.lease(owner.ref) == kit.now + LEASE_S * SECOND

    assert lapse(kit, owner) == HINT


def test_a_reaped_turn_is_recovered_from_its_finished_steps(kit: LogKit) -> None:
    owner = kit.running()
    owner.append(*text_step("s1"))
    lapse(kit, owner)
    successor = kit.claim(owner.ref)

    successor.append(*text_step("s2"))
    successor.finish()

    assert [step["step_id"] for step in kit.reader.state(owner.ref).steps] == ["s1", "s2"]
