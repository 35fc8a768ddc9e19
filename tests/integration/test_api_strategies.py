"""Double texting and cancels over HTTP: a session's unfinished turns, and what the next request does to them."""

from typing import Any

import pytest
from apikit import HELLO, Api, assert_problem, event_types, ref_of

from shared.errors import Fenced
from shared.ids import TurnRef

NEXT = {"messages": [{"role": "user", "content": "wait, not that"}]}


def session_with(api: Api, strategy: str) -> str:
    agent = api.agent()
    answer = api.post(f"{agent}/session", {"session_name": "test", "multitask_strategy": strategy})
    assert answer.status_code == 200, answer.text
    return f"{agent}/session/{answer.json['session_id']}"


def hints_of(api: Api) -> list[TurnRef]:
    sent: list[TurnRef] = []
    api.services.hints.send = sent.append  # type: ignore[method-assign]
    return sent


def end_of(api: Api, turn: str) -> str:
    return event_types(api.services, ref_of(turn))[-1]


# Strategies


@pytest.mark.parametrize("strategy", ["enqueue", "reject", "interrupt", "rollback"])
def test_a_session_keeps_its_strategy_and_shows_it(api: Api, strategy: str) -> None:
    session = session_with(api, strategy)
    agent = session.partition("/session/")[0]

    assert api.client.get(session).json["multitask_strategy"] == strategy
    assert [one["multitask_strategy"] for one in api.client.get(f"{agent}/sessions").json["data"]] == [strategy]


@pytest.mark.parametrize("given", [{}, {"multitask_strategy": None}])
def test_a_session_enqueues_where_nobody_says_otherwise(api: Api, given: Any) -> None:
    agent = api.agent()
    created = api.post(f"{agent}/session", {"session_name": "test", **given}).json

    assert api.client.get(f"{agent}/session/{created['session_id']}").json["multitask_strategy"] == "enqueue"


@pytest.mark.parametrize("where", ["session", "turn"])
def test_an_unknown_strategy_is_refused_with_those_that_there_are(api: Api, where: str) -> None:
    path = f"{api.agent()}/session" if where == "session" else f"{api.session()}/turn"
    body = {"session_name": "x"} if where == "session" else HELLO

    problem = assert_problem(api.post(path, {**body, "multitask_strategy": "replace"}), 422, "invalid_fields")

    assert problem["error"]["param"] == "multitask_strategy"
    assert "rollback" in problem["detail"]


def test_a_session_that_rejects_answers_409_that_will_stay(api: Api) -> None:
    session = session_with(api, "reject")
    first = api.turn(session)

    answer = api.post(f"{session}/turn", NEXT)

    problem = assert_problem(answer, 409, "session_busy")
    assert answer.headers["x-should-retry"] == "false"
    assert ref_of(first).turn_id in problem["detail"]
    assert len(api.client.get(session).json["turns"]) == 1


@pytest.mark.parametrize("strategy", ["interrupt", "rollback"])
def test_unfinished_turns_make_way_for_a_new_one_that_a_worker_looks_at_at_once(api: Api, strategy: str) -> None:
    session = api.session()
    running, queued = api.turn(session), api.turn(session)
    owner = api.worker(running)
    owner.say("done before")
    sent = hints_of(api)

    turn = api.turn(session, **NEXT, multitask_strategy=strategy)

    assert sent == [ref_of(turn)]
    for ended in (running, queued):
        shown = api.client.get(ended).json
        assert (shown["status"], end_of(api, ended)) == ("canceled", "turn_canceled")
        frame = api.client.get(f"{ended}/events", headers={"Accept": "application/json"}).json["data"][-1]
        assert ref_of(turn).turn_id in frame["event"]["payload"]["reason"]
    assert [step["completed_at"] is not None for step in api.client.get(running).json["steps"]] == [True]
    with pytest.raises(Fenced):
        owner.finish()
    api.worker(turn).finish()


def test_interrupted_turns_are_shown_with_their_session_and_rolled_back_ones_only_by_their_ids(api: Api) -> None:
    session = api.session()
    rolled_back = api.turn(session)
    interrupted = api.turn(session, multitask_strategy="rollback")
    last = api.turn(session, multitask_strategy="interrupt")
    ids = [ref_of(turn).turn_id for turn in (rolled_back, interrupted, last)]

    shown = api.client.get(session).json["turns"]
    asked_for = api.client.get(f"{session}?turn_ids={','.join(ids)}").json["turns"]

    assert [turn["turn_id"] for turn in shown] == ids[1:]
    assert [turn["turn_id"] for turn in asked_for] == ids
    assert api.client.get(rolled_back).json["status"] == "canceled"
    assert api.client.get(f"{rolled_back}/events").status_code == 200


@pytest.mark.parametrize("strategy", ["interrupt", "rollback"])
@pytest.mark.parametrize("how", ["key", "count"])
def test_a_repeated_submit_does_not_interrupt_the_turn_that_it_made(api: Api, strategy: str, how: str) -> None:
    session = api.session()
    api.turn(session)
    body = {**NEXT, "multitask_strategy": strategy}
    headers = {"Idempotency_Key": "k"} if how == "key" else {}
    first = api.post(f"{session}/turn", body, **headers).headers["Location"]
    owner = api.worker(first)

    again = {"x_stainless_retry_count": "1"} if how == "count" else {}
    answer = api.post(f"{session}/turn", body, **headers, **again)

    assert answer.headers["Location"] == first
    assert answer.headers["Idempotent-Replayed"] == "true"
    owner.finish()


