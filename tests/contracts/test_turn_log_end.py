"""How a turn ends: by its owner, or by a cancel. Once it has, it never changes."""

from collections.abc import Callable

import orjson
import pytest
from logkit import EVENTS_TTL_S, LEASE_S, SECOND, LogKit, Owner, delta, started, text_step

from shared.errors import Fenced, TailMismatch
from shared.events import StepStart, TurnCanceled
from shared.log.archive import RedisArchive
from shared.log.blobs import INLINE_LIMIT
from shared.status import TurnStatus


def fold_ended(kit: LogKit, owner: Owner) -> bytes:
    """What a janitor does for a turn that ended inside a script."""
    snapshot = orjson.dumps(kit.reader.state(owner.ref).as_turn())
    kit.log.keep_snapshot(owner.ref, snapshot)
    return snapshot


def test_a_finished_turn_has_its_last_events_its_snapshot_and_no_private_record(kit: LogKit) -> None:
    owner = kit.running()
    owner.append(started(), private=[("intent", b"{}")])

    ended = owner.finish(delta(), snapshot=b'{"turn":1}')

    assert ended == (TurnStatus.COMPLETED, None)
    assert kit.types(owner.ref)[-2:] == ["step_progress", "turn_complete"]
    row = kit.reader.row(owner.ref)
    assert row is not None
    assert (row.status, row.last, row.snapshot) == (TurnStatus.COMPLETED, 5, b'{"turn":1}')
    assert kit.reader.private(owner.ref) == []
    assert not kit.unfolded(owner.ref)


def test_of_the_private_record_of_a_failed_or_canceled_turn_only_the_config_stays_as_long_as_the_events(
    kit: LogKit,
) -> None:
    failed, canceled = kit.running(), kit.running()
    for owner in (failed, canceled):
        owner.append(started(), private=[("held_reply", b'{"text":"withheld"}')])
    kit.log.cancel(canceled.ref, reason="A test.", end_running=True)
    fold_ended(kit, canceled)
    kit.log.fail(failed.ref, code="c", message="m")
    fold_ended(kit, failed)

    for owner in (failed, canceled):
        assert [(one.kind, one.payload) for one in kit.reader.private(owner.ref)] == [("config", b'{"model":"m"}')]
        assert EVENTS_TTL_S - 60 < kit.client.ttl(kit.keys.turn(owner.ref).private) <= EVENTS_TTL_S


def test_the_events_of_a_finished_turn_expire_and_its_row_stays(kit: LogKit) -> None:
    owner = kit.running()
    assert kit.client.ttl(kit.keys.turn(owner.ref).events) == -1

    owner.finish()

    assert EVENTS_TTL_S - 60 < kit.client.ttl(kit.keys.turn(owner.ref).events) <= EVENTS_TTL_S
    assert kit.client.ttl(kit.keys.turn(owner.ref).turn) == -1
    assert kit.reader.has_events(owner.ref)


def test_the_sessions_next_turn_becomes_due_and_is_returned(kit: LogKit) -> None:
    session = kit.session()
    owner, second, third = kit.running(session), kit.accept(session), kit.accept(session)

    _, next_turn = owner.finish()

    assert next_turn == second.turn_id
    assert kit.queue(session) == [second.turn_id, third.turn_id]
    assert (kit.due(second), kit.due(third)) == (kit.now + SECOND, None)


def test_turns_of_a_session_run_in_the_order_of_their_acceptance(kit: LogKit) -> None:
    session = kit.session()
    turns = [kit.accept(session) for _ in range(5)]

    for turn, following in zip(turns, [*turns[1:], None], strict=True):
        _, next_turn = kit.claim(turn).finish()
        assert next_turn == (following and following.turn_id)


def test_a_large_snapshot_is_read_back_whole(kit: LogKit) -> None:
    owner, snapshot = kit.running(), orjson.dumps({"text": "x" * INLINE_LIMIT})

    owner.finish(snapshot=snapshot)

    row = kit.reader.row(owner.ref)
    assert row is not None
    assert row.snapshot == snapshot
    assert RedisArchive(reader=kit.reader).read([owner.ref]) == [snapshot]


