"""What `claim` promises: one owner at a time, a rising epoch, and nothing done that is not to be done."""

import orjson
import pytest
from logkit import LEASE_S, SECOND, START, LogKit, text_step

from shared.events import SCHEMA_VERSION, StepProgress
from shared.ids import DEFAULT_TENANT, SessionRef, new_session_id
from shared.log.turn_log import NotClaimable


def refusal(kit: LogKit, ref: object) -> str:
    """Why a claim is refused; it changes nothing."""
    before = {key: kit.client.dump(key) for key in kit.everything()}
    with pytest.raises(NotClaimable) as refused:
        kit.claim(ref)  # type: ignore[arg-type]
    assert {key: kit.client.dump(key) for key in kit.everything()} == before
    return refused.value.reason


def test_the_first_claim_starts_the_turn_and_brings_its_input_and_config(kit: LogKit) -> None:
    turn = kit.accept(config={"model": "m"})
    kit.pass_time(2)

    claim = kit.claim(turn, token="mine").claim

    assert (claim.kind, claim.token, claim.attempts, claim.ordinal) == ("start", "mine", 1, 1)
    assert (claim.last, claim.private_last, claim.epoch) == (2, 1, START + 2 * SECOND)
    assert [entry.event_type for entry in claim.first] == ["turn_created"]
    assert [orjson.loads(record.payload) for record in claim.config] == [{"model": "m"}]
    assert kit.raw_events(turn)[1] == (2, START + 2 * SECOND, "turn_start")
    assert kit.status(turn) == "in_progress"
    assert (kit.lease(turn), kit.due(turn)) == (kit.now + LEASE_S * SECOND, None)


def test_the_start_tells_its_turn_attempt_and_time(kit: LogKit) -> None:
    owner = kit.running()

    [_, start] = kit.reader.entries(owner.ref)

    payload = orjson.loads(start.payload)
    assert payload == {
        "event_type": "turn_start",
        "turn_id": owner.ref.turn_id,
        "attempt": 1,
        "started_at": owner.claim.claimed_at,
    }


def test_a_live_lease_is_busy(kit: LogKit) -> None:
    owner = kit.running()
    kit.pass_time(LEASE_S - 0.000001)

    assert refusal(kit, owner.ref) == "busy"


def test_a_claim_whose_reply_was_lost_gives_the_same_answer_again(kit: LogKit) -> None:
    turn = kit.accept()
    first = kit.claim(turn, token="mine").claim
    before = kit.hash(turn)
    kit.pass_time(1)

    again = kit.claim(turn, token="mine").claim

    assert (again.kind, again.epoch, again.last, again.attempts) == (first.kind, first.epoch, first.last, 1)
    assert (again.first, again.config) == (first.first, first.config)
    assert kit.hash(turn) == before
    assert kit.types(turn) == ["turn_created", "turn_start"]


def test_a_takeover_whose_reply_was_lost_gives_the_same_answer_again(kit: LogKit) -> None:
    owner = kit.running()
    kit.pass_time(LEASE_S + 1)
    first = kit.claim(owner.ref, token="mine").claim

    again = kit.claim(owner.ref, token="mine").claim

    assert (again.kind, again.epoch, again.last) == ("recovered", first.epoch, first.last)


@pytest.mark.parametrize("ending", ["completed", "canceled", "failed"])
def test_an_ended_turn_is_not_claimed(kit: LogKit, ending: str) -> None:
    owner = kit.running()
    if ending == "completed":
        owner.finish()
    elif ending == "canceled":
        kit.log.cancel(owner.ref, reason="no", end_running=True)
    else:
        kit.pass_time(LEASE_S + 1)
        kit.log_with(max_attempts=1).reap(owner.ref)

    assert kit.status(owner.ref) == ending
    assert refusal(kit, owner.ref) == "ended"


def test_a_turn_that_waits_for_its_client_is_not_claimed(kit: LogKit) -> None:
    assert refusal(kit, kit.awaiting("c1")) == "awaiting"


def test_only_the_head_of_the_session_is_claimed(kit: LogKit) -> None:
    session = kit.session()
    first, second = kit.accept(session), kit.accept(session)

    assert refusal(kit, second) == "not_head"
    assert kit.claim(first).claim.ordinal == 1
    assert refusal(kit, second) == "not_head"


def test_a_turn_behind_one_that_waits_for_its_client_is_not_claimed(kit: LogKit) -> None:
    session = kit.session()
    kit.awaiting("c1", session=session)

    assert refusal(kit, kit.accept(session)) == "not_head"


def test_a_turn_of_a_newer_release_is_left_to_it(kit: LogKit) -> None:
    turn = kit.accept()
    kit.client.hset(kit.keys.turn(turn).turn, "schema", SCHEMA_VERSION + 1)

    assert refusal(kit, turn) == "newer"