def test_a_repeated_submit_finds_its_turn_where_the_session_rejects(api: Api) -> None:
    session = session_with(api, "reject")
    first = api.post(f"{session}/turn", HELLO, Idempotency_Key="k")

    again = api.post(f"{session}/turn", HELLO, Idempotency_Key="k")
    keyless = api.post(f"{session}/turn", HELLO, x_stainless_retry_count="1")

    assert {one.headers["Location"] for one in (again, keyless)} == {first.headers["Location"]}


def test_a_key_belongs_to_its_strategy_too(api: Api) -> None:
    session = api.session()
    first = api.post(f"{session}/turn", HELLO, Idempotency_Key="k").headers["Location"]

    changed = api.post(f"{session}/turn", {**HELLO, "multitask_strategy": "interrupt"}, Idempotency_Key="k")

    assert_problem(changed, 422, "idempotency_key_reused")
    assert api.client.get(first).json["status"] == "queued"


# Cancel a session


def test_canceling_a_session_ends_what_waits_and_tells_the_owner_of_what_runs(api: Api) -> None:
    session = api.session()
    running, queued = api.turn(session), [api.turn(session) for _ in range(2)]
    owner = api.worker(running)

    first = api.client.post(f"{session}/cancel")
    again = api.client.post(f"{session}/cancel")

    assert (first.status_code, again.status_code) == (202, 202)
    assert [turn["status"] for turn in first.json["data"]] == ["in_progress", "canceled", "canceled"]
    assert [turn["turn_id"] for turn in again.json["data"]] == [owner.ref.turn_id]
    assert [end_of(api, turn) for turn in queued] == ["turn_canceled"] * 2
    owner.finish()
    assert api.client.get(running).json["status"] == "canceled"
    last = api.client.post(f"{session}/cancel")
    assert (last.status_code, last.json) == (200, {"data": []})


def test_canceling_a_session_that_waits_ends_all_of_it_and_starts_nothing(api: Api) -> None:
    session = api.session()
    turns = [api.turn(session) for _ in range(4)]
    api.worker(turns[0]).ask("c1")
    sent = hints_of(api)

    answer = api.client.post(f"{session}/cancel")

    assert answer.status_code == 200
    assert [turn["status"] for turn in answer.json["data"]] == ["canceled"] * 4
    assert [turn["turn_id"] for turn in answer.json["data"]] == [ref_of(turn).turn_id for turn in turns]
    assert sent == [], "none of them became the head meanwhile"
    assert api.client.get(session).status_code == 200


def test_a_turn_that_comes_while_its_session_is_canceled_is_not_canceled_and_runs(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, late = api.session(), []
    api.turn(session)
    sent = hints_of(api)
    plain = api.services.log.cancel

    def cancel(*args: Any, **options: Any) -> Any:
        if not late:
            late.append(api.turn(session, **NEXT))
        return plain(*args, **options)

    monkeypatch.setattr(api.services.log, "cancel", cancel)
    answer = api.client.post(f"{session}/cancel")

    assert [turn["status"] for turn in answer.json["data"]] == ["canceled"]
    assert api.client.get(late[0]).json["status"] == "queued"
    assert sent == [ref_of(late[0])]


def test_canceling_a_session_without_turns_is_no_mistake_and_of_an_unknown_one_is(api: Api) -> None:
    session = api.session()

    answer = api.client.post(f"{session}/cancel")

    assert (answer.status_code, answer.json) == (200, {"data": []})
    assert_problem(api.client.post(f"{session}0/cancel"), 404)
    assert_problem(api.client.post(f"{api.agent()}/session/{session.rpartition('/')[2]}/cancel"), 404)


# Cancel a turn


@pytest.mark.parametrize("state", ["queued", "awaiting"])
def test_a_turn_that_nobody_runs_is_canceled_now_and_never_starts(api: Api, state: str) -> None:
    turn = api.turn()
    if state == "awaiting":
        api.worker(turn).ask("c1")

    answer = api.client.post(f"{turn}/cancel")

    assert (answer.status_code, answer.json["status"]) == (200, "canceled")
    assert api.client.post(f"{turn}/cancel").status_code == 200
    with pytest.raises(Exception, match="ended"):
        api.worker(turn)


def test_a_finished_turn_stays_finished_and_the_caller_is_told(api: Api) -> None:
    turn = api.turn()
    worker = api.worker(turn)
    worker.say("done")
    worker.finish()

    answer = api.client.post(f"{turn}/cancel")

    assert_problem(answer, 409, "already_ended")
    assert answer.headers["x-should-retry"] == "false"
    assert api.client.get(turn).json["status"] == "completed"


def test_a_cancel_of_a_running_turn_may_be_repeated_until_it_has_ended(api: Api) -> None:
    turn = api.turn()
    worker = api.worker(turn)

    assert [api.client.post(f"{turn}/cancel").status_code for _ in range(2)] == [202, 202]
    worker.finish()

    assert api.client.post(f"{turn}/cancel").status_code == 200
