"""What `pause` and `resume` promise: a turn rests without a worker until exactly its pending calls are answered."""

import pytest
from logkit import INPUT_TIMEOUT_S, LEASE_S, SECOND, LogKit, started

from shared.errors import Conflict, Fenced, InvalidRequest, NotFound, TailMismatch
from shared.status import TurnStatus


def test_a_paused_turn_has_no_owner_and_keeps_the_head_of_its_session(kit: LogKit) -> None:
    session = kit.session()
    owner, second = kit.running(session), kit.accept(session)

    assert owner.pause("c1", "c2")

    assert kit.status(owner.ref) == "awaiting_input"
    assert kit.lease(owner.ref) is None
    assert kit.queue(session) == [owner.ref.turn_id, second.turn_id]
    assert kit.due(owner.ref) == kit.now + INPUT_TIMEOUT_S * SECOND
    assert kit.types(owner.ref)[-1] == "turn_awaiting_input"
    assert owner.renew() == "LOST"


def test_a_pause_whose_reply_was_lost_is_repeated_without_a_trace(kit: LogKit) -> None:
    owner = kit.running()
    owner.pause("c1")
    before = kit.hash(owner.ref), kit.raw_events(owner.ref), kit.due(owner.ref)
    kit.pass_time(1)

    assert owner.pause("c1")

    assert (kit.hash(owner.ref), kit.raw_events(owner.ref), kit.due(owner.ref)) == before


def test_a_pause_repeated_after_the_client_has_answered_is_fenced(kit: LogKit) -> None:
    owner = kit.running()
    owner.pause("c1")
    kit.resume(owner.ref, "c1")
    before = kit.hash(owner.ref)

    with pytest.raises(Fenced):
        owner.pause("c1")

    assert kit.hash(owner.ref) == before


def test_after_cancel_was_asked_for_nothing_is_paused(kit: LogKit) -> None:
    owner = kit.running()
    kit.log.cancel(owner.ref, reason="no")
    before = kit.types(owner.ref)

    assert not owner.pause("c1")

    assert kit.types(owner.ref) == before
    assert owner.renew() == "CANCEL"
    assert owner.finish()[0] is TurnStatus.CANCELED


def test_another_token_cannot_pause(kit: LogKit) -> None:
    owner = kit.running()
    owner.token = "not mine"

    with pytest.raises(Fenced):
        owner.pause("c1")

    assert kit.status(owner.ref) == "in_progress"


def test_an_owner_that_was_replaced_cannot_pause(kit: LogKit) -> None:
    owner = kit.running()
    kit.pass_time(LEASE_S)
    successor = kit.claim(owner.ref)

    with pytest.raises(Fenced):
        owner.pause("c1")

    assert successor.renew() == "OK"


def test_a_pause_that_knows_another_tail_writes_nothing(kit: LogKit) -> None:
    owner = kit.running()
    owner.append(started())
    owner.last = 2

    with pytest.raises(TailMismatch) as refusal:
        owner.pause("c1")

    assert refusal.value.last == 3
    assert kit.status(owner.ref) == "in_progress"


def test_a_pause_that_misses_a_private_record_writes_nothing(kit: LogKit) -> None:
    owner = kit.running()
    owner.append(private=[("intent", b"{}")])
    owner.private_last = 1

    with pytest.raises(TailMismatch) as refusal:
        owner.pause("c1")

    assert refusal.value.private_last == 2
    assert kit.status(owner.ref) == "in_progress"


def test_a_pause_counts_as_progress(kit: LogKit) -> None:
    owner = kit.running()
    kit.pass_time(LEASE_S)
    owner = kit.claim(owner.ref)
    assert kit.hash(owner.ref)["lapses"] == "1"

    owner.pause("c1")

    assert "lapses" not in kit.hash(owner.ref)


def test_the_answers_to_all_calls_bring_the_turn_back_into_the_queue(kit: LogKit) -> None:
    turn = kit.awaiting("c1", "c2")
    kit.pass_time(5)

    seq = kit.resume(turn, "c2", "c1")

    assert kit.raw_events(turn)[-1] == (seq, kit.now, "turn_resumed")
    assert kit.status(turn) == "queued"
    assert kit.due(turn) == kit.now + SECOND
    assert [response["call_id"] for response in kit.reader.state(turn).responses] == ["c2", "c1"]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["c1"], "missing call_id: c2"),
        ([], "missing call_id: c1, c2"),
        (["c1", "c2", "c3"], "unknown call_id: c3"),
        (["c1", "c3"], "unknown call_id: c3; missing call_id: c2"),
        (["c1", "c1", "c2"], "each call_id once"),
    ],
)
def test_other_calls_than_the_pending_ones_are_refused_by_name(kit: LogKit, given: list[str], named: str) -> None:
    turn = kit.awaiting("c1", "c2")
    before = kit.hash(turn), kit.raw_events(turn)

    with pytest.raises(InvalidRequest) as refusal:
        kit.resume(turn, *given)

    assert named in refusal.value.message
    assert refusal.value.code == "wrong_call_ids"
    assert (kit.hash(turn), kit.raw_events(turn)) == before


