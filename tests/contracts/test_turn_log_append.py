"""What `append`, `renew` and `release` promise to an owner, and what they refuse to everybody else."""

import orjson
import pytest
from logkit import LEASE_S, SECOND, START, LogKit, Owner, delta, started, text_step

from shared.errors import Fenced, StoreError, TailMismatch
from shared.log.blobs import INLINE_LIMIT
from shared.log.turn_log import Written


def fenced(kit: LogKit, owner: Owner) -> bool:
    """Whether the owner's append is refused and leaves no trace."""
    before = {key: kit.client.dump(key) for key in kit.everything()}
    with pytest.raises(Fenced):
        owner.append(delta())
    return {key: kit.client.dump(key) for key in kit.everything()} == before


def test_a_batch_follows_the_log_in_order_under_the_claims_epoch(kit: LogKit) -> None:
    owner = kit.running()
    kit.pass_time(5)

    written = owner.append(*text_step("s1"))

    assert written == Written(5, 1, cancel=False)
    epoch = owner.claim.epoch
    assert kit.raw_events(owner.ref)[2:] == [
        (3, epoch, "step_start"),
        (4, epoch, "step_progress"),
        (5, epoch, "step_complete"),
    ]


def test_an_append_renews_a_lease_that_has_less_than_half_of_it_left(kit: LogKit) -> None:
    owner = kit.running()
    kit.pass_time(10)

    owner.append(started())

    assert kit.lease(owner.ref) == kit.now + LEASE_S * SECOND


def test_an_append_leaves_a_lease_alone_that_has_half_of_it_left(kit: LogKit) -> None:
    owner = kit.running()
    deadline = kit.lease(owner.ref)
    kit.pass_time(LEASE_S / 2)

    owner.append(started())

    assert kit.lease(owner.ref) == deadline


def test_an_append_mends_a_lease_that_a_clock_step_put_far_off(kit: LogKit) -> None:
    owner = kit.running()
    kit.pass_time(-60)

    owner.append(started())

    assert kit.lease(owner.ref) == kit.now + LEASE_S * SECOND


def test_private_records_are_written_with_the_batch_and_shown_to_no_reader(kit: LogKit) -> None:
    owner = kit.running()

    written = owner.append(started(), private=[("intent", b'{"call_id":"c1"}'), ("done", b"{}")])

    assert written == Written(3, 3, cancel=False)
    assert [(record.seq, record.kind) for record in kit.reader.private(owner.ref)] == [
        (1, "config"),
        (2, "intent"),
        (3, "done"),
    ]
    assert kit.reader.private(owner.ref)[1].payload == b'{"call_id":"c1"}'
    assert "intent" not in kit.types(owner.ref)


def test_private_records_can_be_written_alone(kit: LogKit) -> None:
    owner = kit.running()

    assert owner.append(private=[("intent", b"{}")]) == Written(2, 2, cancel=False)


def test_an_empty_batch_writes_nothing_and_renews_the_lease(kit: LogKit) -> None:
    owner = kit.running()
    kit.pass_time(10)

    assert owner.append() == Written(2, 1, cancel=False)
    assert kit.lease(owner.ref) == kit.now + LEASE_S * SECOND


def test_an_owner_whose_lease_has_lapsed_may_write_while_nobody_took_the_turn(kit: LogKit) -> None:
    owner = kit.running()
    kit.pass_time(LEASE_S * 10)

    owner.append(started())

    assert kit.lease(owner.ref) == kit.now + LEASE_S * SECOND
    assert kit.log.reap(owner.ref) == ("nothing", None)


def test_another_token_is_fenced_and_writes_nothing(kit: LogKit) -> None:
    owner = kit.running()
    owner.token = "somebody else's"

    assert fenced(kit, owner)


def test_an_owner_that_was_replaced_is_fenced(kit: LogKit) -> None:
    owner = kit.running()
    kit.pass_time(LEASE_S)
    successor = kit.claim(owner.ref)

    assert fenced(kit, owner)
    assert successor.append(started()).last == 4


def test_an_owner_whose_lease_the_reaper_took_is_fenced(kit: LogKit) -> None:
    owner = kit.running()
    kit.pass_time(LEASE_S)
    kit.log.reap(owner.ref)

    assert fenced(kit, owner)


def test_an_owner_that_gave_its_lease_back_is_fenced(kit: LogKit) -> None:
    owner = kit.running()
    owner.release()

    assert fenced(kit, owner)


def test_an_owner_whose_turn_rests_is_fenced(kit: LogKit) -> None:
    owner = kit.running()
    owner.pause("c1")

    assert fenced(kit, owner)


