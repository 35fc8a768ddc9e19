"""Sessions over HTTP."""

import pytest
from apikit import Api, assert_problem, event_types, ref_of

from shared.ids import SessionRef
from shared.runconfig import FrontConfig, Turns


def test_a_session_is_shown_with_its_turns_in_the_order_of_their_acceptance(api: Api) -> None:
    session = api.session()
    turns = [api.turn(session).rpartition("/")[2] for _ in range(3)]

    answer = api.client.get(session).json

    assert answer["session_id"] == session.rpartition("/")[2]
    assert answer["session_name"] == "test"
    assert answer["started_at"].endswith("Z")
    assert [turn["turn_id"] for turn in answer["turns"]] == turns


@pytest.mark.parametrize("piece_bytes", [1, 2000, 10**9], ids=["a turn a piece", "few", "many"])
def test_a_long_session_comes_in_pieces_and_whole(api: Api, monkeypatch: pytest.MonkeyPatch, piece_bytes: int) -> None:
    monkeypatch.setattr("api.session_answers._PIECE_BYTES", piece_bytes)
    session = api.session()
    turns = [api.turn(session) for _ in range(25)]
    for turn in turns[:10]:
        api.worker(turn).finish()
    api.worker(turns[10])

    answer = api.client.get(session)

    assert answer.mimetype == "application/json"
    assert [turn["turn_id"] for turn in answer.json["turns"]] == [turn.rpartition("/")[2] for turn in turns]
    assert answer.json["turns"] == [api.client.get(turn).json for turn in turns]
    assert {turn["status"] for turn in answer.json["turns"]} == {"completed", "in_progress", "queued"}


def test_only_the_turns_that_were_asked_for_are_shown(api: Api) -> None:
    session = api.session()
    first, _, third = (api.turn(session).rpartition("/")[2] for _ in range(3))

    answer = api.client.get(f"{session}?turn_ids={third},{first},unknown").json

    assert [turn["turn_id"] for turn in answer["turns"]] == [first, third]
    assert api.client.get(f"{session}?turn_ids=").json["turns"] == []


def test_sessions_are_listed_in_pages_oldest_first(api: Api) -> None:
    agent = api.agent()
    sessions = [api.session(agent).rpartition("/")[2] for _ in range(3)]

    first = api.client.get(f"{agent}/sessions?limit=2").json
    second = api.client.get(f"{agent}/sessions?limit=2&start_index=2").json

    assert [entry["session_id"] for entry in first["data"]] == sessions[:2]
    assert [entry["session_id"] for entry in second["data"]] == sessions[2:]
    assert (first["has_more"], second["has_more"]) == (True, False)


def test_a_deleted_session_is_gone_and_its_turns_end_as_canceled(api: Api) -> None:
    session = api.session()
    running, queued = api.turn(session), api.turn(session)
    api.worker(running)

    assert api.client.delete(session).status_code == 204

    assert_problem(api.client.get(session), 404)
    assert_problem(api.client.delete(session), 404)
    assert_problem(api.client.get(running), 404)
    assert_problem(api.client.get(f"{running}/events"), 404)
    assert event_types(api.services, ref_of(running))[-1] == "turn_canceled"
    assert event_types(api.services, ref_of(queued))[-1] == "turn_canceled"


def test_a_session_of_another_agent_is_not_found(api: Api) -> None:
    session, stranger = api.session(), api.agent()
    elsewhere = f"{stranger}/session/{session.rpartition('/')[2]}"

    assert_problem(api.client.get(elsewhere), 404)
    assert_problem(api.client.delete(elsewhere), 404)
    assert_problem(api.post(f"{elsewhere}/turn", {"messages": [{"role": "user", "content": "x"}]}), 404)
    assert api.client.get(session).status_code == 200


@pytest.mark.parametrize(
    "session_id", ["x", "sess_99_00", "sess_1_00", "sess_00_0123456789abcdef01234567", "ü", "..", "sess_00_a b", "%2F"]
)
def test_an_id_that_was_never_issued_is_not_found(api: Api, session_id: str) -> None:
    agent = api.agent()

    for path in (f"{agent}/session/{session_id}", f"{agent}/session/{session_id}/turn/{session_id}"):
        assert_problem(api.client.get(path), 404)
        assert_problem(api.client.get(f"{path}/events"), 404)


@pytest.mark.parametrize("part", [":queue", ":turns", ":idem:k", ":events", ":private", ":blobs"])
def test_an_id_with_the_name_of_another_key_behind_it_is_not_found(api: Api, part: str) -> None:
    turn = api.turn()

    assert_problem(api.client.get(f"{turn.partition('/turn/')[0]}{part}"), 404)
    assert_problem(api.client.get(f"{turn}{part}"), 404)
    assert_problem(api.client.post(f"{turn}{part}/cancel"), 404)


def test_a_session_of_an_agent_without_persistence_expires(redis_url: str, key_prefix: str) -> None:
    api = Api.on(redis_url, key_prefix, FrontConfig(turns=Turns(session_ttl_s=120)))
    ref = SessionRef("default", api.session(api.agent(enable_session_persistence=False)).rpartition("/")[2])
    kept = SessionRef("default", api.session(api.agent(enable_session_persistence=None)).rpartition("/")[2])

    expiring, persistent = api.services.sessions.get(ref), api.services.sessions.get(kept)

    assert expiring is not None and expiring.idle_ttl_s == 120
    assert persistent is not None and persistent.idle_ttl_s is None


def test_the_same_key_gives_the_same_session_of_its_agent_only(api: Api) -> None:
    agent, other = api.agent(), api.agent()
    body = {"session_name": "x"}

    first = api.post(f"{agent}/session", body, Idempotency_Key="k").json
    again = api.post(f"{agent}/session", body, Idempotency_Key="k").json
    elsewhere = api.post(f"{other}/session", body, Idempotency_Key="k").json

    assert first == again != elsewhere
    changed = api.post(f"{agent}/session", {"session_name": "y"}, Idempotency_Key="k")
    assert_problem(changed, 422, "idempotency_key_reused")


def test_no_session_begins_with_an_agent_that_is_not_there(api: Api) -> None:
    assert_problem(api.post("/v1/agents/agent_none/session", {"session_name": "x"}), 404)
    assert_problem(api.client.get("/v1/agents/agent_none/sessions"), 404)