def test_a_turn_that_does_not_exist_is_gone(kit: LogKit) -> None:
    assert refusal(kit, kit.new_turn(SessionRef(DEFAULT_TENANT, new_session_id()))) == "gone"


def test_after_a_lapse_the_turn_is_recovered_by_the_next_claim(kit: LogKit) -> None:
    owner = kit.running()
    owner.append(*text_step("s1"))
    kit.pass_time(LEASE_S)

    claim = kit.claim(owner.ref).claim

    assert (claim.kind, claim.attempts, claim.epoch > owner.claim.epoch) == ("recovered", 2, True)
    assert (claim.first, claim.config) == ([], [])
    assert kit.types(owner.ref)[-1] == "turn_recovered"
    assert kit.hash(owner.ref)["lapses"] == "1"


def test_after_the_reaper_took_the_lease_the_next_claim_recovers_too(kit: LogKit) -> None:
    owner = kit.running()
    kit.pass_time(LEASE_S)
    assert kit.log.reap(owner.ref) == ("hint", None)

    claim = kit.claim(owner.ref).claim

    assert (claim.kind, claim.attempts) == ("recovered", 2)
    assert kit.hash(owner.ref)["lapses"] == "1"


def test_after_a_release_the_next_claim_recovers_and_counts_against_nobody(kit: LogKit) -> None:
    owner = kit.running()
    owner.release()

    claim = kit.claim(owner.ref).claim

    assert (claim.kind, claim.attempts) == ("recovered", 2)
    assert "lapses" not in kit.hash(owner.ref)
    recovered = orjson.loads(kit.reader.entries(owner.ref)[-1].payload)
    assert recovered == {
        "event_type": "turn_recovered",
        "turn_id": owner.ref.turn_id,
        "attempt": 2,
        "recovered_at": claim.claimed_at,
    }


def test_after_a_resume_the_claim_appends_nothing(kit: LogKit) -> None:
    turn = kit.awaiting("c1")
    kit.resume(turn, "c1")
    before = kit.types(turn)

    claim = kit.claim(turn).claim

    assert (claim.kind, claim.attempts) == ("resumed", 1)
    assert claim.last == len(before)
    assert kit.types(turn) == before


def test_a_resumed_turn_whose_owner_is_lost_is_recovered(kit: LogKit) -> None:
    turn = kit.awaiting("c1")
    kit.resume(turn, "c1")
    kit.claim(turn)
    kit.pass_time(LEASE_S)

    claim = kit.claim(turn).claim

    assert (claim.kind, claim.attempts) == ("recovered", 2)


@pytest.mark.parametrize("trouble", ["release", "lapse"])
def test_a_recovery_before_the_pause_is_not_recovered_again_after_the_resume(kit: LogKit, trouble: str) -> None:
    owner = kit.running()
    if trouble == "release":
        owner.release()
    else:
        kit.pass_time(LEASE_S)
    kit.claim(owner.ref).pause("c1")
    kit.resume(owner.ref, "c1")

    claim = kit.claim(owner.ref).claim

    assert (claim.kind, claim.attempts) == ("resumed", 2)


def test_the_same_token_after_its_lease_has_lapsed_is_a_new_claim(kit: LogKit) -> None:
    owner = kit.running()
    kit.pass_time(LEASE_S)

    claim = kit.claim(owner.ref, token=owner.token).claim

    assert (claim.kind, claim.attempts) == ("recovered", 2)
    assert claim.epoch > owner.claim.epoch
    assert kit.lease(owner.ref) == kit.now + LEASE_S * SECOND


def test_each_claim_has_a_higher_epoch_also_where_the_clock_stands_or_falls(kit: LogKit) -> None:
    owner = kit.running()
    epochs = [owner.claim.epoch]
    for step in (0, -3600, 0):
        owner.append(StepProgress(step_type="inference", step_id="s1", delta={"type": "text", "text": "x"}))
        owner.release()
        kit.pass_time(step)
        owner = kit.claim(owner.ref)
        epochs.append(owner.claim.epoch)

    assert epochs == sorted(set(epochs))
    kit.check()


def test_a_deadline_further_off_than_one_lease_counts_as_one_lease(kit: LogKit) -> None:
    """After a promotion the new server's clock may be behind by any time."""
    owner = kit.running()
    kit.pass_time(-3600)

    assert refusal_after_clock_step(kit, owner.ref) == "busy"
    kit.pass_time(LEASE_S)

    assert kit.claim(owner.ref).claim.kind == "recovered"


def refusal_after_clock_step(kit: LogKit, ref: object) -> str:
    with pytest.raises(NotClaimable) as refused:
        kit.claim(ref)  # type: ignore[arg-type]
    return refused.value.reason
