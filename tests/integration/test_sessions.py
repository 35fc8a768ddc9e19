"""Sessions: created, listed, expired when idle, deleted with everything that is theirs."""

from collections.abc import Iterator

import pytest
from logkit import EVENTS_TTL_S, SECOND, LogKit, delta, opened, started

from shared import ids
from shared.errors import Fenced, NotFound
from shared.ids import DEFAULT_TENANT, SessionRef
from shared.log import sessions as sessions_module
from shared.log.blobs import INLINE_LIMIT
from shared.log.sessions import SWEEP_DELAY_S, Session
from shared.log.turn_log import NotClaimable

IDLE_S = 100


@pytest.fixture
def kit(redis_url: str, key_prefix: str) -> Iterator[LogKit]:
    with opened(redis_url, key_prefix) as kit:
        yield kit


def of_session(kit: LogKit, session: SessionRef) -> list[str]:
    """Whatever the store still holds of a session: its keys and its members in indexes."""
    found = [key for key in kit.everything() if session.session_id in key]
    for key in kit.everything():
        if kit.client.type(key) == b"zset":
            members = kit.client.zrange(key, 0, -1)
            found += [f"{key} {member.decode()}" for member in members if session.session_id.encode() in member]
    return found


def test_a_session_is_read_back_as_it_was_created(kit: LogKit) -> None:
    ref = SessionRef(DEFAULT_TENANT, ids.new_session_id())
    session = Session(session_id=ref.session_id, agent_id="agent_a", session_name="né", started_at="t", idle_ttl_s=1.5)

    kit.sessions.create(ref, session)

    assert kit.sessions.get(ref) == session


def test_a_session_that_is_not_there_is_none(kit: LogKit) -> None:
    assert kit.sessions.get(SessionRef(DEFAULT_TENANT, ids.new_session_id())) is None


def test_a_session_of_another_tenant_is_not_seen(kit: LogKit) -> None:
    session = kit.session()

    assert kit.sessions.get(SessionRef("other", session.session_id)) is None
    assert kit.sessions.of_agent("other", "agent_a", start=0, count=10) == []


def test_an_agents_sessions_are_listed_in_pages_oldest_first(kit: LogKit) -> None:
    created = []
    for _ in range(5):
        kit.pass_time(1)
        created.append(kit.session(agent_id="agent_b").session_id)
    kit.session(agent_id="agent_c")

    pages = [kit.sessions.of_agent(DEFAULT_TENANT, "agent_b", start=start, count=2) for start in (0, 2, 4, 6)]

    assert [[session.session_id for session in page] for page in pages] == [created[:2], created[2:4], created[4:], []]


def test_a_deleted_session_is_gone_for_its_readers_at_once(kit: LogKit) -> None:
    session = kit.session()

    kit.sessions.delete(session)

    assert kit.sessions.get(session) is None
    assert kit.sessions.of_agent(DEFAULT_TENANT, "agent_a", start=0, count=10) == []


def test_deleting_a_session_ends_its_turns_from_the_tail_and_dispatches_none(kit: LogKit) -> None:
    session = kit.session()
    owner, second, third = kit.running(session), kit.accept(session), kit.accept(session)

    ended = kit.sessions.delete(session)

    assert ended == [owner.ref, second, third]
    assert [kit.types(turn)[-1] for turn in ended] == ["turn_canceled"] * 3
    assert all(kit.due(turn) is None for turn in ended)
    assert kit.queue(session) == []
    with pytest.raises(Fenced):
        owner.append(started())
    with pytest.raises(NotClaimable):
        kit.claim(second)


def test_deleting_again_or_what_is_not_there_does_nothing(kit: LogKit) -> None:
    session = kit.session()
    kit.running(session)
    kit.sessions.delete(session)

    assert kit.sessions.delete(session) == []
    assert kit.sessions.delete(SessionRef(DEFAULT_TENANT, ids.new_session_id())) == []


@pytest.mark.parametrize("idle_ttl_s", [None, 1, 1_000_000])
def test_a_deleted_session_leaves_nothing_a_minute_later(kit: LogKit, idle_ttl_s: float | None) -> None:
    session = kit.session(idle_ttl_s=idle_ttl_s)
    other = kit.accept(kit.session())
    kit.running(session).finish(snapshot=b"x" * (INLINE_LIMIT + 1))
    kit.accept(session, idempotency_key="k", text="x" * (INLINE_LIMIT + 1))
    kit.sessions.delete(session)
    assert kit.due(session) == kit.now

    assert not kit.sessions.sweep(session)
    assert kit.due(session) == kit.now + SWEEP_DELAY_S * SECOND
    assert len(kit.sessions.turns(session)) == 2
    kit.pass_time(SWEEP_DELAY_S)
    assert kit.sessions.sweep(session)

    assert of_session(kit, session) == []
    assert kit.status(other) == "queued"