def test_a_finish_whose_reply_was_lost_gives_the_same_status_and_writes_nothing_twice(kit: LogKit) -> None:
    session = kit.session()
    owner, second = kit.running(session), kit.accept(session)
    owner.finish(snapshot=b"1")
    before = kit.hash(owner.ref), kit.raw_events(owner.ref)

    again = owner.finish(snapshot=b"2")

    assert again[0] is TurnStatus.COMPLETED
    assert (kit.hash(owner.ref), kit.raw_events(owner.ref)) == before
    assert kit.queue(session) == [second.turn_id]


def test_a_repeated_finish_never_moves_the_next_turn_that_runs_by_now(kit: LogKit) -> None:
    session = kit.session()
    owner, second = kit.running(session), kit.accept(session)
    owner.finish()
    successor = kit.claim(second)

    owner.finish()

    assert kit.due(second) is None
    assert successor.renew() == "OK"


def test_another_token_cannot_finish(kit: LogKit) -> None:
    owner = kit.running()
    owner.token = "not mine"

    with pytest.raises(Fenced):
        owner.finish()

    assert kit.status(owner.ref) == "in_progress"


@pytest.mark.parametrize("loss", ["taken", "reaped", "released", "canceled", "failed"])
def test_an_owner_that_lost_its_turn_cannot_finish_it(kit: LogKit, loss: str) -> None:
    owner = kit.running()
    kit.pass_time(LEASE_S)
    take: dict[str, Callable[[], object]] = {
        "taken": lambda: kit.claim(owner.ref),
        "reaped": lambda: kit.log.reap(owner.ref),
        "released": owner.release,
        "canceled": lambda: kit.log.cancel(owner.ref, reason="no"),
        "failed": lambda: kit.log_with(max_attempts=1).reap(owner.ref),
    }
    take[loss]()
    before = kit.hash(owner.ref)

    with pytest.raises(Fenced):
        owner.finish()

    assert kit.hash(owner.ref) == before


def test_a_finish_that_knows_another_tail_writes_nothing(kit: LogKit) -> None:
    owner = kit.running()
    owner.append(started())
    owner.last = 2

    with pytest.raises(TailMismatch) as refusal:
        owner.finish()

    assert refusal.value.last == 3
    assert kit.status(owner.ref) == "in_progress"


def test_a_finish_that_misses_a_private_record_writes_nothing(kit: LogKit) -> None:
    owner = kit.running()
    owner.append(private=[("intent", b"{}")])
    owner.private_last = 1

    with pytest.raises(TailMismatch) as refusal:
        owner.finish()

    assert refusal.value.private_last == 2
    assert kit.status(owner.ref) == "in_progress"


def test_a_finish_after_cancel_was_asked_for_ends_as_canceled_and_a_janitor_folds_it(kit: LogKit) -> None:
    session = kit.session()
    owner, second = kit.running(session), kit.accept(session)
    kit.log.cancel(owner.ref, reason="no")

    ended = owner.finish(*text_step("s1"), snapshot=b'{"status":"completed"}')

    assert ended == (TurnStatus.CANCELED, second.turn_id)
    assert kit.types(owner.ref)[-2:] == ["step_complete", "turn_canceled"]
    assert kit.unfolded(owner.ref)
    kit.check()
    snapshot = fold_ended(kit, owner)
    assert RedisArchive(reader=kit.reader).read([owner.ref]) == [snapshot]
    assert orjson.loads(snapshot)["status"] == "canceled"
    assert not kit.unfolded(owner.ref)


def test_an_owner_that_heard_of_the_cancel_ends_the_turn_with_its_own_snapshot(kit: LogKit) -> None:
    owner = kit.running()
    kit.log.cancel(owner.ref, reason="no")
    event = TurnCanceled(turn_id=owner.ref.turn_id, reason="mine", completed_at="2026-01-01T00:00:09.000000Z")

    ended = kit.log.finish(owner.batch(event), status=TurnStatus.CANCELED, snapshot=b"own")

    assert ended[0] is TurnStatus.CANCELED
    row = kit.reader.row(owner.ref)
    assert row is not None
    assert row.snapshot == b"own"
    assert not kit.unfolded(owner.ref)