def test_call_ids_of_any_kind_are_compared_whole(kit: LogKit) -> None:
    strange = ['a","b', "é 漢", "", "a b\n"]
    turn = kit.awaiting(*strange)

    with pytest.raises(InvalidRequest):
        kit.resume(turn, "a", "b", "é 漢", "", "a b\n")

    assert kit.resume(turn, *reversed(strange)) == 4


def test_the_same_answers_again_give_the_same_seq(kit: LogKit) -> None:
    turn = kit.awaiting("c1")
    seq = kit.resume(turn, "c1")
    before = kit.hash(turn)

    assert kit.resume(turn, "c1") == seq
    kit.claim(turn)
    assert kit.resume(turn, "c1") == seq

    assert kit.types(turn).count("turn_resumed") == 1
    assert [name for name in kit.hash(turn) if name.startswith("resumed:")] == [
        name for name in before if name.startswith("resumed:")
    ]


def test_answers_that_come_again_after_later_ones_give_the_seq_that_they_had(kit: LogKit) -> None:
    turn = kit.awaiting("c1")
    first = kit.resume(turn, "c1", digest="d1")
    owner = kit.claim(turn)
    owner.pause("c2")
    second = kit.resume(turn, "c2", digest="d2")

    assert kit.resume(turn, "c1", digest="d1") == first
    assert kit.resume(turn, "c2", digest="d2") == second
    assert kit.types(turn).count("turn_resumed") == 2


def test_the_same_answers_again_give_the_same_seq_also_after_the_turns_end(kit: LogKit) -> None:
    turn = kit.awaiting("c1")
    seq = kit.resume(turn, "c1")
    kit.claim(turn).finish()

    assert kit.resume(turn, "c1") == seq


def test_the_first_answers_again_give_their_seq_also_while_other_calls_wait(kit: LogKit) -> None:
    turn = kit.awaiting("c1")
    seq = kit.resume(turn, "c1")
    kit.claim(turn).pause("c2")

    assert kit.resume(turn, "c1") == seq
    assert kit.status(turn) == "awaiting_input"


def test_equal_answers_to_calls_of_equal_ids_resume_each_time(kit: LogKit) -> None:
    """Some servers number the calls of each reply from zero."""
    turn = kit.awaiting("call_0")
    first = kit.resume(turn, "call_0", digest="same")
    kit.claim(turn).pause("call_0")

    second = kit.resume(turn, "call_0", digest="same")

    assert second > first
    assert kit.status(turn) == "queued"


def test_other_answers_to_a_turn_that_no_longer_waits_are_a_conflict(kit: LogKit) -> None:
    turn = kit.awaiting("c1")
    kit.resume(turn, "c1", digest="d1")

    with pytest.raises(Conflict) as refusal:
        kit.resume(turn, "c1", digest="d2")

    assert (refusal.value.code, refusal.value.lasting) == ("not_awaiting_input", True)


@pytest.mark.parametrize("status", ["queued", "in_progress", "completed", "canceled"])
def test_answers_to_a_turn_that_does_not_wait_are_a_conflict_that_names_its_status(kit: LogKit, status: str) -> None:
    turn = kit.accept()
    if status == "canceled":
        kit.log.cancel(turn, reason="no")
    elif status != "queued":
        owner = kit.claim(turn)
        if status == "completed":
            owner.finish()
    assert kit.status(turn) == status

    with pytest.raises(Conflict) as refusal:
        kit.resume(turn, "c1")

    assert status in refusal.value.message


def test_answers_to_a_turn_that_does_not_exist_are_refused(kit: LogKit) -> None:
    with pytest.raises(NotFound):
        kit.resume(kit.new_turn(kit.session()), "c1")


def test_a_turn_may_pause_and_go_on_many_times_under_rising_epochs(kit: LogKit) -> None:
    turn = kit.accept()
    epochs = []
    for number in range(4):
        owner = kit.claim(turn)
        epochs.append(owner.claim.epoch)
        owner.append(started(f"s{number}"))
        owner.pause(f"c{number}")
        kit.resume(turn, f"c{number}", digest=f"d{number}")
    kit.claim(turn).finish()

    assert epochs == sorted(set(epochs))
    assert kit.hash(turn)["attempts"] == "1"
    assert kit.types(turn).count("turn_start") == 1