@pytest.mark.parametrize("ending", ["finished", "canceled"])
def test_nothing_is_appended_to_a_turn_that_has_ended(kit: LogKit, ending: str) -> None:
    owner = kit.running()
    if ending == "finished":
        owner.finish()
    else:
        kit.log.cancel(owner.ref, reason="no", end_running=True)
    owner.last = int(kit.hash(owner.ref)["last"])

    assert fenced(kit, owner)


def test_a_turn_that_is_gone_is_not_revived(kit: LogKit) -> None:
    owner = kit.running()
    for key in kit.everything():
        kit.client.delete(key)

    assert fenced(kit, owner)
    assert kit.everything() == []


def test_a_batch_whose_reply_was_lost_shows_as_a_tail_ahead_and_is_not_written_twice(kit: LogKit) -> None:
    owner = kit.running()
    batch = owner.batch(started(), delta(), private=[("intent", b"{}")])
    kit.log.append(batch)
    before = kit.raw_events(owner.ref)

    with pytest.raises(TailMismatch) as refusal:
        kit.log.append(batch)

    assert (refusal.value.last, refusal.value.private_last) == (4, 2)
    assert kit.raw_events(owner.ref) == before


def test_a_private_batch_whose_reply_was_lost_shows_as_a_tail_ahead_too(kit: LogKit) -> None:
    owner = kit.running()
    batch = owner.batch(private=[("intent", b"{}")])
    kit.log.append(batch)

    with pytest.raises(TailMismatch) as refusal:
        kit.log.append(batch)

    assert (refusal.value.last, refusal.value.private_last) == (2, 2)
    assert len(kit.raw_private(owner.ref)) == 2


def test_a_store_that_lost_events_shows_as_a_tail_behind(kit: LogKit) -> None:
    owner = kit.running()
    owner.last = 7

    with pytest.raises(TailMismatch) as refusal:
        owner.append(started())

    assert refusal.value.last == 2
    assert kit.types(owner.ref) == ["turn_created", "turn_start"]


def test_a_mismatched_tail_does_not_renew_the_lease(kit: LogKit) -> None:
    owner = kit.running()
    owner.last = 7
    kit.pass_time(5)

    with pytest.raises(TailMismatch):
        owner.append(started())

    assert kit.lease(owner.ref) == START + LEASE_S * SECOND


def test_the_reply_says_that_cancel_was_asked_for(kit: LogKit) -> None:
    owner = kit.running()
    assert kit.log.cancel(owner.ref, reason="no") == ("asked", None)

    assert owner.append(started()).cancel
    assert owner.append(delta()).cancel
    assert owner.renew() == "CANCEL"


def test_a_finished_step_sets_the_count_of_lapses_back(kit: LogKit) -> None:
    owner = kit.running()
    for _ in range(5):
        kit.pass_time(LEASE_S)
        assert kit.log.reap(owner.ref) == ("hint", None)
        owner = kit.claim(owner.ref)
        owner.append(*text_step(f"s{kit.now}"))

    assert "lapses" not in kit.hash(owner.ref)


def test_a_step_that_only_went_on_does_not_set_the_count_of_lapses_back(kit: LogKit) -> None:
    owner = kit.running()
    kit.pass_time(LEASE_S)
    owner = kit.claim(owner.ref)

    owner.append(started(), delta(), private=[("step_complete", b"{}")])

    assert kit.hash(owner.ref)["lapses"] == "1"


def test_large_payloads_lie_beside_the_log_and_are_read_back_whole(kit: LogKit) -> None:
    owner, text = kit.running(), "x" * (INLINE_LIMIT + 1)

    owner.append(started(), delta(text=text), delta(text="small"), private=[("held", text.encode())])

    assert [entry.seq for entry in kit.reader.entries(owner.ref)] == [1, 2, 3, 4, 5]
    assert orjson.loads(kit.reader.entries(owner.ref)[3].payload)["delta"]["text"] == text
    assert kit.reader.private(owner.ref)[1].payload == text.encode()
    assert kit.reader.state(owner.ref).output_message()["content"] == text + "small"
    assert kit.client.memory_usage(kit.keys.turn(owner.ref).events) < INLINE_LIMIT


def test_text_of_any_kind_comes_back_unchanged(kit: LogKit) -> None:
    owner, text = kit.running(), 'a\x00b\r\n"quoted" \\ é 漢字 😀 \u2028'

    owner.append(started(), delta(text=text))

    assert orjson.loads(kit.reader.entries(owner.ref)[-1].payload)["delta"]["text"] == text


def test_a_long_log_is_read_in_pages_without_gap_or_repetition(kit: LogKit) -> None:
    owner = kit.running()
    owner.append(started())
    for _ in range(5):
        owner.append(*[delta(text="x") for _ in range(450)])

    seqs = [entry.seq for entry in kit.reader.all_entries(owner.ref)]

    assert seqs == list(range(1, 2254))
    assert [entry.seq for entry in kit.reader.all_entries(owner.ref, upto=1001)] == list(range(1, 1002))