def test_a_repeated_finish_of_a_canceled_turn_says_canceled(kit: LogKit) -> None:
    owner = kit.running()
    kit.log.cancel(owner.ref, reason="no")
    owner.finish()

    assert owner.finish()[0] is TurnStatus.CANCELED


def test_the_snapshot_of_a_turn_that_has_not_ended_is_refused(kit: LogKit) -> None:
    owner = kit.running()

    kit.log.keep_snapshot(owner.ref, b"early")

    assert "snapshot" not in kit.hash(owner.ref)


def test_the_first_snapshot_stays(kit: LogKit) -> None:
    owner = kit.running()
    owner.finish(snapshot=b"first")

    kit.log.keep_snapshot(owner.ref, b"x" * (INLINE_LIMIT + 1))

    row = kit.reader.row(owner.ref)
    assert row is not None
    assert row.snapshot == b"first"


def test_a_snapshot_for_a_turn_that_is_gone_leaves_nothing(kit: LogKit) -> None:
    owner = kit.running()
    kit.log.cancel(owner.ref, reason="no", end_running=True)
    for key in kit.everything():
        if owner.ref.turn_id in key:
            kit.client.delete(key)
    kit.seen.clear()

    kit.log.keep_snapshot(owner.ref, b"late")

    assert not kit.unfolded(owner.ref)
    assert not [key for key in kit.everything() if owner.ref.turn_id in key]


# Cancel


def test_canceling_a_queued_turn_ends_it_now(kit: LogKit) -> None:
    turn = kit.accept()

    assert kit.log.cancel(turn, reason="changed my mind") == ("ended", None)

    assert kit.types(turn) == ["turn_created", "turn_canceled"]
    assert orjson.loads(kit.reader.entries(turn)[-1].payload)["reason"] == "changed my mind"
    assert (kit.due(turn), kit.unfolded(turn)) == (None, True)


def test_canceling_the_head_makes_the_next_turn_due(kit: LogKit) -> None:
    session = kit.session()
    first, second = kit.accept(session), kit.accept(session)

    assert kit.log.cancel(first, reason="no") == ("ended", second.turn_id)
    assert kit.due(second) == kit.now + SECOND


def test_canceling_in_the_middle_of_the_queue_leaves_its_order(kit: LogKit) -> None:
    session = kit.session()
    owner, second, third = kit.running(session), kit.accept(session), kit.accept(session)

    assert kit.log.cancel(second, reason="no") == ("ended", None)

    assert kit.queue(session) == [owner.ref.turn_id, third.turn_id]
    assert kit.due(third) is None
    assert owner.finish() == (TurnStatus.COMPLETED, third.turn_id)


def test_canceling_a_turn_that_waits_for_its_client_ends_it_now(kit: LogKit) -> None:
    session = kit.session()
    turn = kit.awaiting("c1", session=session)
    second = kit.accept(session)

    assert kit.log.cancel(turn, reason="no") == ("ended", second.turn_id)
    assert kit.status(turn) == "canceled"


def test_canceling_a_running_turn_asks_its_owner(kit: LogKit) -> None:
    owner = kit.running()
    listener = kit.client.pubsub()
    listener.subscribe(kit.keys.control)
    assert listener.get_message(timeout=5)["type"] == "subscribe"

    assert kit.log.cancel(owner.ref, reason="no") == ("asked", None)

    assert listener.get_message(timeout=5)["data"] == owner.ref.member.encode()
    assert kit.status(owner.ref) == "in_progress"
    assert kit.log.cancel(owner.ref, reason="again") == ("asked", None)
    listener.close()


def test_canceling_a_running_turn_for_good_ends_it_and_fences_its_owner(kit: LogKit) -> None:
    session = kit.session()
    owner, second = kit.running(session), kit.accept(session)

    assert kit.log.cancel(owner.ref, reason="no", end_running=True) == ("ended", second.turn_id)

    assert kit.lease(owner.ref) is None
    assert owner.renew() == "LOST"
    assert kit.raw_events(owner.ref)[-1][1] > owner.claim.epoch


