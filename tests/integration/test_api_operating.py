"""Turns across agents and sessions: listed, explained, run again and ended by an operator."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import orjson
import pytest
from apikit import REGISTRY, Api, Json, assert_problem, ref_of
from callskit import with_keys
from redis import Redis
from werkzeug.test import TestResponse

from shared.clock import now_iso
from shared.errors import Fenced
from shared.events import SCHEMA_VERSION, TurnFailed
from shared.fold import fold
from shared.ids import SHARDS, TurnRef
from shared.log.keys import Keys
from shared.redis_client import connect
from shared.status import TurnStatus
from shared.types.operating import TurnList, Why

KEY, OTHER = "k-first-0123456789", "k-second-0123456789"
NOWHERE = "turn_07_0123456789abcdef01234567"


def listed(api: Api, **query: Any) -> Json:
    answer = api.client.get("/v1/turns", query_string=query)
    assert answer.status_code == 200, answer.text
    page: Json = answer.json
    TurnList.model_validate(page)
    return page


def ids(page: Json) -> list[str]:
    return [item["turn_id"] for item in page["data"]]


def walk(api: Api, **query: Any) -> Iterator[Json]:
    """All pages, each asked for behind the one before."""
    after: str | None = None
    while True:
        page = listed(api, **query, **({} if after is None else {"after": after}))
        yield page
        after = page["after"]
        assert page["has_more"] == (after is not None)
        if after is None:
            return


def told(api: Api, turn: str) -> Json:
    answer = api.client.get(f"/v1/turns/{id_of(turn)}/why")
    assert answer.status_code == 200, answer.text
    body: Json = answer.json
    Why.model_validate(body)
    return body


def act(api: Api, turn: str, what: str, body: Any = None, **headers: str) -> TestResponse:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return api.client.post(f"/v1/turns/{id_of(turn)}/{what}", json=body, headers=named)


def id_of(turn: str) -> str:
    return turn.rpartition("/")[2]


def fail(api: Api, turn: str, code: str = "provider_timeout") -> None:
    """The turn ends as failed, by its worker."""
    worker = api.worker(turn)
    end = TurnFailed(
        turn_id=worker.ref.turn_id, error={"code": code, "message": "It was slow."}, completed_at=now_iso()
    )
    state = fold(api.services.reader.all_entries(worker.ref))
    state.apply(end)
    snapshot = orjson.dumps(state.as_turn())
    api.services.log.finish(worker.write(end), status=TurnStatus.FAILED, snapshot=snapshot)


def fold_ended(api: Api, ref: TurnRef) -> None:
    """What a janitor does for a turn that ended inside a script."""
    api.services.log.keep_snapshot(ref, orjson.dumps(api.services.reader.state(ref).as_turn()))


def config_of(api: Api, turn: str) -> Json:
    config: Json = orjson.loads(api.services.reader.private(ref_of(turn))[0].payload)
    return config


def keys(api: Api) -> Keys:
    return Keys(api.services.settings.key_prefix)


def store(api: Api) -> Redis:
    """The store itself, for what no route does."""
    return connect(api.services.settings.redis_url)


def abs_seconds(one: str, other: str) -> float:
    return abs((datetime.fromisoformat(one) - datetime.fromisoformat(other)).total_seconds())


# Lists


def test_turns_of_all_agents_and_sessions_are_listed_newest_first(api: Api) -> None:
    first, second, third = api.turn(), api.turn(), api.turn()
    fail(api, first)
    worker = api.worker(second)

    page = listed(api)

    assert ids(page) == [id_of(third), id_of(second), id_of(first)]
    assert (page["has_more"], page["after"]) == (False, None)
    newest, running, failed = page["data"]
    shown = api.client.get(third).json
    assert newest["url"] == third
    assert {name: newest[name] for name in ("session_id", "agent_id", "status", "attempts")} == {
        name: shown[name] for name in ("session_id", "agent_id", "status", "attempts")
    }
    assert abs_seconds(newest["created_at"], shown["created_at"]) < 5
    assert (running["status"], running["worker"], running["attempts"]) == ("in_progress", "test", 1)
    assert failed["error"] == {"code": "provider_timeout", "message": "It was slow."}
    assert "worker" not in newest and "worker" not in failed and "error" not in running and "retry_of" not in newest
    assert worker.ref.turn_id == running["turn_id"]


def test_lists_by_status_show_just_what_has_it(api: Api) -> None:
    session = api.session()
    by_status = {"completed": api.turn(), "failed": api.turn(), "canceled": api.turn(), "awaiting_input": api.turn()}
    by_status |= {"in_progress": api.turn(session)}
    queued = api.turn(session)
    api.worker(by_status["completed"]).finish()
    fail(api, by_status["failed"])
    api.client.post(f"{by_status['canceled']}/cancel")
    api.worker(by_status["awaiting_input"]).ask("c1")
    api.worker(by_status["in_progress"])

    for status, turn in {**by_status, "queued": queued}.items():
        assert ids(listed(api, status=status)) == [id_of(turn)], status
    several = listed(api, status="completed, queued")
    assert ids(several) == [id_of(queued), id_of(by_status["completed"])]
    assert ids(listed(api, status="queued,awaiting_input")) == [id_of(queued), id_of(by_status["awaiting_input"])]


def test_failed_turns_are_listed_by_the_time_they_failed_also_those_whose_workers_were_lost(api: Api) -> None:
    first, second, third = api.turn(), api.turn(), api.turn()
    fail(api, third)
    act(api, second, "fail", {"reason": "stuck"})
    fail(api, first, "max_attempts_exceeded")

    page = listed(api, status="failed")

    assert ids(page) == [id_of(first), id_of(second), id_of(third)]
    codes = [item["error"]["code"] for item in page["data"]]
    assert codes == ["max_attempts_exceeded", "failed_by_operator", "provider_timeout"]


def test_the_error_of_a_failed_turn_is_listed_after_its_events_have_expired(api: Api) -> None:
    turn = api.turn()
    fail(api, turn)
    store(api).delete(keys(api).turn(ref_of(turn)).events)

    assert listed(api, status="failed")["data"][0]["error"]["code"] == "provider_timeout"


def test_lists_by_agent_show_its_turns_alone(api: Api) -> None:
    agent = api.agent()
    turns = [api.turn(api.session(agent)) for _ in range(3)]
    api.turn()

    page = listed(api, agent_id=id_of(agent))

    assert ids(page) == [id_of(turn) for turn in reversed(turns)]


def test_pages_over_many_shards_hold_each_turn_once_while_others_come_and_go(api: Api) -> None:
    agent = api.agent()
    sessions = [api.session(agent) for _ in range(100)]
    before = [id_of(api.turn(sessions[number % 100])) for number in range(300)]
    assert len({ref_of(session + "/turn/x").session.shard for session in sessions}) > SHARDS / 2
    seen: list[str] = []

    for number, page in enumerate(walk(api, limit=37)):
        seen += ids(page)
        late = api.turn(sessions[number])  # newer than where the walk is
        if number == 2:
            api.client.delete(sessions[99])  # and some of the older go
        assert id_of(late) not in seen

    gone = {turn for number, turn in enumerate(before) if number % 100 == 99}
    assert [turn for turn in seen if turn not in gone] == [turn for turn in reversed(before) if turn not in gone]
    assert len(seen) == len(set(seen))
    assert gone - set(seen), "those that went before the walk came to them are left out"


def test_pages_over_one_session_hold_each_turn_once(api: Api) -> None:
    session = api.session()
    turns = [id_of(api.turn(session)) for _ in range(150)]

    pages = list(walk(api, limit=60, status="queued,in_progress"))

    assert [len(page["data"]) for page in pages] == [60, 60, 30]
    assert [turn for page in pages for turn in ids(page)] == turns[::-1]


def test_turns_elsewhere_that_are_older_come_behind_all_of_a_session_with_many(api: Api) -> None:
    older = [id_of(api.turn()) for _ in range(3)]
    session = api.session()
    turns = [id_of(api.turn(session)) for _ in range(70)]

    assert ids(listed(api, limit=200)) == [*turns[::-1], *older[::-1]]


def test_turns_with_the_same_time_are_paged_over_in_a_fixed_order(api: Api) -> None:
    turns = [api.turn() for _ in range(5)] + [api.turn(api.session()) for _ in range(5)]
    client = store(api)
    for turn in turns:
        ref = ref_of(turn)
        client.zadd(keys(api).index(ref.shard, "default").all, {ref.member: 1_700_000_000_000_000})

    found = [turn for page in walk(api, limit=3) for turn in ids(page)]

    assert sorted(found) == sorted(map(id_of, turns))


def test_a_search_for_what_is_rare_ends_each_page_in_bounds_and_comes_to_it(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.log.listing._ROUNDS", 2)
    monkeypatch.setattr("shared.log.listing.MOST", 5)
    agent = api.agent()
    wanted = api.turn(api.session(agent))
    session = api.session()
    for _ in range(25):
        api.turn(session)

    pages = list(walk(api, agent_id=id_of(agent), limit=5))

    assert [ids(page) for page in pages] == [[], [], [id_of(wanted)]]


def test_a_turn_that_ended_without_leaving_the_active_ones_is_not_listed_and_taken_out(api: Api) -> None:
    turn = api.turn()
    ref = ref_of(turn)
    active, client = keys(api).index(ref.shard, "default").active, store(api)
    api.worker(turn).finish()
    client.zadd(active, {ref.member: 1})  # as a release before this one leaves it
    client.zadd(active, {f"default/{ref.session_id}/turn_{ref.shard:02d}_swept": 2})

    assert ids(listed(api, status="queued,in_progress")) == []
    assert client.zcard(active) == 0
    assert ids(listed(api)) == [ref.turn_id]


def test_turns_of_a_deleted_session_are_not_listed(api: Api) -> None:
    session = api.session()
    turn = api.turn(session)
    api.client.delete(session)

    assert ids(listed(api)) == []
    for answer in (api.client.get(f"/v1/turns/{id_of(turn)}"), act(api, turn, "requeue"), act(api, turn, "fail")):
        assert_problem(answer, 404)


@pytest.mark.parametrize("status", ["", "done", "queued,", "queued,done", "Queued", "queued;failed"])
def test_a_status_that_is_none_is_refused_with_those_that_there_are(api: Api, status: str) -> None:
    problem = assert_problem(api.client.get("/v1/turns", query_string={"status": status}), 422, "invalid_fields")

    assert problem["error"]["param"] == "status"
    assert all(name in problem["detail"] for name in TurnStatus)


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"after": "x"}, "after"),
        ({"after": ""}, "after"),
        ({"after": "1-sess_00_a"}, "after"),
        ({"after": f"{'9' * 17}-sess_00_a-turn_00_b"}, "after"),
        ({"after": "1-sess_00_ü-turn_00_b"}, "after"),
        ({"after": "-1-sess_00_a-turn_00_b"}, "after"),
        ({"limit": "0"}, "limit"),
        ({"limit": "201"}, "limit"),
        ({"limit": "x"}, "limit"),
    ],
)
def test_a_page_that_is_none_is_refused(api: Api, query: dict[str, str], param: str) -> None:
    assert assert_problem(api.client.get("/v1/turns", query_string=query), 422)["error"]["param"] == param


def test_an_agent_that_is_none_is_refused(api: Api) -> None:
    assert "GET /v1/agents lists" in assert_problem(api.client.get("/v1/turns?agent_id=agent_x"), 404)["detail"]


def test_tenants_see_and_change_their_own_turns_alone(redis_url: str, key_prefix: str) -> None:
    api = Api.on(redis_url, key_prefix, with_keys(**{KEY: "default", OTHER: "other"}))

    def as_(key: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {key}"}

    def ask(method: str, path: str, key: str, body: Any = None) -> TestResponse:
        return api.client.open(path, method=method, headers=as_(key), json=body)

    agent = ask("POST", "/v1/agents", KEY, {"agent_config": {"model": "m"}}).json["agent_id"]
    session = ask("POST", f"/v1/agents/{agent}/session", KEY, {"session_name": "s"}).json["session_id"]
    body = {"messages": [{"role": "user", "content": "hello"}]}
    turn = ask("POST", f"/v1/agents/{agent}/session/{session}/turn", KEY, body).json["turn_id"]

    assert ids(ask("GET", "/v1/turns", KEY).json) == [turn]
    assert ids(ask("GET", "/v1/turns", OTHER).json) == []
    for method, path in (("GET", ""), ("GET", "/why"), ("POST", "/fail"), ("POST", "/requeue")):
        assert_problem(ask(method, f"/v1/turns/{turn}{path}", OTHER), 404)
        assert_problem(api.client.open(f"/v1/turns/{turn}{path}", method=method), 401)
    assert_problem(ask("GET", f"/v1/turns?agent_id={agent}", OTHER), 404)
    assert_problem(api.client.get("/v1/turns"), 401)
    assert ask("GET", f"/v1/turns/{turn}", KEY).json["status"] == "queued"


# One turn by its id


def test_a_turn_is_found_by_its_id_alone(api: Api) -> None:
    turn = api.turn()

    answer = api.client.get(f"/v1/turns/{id_of(turn)}")

    assert answer.json == api.client.get(turn).json
    assert answer.headers["Content-Location"] == turn


@pytest.mark.parametrize("turn_id", [NOWHERE, "turn_99_ab", "turn", "x", "turn_00_A", "%C3%BC", "a%2Fb", "turn_00_a:x"])
def test_an_id_that_is_none_is_answered_with_the_call_that_lists_turns(api: Api, turn_id: str) -> None:
    for method, path in (("GET", ""), ("GET", "/why"), ("POST", "/fail"), ("POST", "/requeue")):
        problem = assert_problem(api.client.open(f"/v1/turns/{turn_id}{path}", method=method), 404)
        if "%2F" not in turn_id:
            assert "GET /v1/turns lists what exists." in problem["detail"]


def test_the_id_of_a_session_names_no_turn(api: Api) -> None:
    session = api.session()

    assert_problem(api.client.get(f"/v1/turns/{id_of(session)}"), 404)


# Why


def test_why_of_a_turn_that_waits(api: Api) -> None:
    turn = api.turn()

    found = told(api, turn)

    assert found["next"]["code"] == "waits_for_worker"
    assert found["next"]["message"] == "It waits for a worker, and none is alive: start one (turnstone worker)."
    assert (found["status"], found["attempts"], found["workers_alive"]) == ("queued", 0, 0)
    assert found["queue"] == {"position": 0, "length": 1, "before": None, "head": None}
    assert found["lease"] is None and found["awaits"] is None
    assert (found["last_event"]["type"], found["hints"]["sent"]) == ("turn_created", 0)
    assert found["hints"]["next_in_s"] is not None
    assert found["url"] == turn


def test_why_counts_the_hints_that_were_sent_and_the_workers_that_are_alive(api: Api) -> None:
    turn = api.turn()
    ref = ref_of(turn)
    api.services.registry.alive("host:1")
    store(api).zadd(keys(api).shard(ref.shard).due, {ref.member: 1})
    assert api.services.log.reap(ref) == ("hint", None)

    found = told(api, turn)

    assert (found["hints"]["sent"], found["workers_alive"]) == (1, 1)
    assert found["next"]["message"].startswith("It waits for a worker; the next hint is due in ")


def test_why_of_a_turn_that_runs_names_its_worker_and_its_last_event_and_nothing_that_was_said(api: Api) -> None:
    turn = api.turn(messages=[{"role": "user", "content": "a secret question"}])
    api.worker(turn).say("a secret answer")
    api.services.registry.alive("test")

    found = told(api, turn)

    assert found["next"] == {"code": "running", "message": "Its worker test is at work on it. To stop it, cancel it."}
    assert (found["lease"]["worker"], found["lease"]["worker_alive"]) == ("test", True)
    assert found["lease"]["lease_s"] == pytest.approx(found["lease"]["renewed_s_ago"] + found["lease"]["left_s"])
    assert found["last_event"]["type"] == "step_complete"
    assert found["last_event"]["age_s"] >= 0
    assert "secret" not in orjson.dumps(found).decode()


def test_why_of_a_turn_behind_others_names_the_one_before_it_and_the_one_that_runs(api: Api) -> None:
    session = api.session()
    first, second, third = api.turn(session), api.turn(session), api.turn(session)
    api.worker(first)

    found = told(api, third)

    assert found["next"]["code"] == "behind" and id_of(first) in found["next"]["message"]
    assert found["queue"] == {"position": 2, "length": 3, "before": id_of(second), "head": id_of(first)}


def test_why_of_a_turn_that_waits_for_its_client_names_the_calls_and_how_long(api: Api) -> None:
    turn = api.turn()
    api.worker(turn).ask("c2", "c1")

    found = told(api, turn)

    assert found["next"]["code"] == "awaiting_input"
    assert found["awaits"]["call_ids"] == ["c1", "c2"]
    assert 0 < found["awaits"]["left_s"] <= 86400
    assert found["hints"]["next_in_s"] is None


def test_why_of_a_turn_whose_cancel_was_asked_for(api: Api) -> None:
    turn = api.turn()
    api.worker(turn)
    assert api.client.post(f"{turn}/cancel").status_code == 202

    found = told(api, turn)

    assert (found["next"]["code"], found["cancel_asked"]) == ("canceling", True)


def test_why_of_a_turn_that_a_newer_release_wrote(api: Api) -> None:
    turn = api.turn()
    store(api).hset(keys(api).turn(ref_of(turn)).turn, "schema", SCHEMA_VERSION + 1)

    assert told(api, turn)["next"]["code"] == "newer_release"


def test_why_of_a_turn_with_limits_says_what_is_left_of_them(api: Api) -> None:
    turn = api.turn(queue_ttl_s=100, deadline_s=200)

    limits = told(api, turn)["limits"]

    assert 0 < limits["start_in_s"] <= 100 < limits["end_in_s"] <= 200
    api.worker(turn)
    assert told(api, turn)["limits"]["start_in_s"] is None


def test_why_of_a_turn_that_the_store_has_lost_from_its_index(api: Api) -> None:
    turn = api.turn()
    ref = ref_of(turn)
    store(api).zrem(keys(api).shard(ref.shard).due, ref.member)

    assert told(api, turn)["next"]["code"] == "unscheduled"


def test_why_of_a_turn_that_has_ended_says_how(api: Api) -> None:
    completed, failed, canceled = api.turn(), api.turn(), api.turn()
    api.worker(completed).finish()
    fail(api, failed)
    api.client.post(f"{canceled}/cancel")

    messages = {turn: told(api, turn)["next"] for turn in (completed, failed, canceled)}

    assert {found["code"] for found in messages.values()} == {"ended"}
    assert messages[completed]["message"] == "It completed."
    assert "It failed: provider_timeout. It was slow." in messages[failed]["message"]
    assert "It was canceled: Canceled on request." in messages[canceled]["message"]
    found = told(api, completed)
    assert found["lease"] is None and found["queue"] is None and found["hints"]["next_in_s"] is None


def test_why_of_a_failed_turn_says_how_after_its_events_have_expired(api: Api) -> None:
    turn = api.turn()
    fail(api, turn)
    store(api).delete(keys(api).turn(ref_of(turn)).events)

    found = told(api, turn)

    assert "provider_timeout" in found["next"]["message"]
    assert found["last_event"] is None


# Requeue


def test_a_failed_turn_is_run_again_with_its_input_and_its_config(api: Api) -> None:
    session = api.session(api.agent(instructions="Be brief."))
    document = {"content": "a document", "mime_type": "text/plain"}
    old = api.turn(session, documents=[document], model="meta/small", sampling_params={"max_tokens": 7})
    config = config_of(api, old)
    assert (config["model"], config["sampling_params"]["max_tokens"]) == ("meta/small", 7)
    fail(api, old)

    answer = act(api, old, "requeue")

    assert answer.status_code == 202, answer.text
    new = answer.headers["Location"]
    assert new.startswith(f"{session}/turn/") and new != old
    assert answer.json["retry_of"] == id_of(old)
    assert (answer.json["status"], answer.headers["Retry-After"]) == ("queued", "1")
    assert config_of(api, new) == config
    was, now = (api.client.get(f"{turn}/events?wait=0").json["data"][0]["event"]["payload"] for turn in (old, new))
    assert now == {**was, "turn_id": id_of(new), "created_at": now["created_at"]}
    assert now["documents"][0]["content"] == "a document"


def test_retry_of_is_shown_wherever_the_turn_is(api: Api) -> None:
    session = api.session()
    old = api.turn(session)
    fail(api, old)
    new = act(api, old, "requeue").headers["Location"]

    queued = api.client.get(new).json
    worker = api.worker(new)
    worker.say("hello")
    worker.finish()

    ended = api.client.get(new).json
    (in_session,) = [turn for turn in api.client.get(session).json["turns"] if turn["turn_id"] == id_of(new)]
    frames = api.client.get(f"{new}/events").text
    assert queued["retry_of"] == ended["retry_of"] == in_session["retry_of"] == id_of(old)
    assert listed(api, status="completed")["data"][0]["retry_of"] == id_of(old)
    assert told(api, new)["retry_of"] == id_of(old)
    assert orjson.loads(frames.rstrip().rpartition("data: ")[2])["event"]["payload"]["turn"] == ended
    assert "retry_of" not in api.client.get(old).json
    assert b"retry_of" not in b"".join(entry.payload for entry in api.services.reader.all_entries(ref_of(new)))


def test_a_canceled_turn_is_run_again_before_and_after_its_snapshot_is_made(api: Api) -> None:
    for folds in (False, True):
        turn = api.turn()
        api.client.post(f"{turn}/cancel")
        if folds:
            fold_ended(api, ref_of(turn))

        assert act(api, turn, "requeue").status_code == 202, folds


def test_a_turn_whose_input_is_large_is_run_again(api: Api) -> None:
    text = "long " * 40_000
    turn = api.turn(messages=[{"role": "user", "content": text}])
    fail(api, turn)

    assert act(api, turn, "requeue").json["input_messages"][0]["content"] == text


def test_a_turn_that_is_run_again_has_the_time_that_the_old_one_had(api: Api) -> None:
    old = api.turn(queue_ttl_s=100, deadline_s=200)
    fail(api, old)

    new = act(api, old, "requeue").headers["Location"]

    assert api.services.reader.time_limits(ref_of(new)) == (100.0, 200.0)


def test_a_requeue_waits_for_the_sessions_unfinished_turns_and_ends_none_of_them(api: Api) -> None:
    for strategy in ("interrupt", "rollback", "reject"):
        session = api.session()
        old = api.turn(session)
        fail(api, old)
        other = api.turn(session)
        ref = ref_of(other)
        store(api).hset(keys(api).session(ref.session).session, "multitask_strategy", strategy)

        new = act(api, old, "requeue").headers["Location"]

        assert api.client.get(other).json["status"] == "queued"
        assert told(api, new)["queue"]["before"] == id_of(other)


def test_each_requeue_makes_another_turn_unless_it_has_the_same_key(api: Api) -> None:
    turn = api.turn()
    fail(api, turn)

    plain = [act(api, turn, "requeue") for _ in range(2)]
    keyed = [act(api, turn, "requeue", Idempotency_Key="once") for _ in range(2)]

    assert len({answer.json["turn_id"] for answer in (*plain, *keyed)}) == 3
    assert keyed[0].json == keyed[1].json
    assert "Idempotent-Replayed" not in keyed[0].headers
    assert keyed[1].headers["Idempotent-Replayed"] == "true"
    assert keyed[0].headers["Location"] == keyed[1].headers["Location"]


def test_a_key_that_came_with_another_request_is_refused(api: Api) -> None:
    session = api.session()
    turns = [api.turn(session), api.turn(session)]
    for turn in turns:
        fail(api, turn)
    assert act(api, turns[0], "requeue", Idempotency_Key="once").status_code == 202

    assert_problem(act(api, turns[1], "requeue", Idempotency_Key="once"), 422, "idempotency_key_reused")
    assert_problem(act(api, turns[1], "requeue", Idempotency_Key=""), 422, "invalid_fields")


@pytest.mark.parametrize("end", ["fail", "requeue"])
def test_what_has_been_run_again_may_be_run_again(api: Api, end: str) -> None:
    turn = api.turn()
    fail(api, turn)
    again = act(api, turn, "requeue").headers["Location"]
    act(api, again, "fail")

    third = act(api, again if end == "fail" else turn, "requeue")

    assert third.json["retry_of"] == id_of(again if end == "fail" else turn)


def test_what_has_not_ended_or_completed_is_not_run_again(api: Api) -> None:
    queued, running, awaiting, completed = (api.turn() for _ in range(4))
    api.worker(running)
    api.worker(awaiting).ask("c1")
    api.worker(completed).finish()

    for turn in (queued, running, awaiting):
        assert_problem(act(api, turn, "requeue"), 409, "not_ended")
    answer = act(api, completed, "requeue")
    assert_problem(answer, 409, "completed")
    assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("part", ["events", "private"])
def test_what_ended_so_long_ago_that_its_input_is_gone_is_not_run_again(api: Api, part: str) -> None:
    turn = api.turn()
    fail(api, turn)
    store(api).delete(getattr(keys(api).turn(ref_of(turn)), part))

    problem = assert_problem(act(api, turn, "requeue"), 409, "input_expired")

    assert "turns.events_ttl_s" in problem["detail"]


def test_what_nobody_serves_any_more_is_not_run_again(api: Api) -> None:
    turn = api.turn()
    fail(api, turn)
    models = [model for model in REGISTRY.models if model.identifier != "m"]
    api.services.registry.publish(type(REGISTRY)(models=models))
    fresh = Api.on(api.services.settings.redis_url, api.services.settings.key_prefix, registry=None)

    assert_problem(act(fresh, turn, "requeue"), 400, "model_not_found")
    assert ids(listed(api, status="queued")) == []


# Fail


def test_an_operator_ends_a_turn_that_waits_and_the_next_one_of_its_session_becomes_due(api: Api) -> None:
    session = api.session()
    first, second = api.turn(session), api.turn(session)
    hinted: list[TurnRef] = []
    api.services.hints.send = hinted.append  # type: ignore[method-assign]

    answer = act(api, first, "fail", {"reason": "It is stuck."})

    assert answer.status_code == 200, answer.text
    assert (answer.json["status"], answer.json["error"]["code"]) == ("failed", "failed_by_operator")
    assert answer.json["error"]["message"] == "An operator ended this turn: It is stuck."
    assert hinted == [ref_of(second)]
    assert told(api, second)["queue"]["position"] == 0


@pytest.mark.parametrize("body", [None, {}, {"reason": None}])
def test_a_reason_may_be_left_out(api: Api, body: Json | None) -> None:
    turn = api.turn()

    assert act(api, turn, "fail", body).json["error"]["message"] == "An operator ended this turn."


def test_an_operator_ends_a_turn_that_a_worker_runs_and_fences_it(api: Api) -> None:
    running, awaiting = api.turn(), api.turn()
    worker = api.worker(running)
    api.worker(awaiting).ask("c1")

    assert act(api, running, "fail").json["status"] == "failed"
    assert act(api, awaiting, "fail").json["status"] == "failed"

    with pytest.raises(Fenced):
        worker.say("too late")


def test_what_has_ended_is_not_ended_again(api: Api) -> None:
    completed, failed, canceled = api.turn(), api.turn(), api.turn()
    api.worker(completed).finish()
    act(api, failed, "fail")
    api.client.post(f"{canceled}/cancel")

    for turn, how in ((completed, "completed"), (failed, "failed"), (canceled, "canceled")):
        problem = assert_problem(act(api, turn, "fail"), 409, "already_ended")
        assert f"it is {how}" in problem["detail"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"reason": ""}', 422),
        (b'{"reason": 5}', 422),
        (b'{"reason": "' + b"x" * 1001 + b'"}', 422),
        (b"[]", 400),
        (b"{", 400),
        (b'{"reason": "\\u0000"}', 400),
    ],
)
def test_a_reason_that_is_none_is_refused(api: Api, body: bytes, status: int) -> None:
    turn = api.turn()

    answer = api.client.post(f"/v1/turns/{id_of(turn)}/fail", data=body, content_type="application/json")

    assert_problem(answer, status)
    assert api.client.get(turn).json["status"] == "queued"


def test_a_reason_in_another_form_is_refused(api: Api) -> None:
    answer = api.client.post(f"/v1/turns/{id_of(api.turn())}/fail", data=b"reason=x", content_type="text/plain")

    assert_problem(answer, 415)