def test_a_swept_turn_is_not_revived_by_what_comes_late(kit: LogKit) -> None:
    session = kit.session()
    owner, second = kit.running(session), kit.accept(session)
    kit.sessions.delete(session)
    kit.pass_time(SWEEP_DELAY_S)
    kit.sessions.sweep(session)

    large = "x" * (INLINE_LIMIT + 1)
    with pytest.raises(Fenced):
        owner.append(started(), delta(text=large), private=[("held", large.encode())])
    with pytest.raises(Fenced):
        owner.finish(snapshot=large.encode())
    with pytest.raises(Fenced):
        owner.pause(large)
    with pytest.raises(NotFound):
        kit.submit(second, text=large)
    with pytest.raises(NotFound):
        kit.resume(second, large)
    owner.release()
    assert owner.renew() == "LOST"
    assert kit.log.cancel(second, reason="no") == ("gone", None)
    assert kit.log.reap(second) == ("nothing", None)
    kit.log.keep_snapshot(second, large.encode())

    assert of_session(kit, session) == []


def test_a_sweep_that_broke_off_goes_on_where_it_was(kit: LogKit, monkeypatch: pytest.MonkeyPatch) -> None:
    session = kit.session()
    for number in range(7):
        kit.accept(session, text=str(number))
    kit.sessions.delete(session)
    kit.pass_time(SWEEP_DELAY_S)
    monkeypatch.setattr(sessions_module, "_PAGE", 3)
    broken, left = kit.sessions, []

    def break_off(ref: SessionRef, *, start: int = 0, count: int | None = None) -> list[ids.TurnRef]:
        if left:
            raise ConnectionError
        left.append(1)
        return kit.sessions.turns(ref, start=start, count=count)

    monkeypatch.setattr(broken, "turns", break_off)
    with pytest.raises(ConnectionError):
        broken.sweep(session)
    assert len(kit.sessions.turns(session)) == 4
    assert kit.due(session) is not None

    assert kit.sessions.sweep(session)
    assert of_session(kit, session) == []


def test_a_sweep_of_a_session_that_is_gone_clears_the_index(kit: LogKit) -> None:
    session = SessionRef(DEFAULT_TENANT, ids.new_session_id())
    kit.client.zadd(kit.keys.shard(session.shard).due, {session.member: 1})

    assert kit.sessions.sweep(session)
    assert kit.due(session) is None


def test_a_deletion_that_broke_off_is_finished_by_the_sweep(kit: LogKit) -> None:
    session = kit.session()
    owner = kit.running(session)
    kit.client.hset(kit.keys.session(session).session, "deleted", kit.now)
    kit.client.zadd(kit.keys.shard(session.shard).due, {session.member: kit.now})

    assert not kit.sessions.sweep(session)

    assert kit.status(owner.ref) == "canceled"


# Sessions that do not persist


def test_a_session_that_is_never_used_expires(kit: LogKit) -> None:
    session = kit.session(idle_ttl_s=IDLE_S)
    assert kit.due(session) == kit.now + IDLE_S * SECOND
    kit.pass_time(IDLE_S)

    assert not kit.sessions.sweep(session)
    assert kit.sessions.get(session) is None
    kit.pass_time(SWEEP_DELAY_S)
    assert kit.sessions.sweep(session)

    assert of_session(kit, session) == []


@pytest.mark.parametrize("ending", ["finish", "cancel", "reap"])
def test_a_session_rests_from_the_end_of_its_last_turn(kit: LogKit, ending: str) -> None:
    session = kit.session(idle_ttl_s=IDLE_S)
    owner, second = kit.running(session), kit.accept(session)
    assert kit.due(session) is None
    owner.finish()
    assert kit.due(session) is None
    kit.pass_time(50)
    last = kit.claim(second)

    if ending == "finish":
        last.finish()
    elif ending == "cancel":
        kit.log.cancel(second, reason="no", end_running=True)
    else:
        kit.pass_time(1000)
        kit.log_with(max_attempts=1).reap(second)

    assert kit.due(session) == kit.now + IDLE_S * SECOND


def test_a_session_with_a_turn_is_not_due_however_long_that_takes(kit: LogKit) -> None:
    session = kit.session(idle_ttl_s=IDLE_S)
    kit.awaiting("c1", session=session)
    kit.pass_time(IDLE_S * 10)

    assert kit.due(session) is None
    assert not kit.sessions.sweep(session)
    assert kit.sessions.get(session) is not None


def test_a_turn_accepted_after_the_session_was_found_due_saves_it(kit: LogKit) -> None:
    session = kit.session(idle_ttl_s=IDLE_S)
    kit.pass_time(IDLE_S)
    turn = kit.accept(session)  # between the reaper's look at the index and its sweep

    assert not kit.sessions.sweep(session)

    assert kit.status(turn) == "queued"
    assert kit.sessions.get(session) is not None


def test_a_turn_that_came_and_went_after_the_session_was_found_due_gives_it_its_time_again(kit: LogKit) -> None:
    session = kit.session(idle_ttl_s=IDLE_S)
    kit.pass_time(IDLE_S)
    kit.running(session).finish()

    assert not kit.sessions.sweep(session)

    assert kit.due(session) == kit.now + IDLE_S * SECOND


def test_a_session_that_persists_is_never_due(kit: LogKit) -> None:
    session = kit.session()
    kit.running(session).finish()
    kit.pass_time(EVENTS_TTL_S * 1000)

    assert kit.due(session) is None
    assert not kit.sessions.sweep(session)
    assert kit.sessions.get(session) is not None