def test_canceling_a_turn_whose_lease_has_lapsed_ends_it_now(kit: LogKit) -> None:
    owner = kit.running()
    kit.pass_time(LEASE_S)

    assert kit.log.cancel(owner.ref, reason="no") == ("ended", None)
    assert (kit.lease(owner.ref), kit.due(owner.ref)) == (None, None)


@pytest.mark.parametrize("how", ["reaped", "released"])
def test_canceling_a_turn_that_nobody_holds_ends_it_now(kit: LogKit, how: str) -> None:
    owner = kit.running()
    if how == "reaped":
        kit.pass_time(LEASE_S)
        kit.log.reap(owner.ref)
    else:
        owner.release()

    assert kit.log.cancel(owner.ref, reason="no") == ("ended", None)


def test_a_flag_that_the_owner_never_saw_holds_for_its_successor(kit: LogKit) -> None:
    owner = kit.running()
    kit.log.cancel(owner.ref, reason="no")
    kit.pass_time(LEASE_S)

    successor = kit.claim(owner.ref)

    assert successor.append(started()).cancel
    assert successor.finish()[0] is TurnStatus.CANCELED


def test_a_flag_whose_owner_was_lost_ends_the_turn_at_the_reaper_s_next_look(kit: LogKit) -> None:
    owner = kit.running()
    kit.log.cancel(owner.ref, reason="no")
    kit.pass_time(LEASE_S)

    assert kit.log.reap(owner.ref) == ("ended", None)
    assert kit.types(owner.ref)[-1] == "turn_canceled"


@pytest.mark.parametrize("status", ["completed", "canceled"])
def test_canceling_a_turn_that_has_ended_changes_nothing_and_says_how_it_ended(kit: LogKit, status: str) -> None:
    owner = kit.running()
    if status == "completed":
        owner.finish()
    else:
        kit.log.cancel(owner.ref, reason="no", end_running=True)
    before = kit.hash(owner.ref), kit.raw_events(owner.ref)

    assert kit.log.cancel(owner.ref, reason="no", end_running=True) == ("terminal", status)
    assert (kit.hash(owner.ref), kit.raw_events(owner.ref)) == before


def test_canceling_a_turn_that_does_not_exist_says_gone(kit: LogKit) -> None:
    assert kit.log.cancel(kit.new_turn(kit.session()), reason="no") == ("gone", None)


def test_a_turn_canceled_in_mid_step_is_read_with_what_had_come(kit: LogKit) -> None:
    owner = kit.running()
    owner.append(started(), delta(text="half an ans"))
    kit.log.cancel(owner.ref, reason="no", end_running=True)

    [turn] = RedisArchive(reader=kit.reader).read([owner.ref])

    assert turn is not None
    [step] = orjson.loads(turn)["steps"]
    assert (step["model_response"]["content"], step["completed_at"]) == ("half an ans", None)


def test_the_archive_holds_no_turn_that_has_not_ended(kit: LogKit) -> None:
    running, ended = kit.running(), kit.running()
    ended.finish(snapshot=b"{}")

    archive = RedisArchive(reader=kit.reader)

    assert archive.read([running.ref, ended.ref, kit.new_turn(kit.session())]) == [None, b"{}", None]


def test_every_script_leaves_an_ended_turn_as_it_is(kit: LogKit) -> None:
    owner = kit.running()
    owner.append(StepStart(step_type="inference", step_id="s1", started_at="t", metadata={}))
    owner.finish()
    kit.pass_time(1_000_000)
    before = {key: kit.client.dump(key) for key in kit.everything() if owner.ref.turn_id in key}

    for attempt in (
        lambda: kit.claim(owner.ref),
        lambda: owner.append(delta()),
        lambda: owner.pause("c1"),
        lambda: kit.resume(owner.ref, "c1"),
        lambda: kit.submit(owner.ref),
        owner.finish,
        owner.renew,
        owner.release,
        lambda: kit.log.cancel(owner.ref, reason="no", end_running=True),
        lambda: kit.log.reap(owner.ref),
        lambda: kit.log.keep_snapshot(owner.ref, b"other"),
    ):
        try:
            attempt()
        except Exception as refusal:
            assert "turn" in str(refusal).lower()

    assert {key: kit.client.dump(key) for key in kit.everything() if owner.ref.turn_id in key} == before