def test_reading_after_a_seq_never_gives_that_seq_again(kit: LogKit) -> None:
    owner = kit.running()
    owner.release()
    kit.claim(owner.ref)

    for after in range(4):
        assert [entry.seq for entry in kit.reader.entries(owner.ref, after=after)] == list(range(after + 1, 4))
    assert kit.reader.entry(owner.ref, 2) == kit.reader.entries(owner.ref)[1]
    assert kit.reader.entry(owner.ref, 4) is None


def test_many_turns_are_written_in_one_round_trip_each_for_itself(kit: LogKit) -> None:
    good, lost, behind = kit.running(), kit.running(), kit.running()
    lost.token = "somebody else's"
    behind.last = 9

    results = kit.log.append_many([owner.batch(started()) for owner in (good, lost, behind)])

    assert results[0] == Written(3, 1, cancel=False)
    assert isinstance(results[1], Fenced)
    assert isinstance(results[2], TailMismatch)
    assert [len(kit.types(owner.ref)) for owner in (good, lost, behind)] == [3, 2, 2]


def test_scripts_that_the_server_forgot_are_loaded_again(kit: LogKit) -> None:
    owner, other = kit.running(), kit.running()
    kit.client.script_flush()

    assert owner.append(started()).last == 3
    kit.client.script_flush()
    results = kit.log.append_many([owner.batch(delta()), other.batch(started())])

    assert results == [Written(4, 1, cancel=False), Written(3, 1, cancel=False)]


@pytest.mark.parametrize("beside", [0, 1])
def test_a_refusal_by_the_server_is_that_writes_own_result(kit: LogKit, beside: int) -> None:
    owner, others = kit.running(), [kit.running() for _ in range(beside)]
    kit.client.rename(kit.keys.turn(owner.ref).turn, f"{kit.prefix}:{{s{owner.ref.shard:02d}}}:aside")
    kit.client.set(kit.keys.turn(owner.ref).turn, "not a hash")

    results = kit.log.append_many([one.batch(started()) for one in (owner, *others)])

    assert isinstance(results[0], StoreError)
    assert results[1:] == [Written(3, 1, cancel=False)] * beside
    kit.client.rename(f"{kit.prefix}:{{s{owner.ref.shard:02d}}}:aside", kit.keys.turn(owner.ref).turn)


def test_a_renewal_extends_the_lease(kit: LogKit) -> None:
    owner = kit.running()
    kit.pass_time(10)

    assert owner.renew() == "OK"
    assert kit.lease(owner.ref) == kit.now + LEASE_S * SECOND


def test_a_renewal_that_comes_late_still_counts_while_nobody_took_the_turn(kit: LogKit) -> None:
    owner = kit.running()
    kit.pass_time(LEASE_S + 1)

    assert owner.renew() == "OK"
    assert kit.log.reap(owner.ref) == ("nothing", None)


def test_leases_of_many_turns_are_renewed_each_for_itself(kit: LogKit) -> None:
    good, canceled, other, ended = (kit.running() for _ in range(4))
    kit.log.cancel(canceled.ref, reason="no")
    ended.finish()

    renewed = kit.log.renew(
        [(good.ref, good.token), (canceled.ref, canceled.token), (other.ref, "not mine"), (ended.ref, ended.token)]
    )

    assert renewed == ["OK", "CANCEL", "LOST", "LOST"]
    assert kit.log.renew([]) == []


def test_a_lost_lease_is_not_extended(kit: LogKit) -> None:
    owner = kit.running()
    kit.pass_time(LEASE_S)
    successor = kit.claim(owner.ref)
    deadline = kit.lease(owner.ref)
    kit.pass_time(1)

    assert owner.renew() == "LOST"
    assert kit.lease(owner.ref) == deadline
    assert successor.renew() == "OK"


def test_a_released_turn_is_due_at_once_and_hinted_without_backoff(kit: LogKit) -> None:
    owner = kit.running()
    kit.pass_time(3)

    owner.release()

    assert (kit.due(owner.ref), kit.lease(owner.ref)) == (kit.now, None)
    assert kit.log.reap(owner.ref) == ("hint", None)


def test_a_release_by_another_token_or_twice_changes_nothing(kit: LogKit) -> None:
    owner = kit.running()
    kit.log.release(owner.ref, token="not mine")
    assert kit.lease(owner.ref) is not None

    owner.release()
    successor = kit.claim(owner.ref)
    owner.release()

    assert successor.renew() == "OK"


def test_releases_never_add_up_to_a_failure(kit: LogKit) -> None:
    owner = kit.running()
    for _ in range(10):
        owner.release()
        assert kit.log.reap(owner.ref) == ("hint", None)
        owner = kit.claim(owner.ref)

    assert owner.claim.attempts == 11
    assert kit.status(owner.ref) == "in_progress"
