"""Turns over HTTP: reading them, and their events."""

import threading
import time
from pathlib import Path

import orjson
import pytest
from apikit import Api, assert_problem, ref_of
from rooms import Rooms
from waiting import wait_for


def test_a_running_turn_is_shown_with_the_steps_so_far(api: Api) -> None:
    turn = api.turn()
    step_id = api.worker(turn).say("so far")

    answer = api.client.get(turn).json

    assert answer["status"] == "in_progress"
    assert [step["step_id"] for step in answer["steps"]] == [step_id]


def test_a_step_is_found_by_its_id(api: Api) -> None:
    turn = api.turn()
    step_id = api.worker(turn).say("so far")

    step = api.client.get(f"{turn}/step/{step_id}").json["step"]

    assert step["model_response"]["content"] == "so far"
    assert_problem(api.client.get(f"{turn}/step/step_none"), 404)


def test_a_long_poll_comes_back_when_the_turn_ends(api: Api) -> None:
    turn = api.turn()
    answers: list[str] = []
    poll = threading.Thread(target=lambda: answers.append(api.client.get(f"{turn}?wait=60").json["status"]))

    poll.start()
    api.worker(turn).finish()
    poll.join(20)

    assert answers == ["completed"]


def test_a_long_poll_that_is_over_shows_the_turn_as_it_is(api: Api) -> None:
    began = time.monotonic()

    answer = api.client.get(f"{api.turn()}?wait=0.1")

    assert (answer.status_code, answer.json["status"]) == (200, "queued")
    assert time.monotonic() - began < 10


def test_a_long_wait_keeps_the_connection_with_spaces_in_front_of_the_turn(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.streams.tails.HEARTBEAT_S", 0.05)
    turn = api.turn()

    answer = api.client.get(f"{turn}?wait=60", buffered=False)
    chunks = answer.iter_encoded()
    first = next(chunks)
    api.worker(turn).finish()
    rest = b"".join(chunks)

    assert first == b" "
    assert rest.lstrip(b" ").startswith(b"{")
    assert orjson.loads(first + rest)["status"] == "completed"


@pytest.mark.parametrize("wait", ["abc", "nan", "inf", "-1", "601", ""])
def test_a_wait_that_is_none_is_refused(api: Api, wait: str) -> None:
    turn = api.turn()

    assert assert_problem(api.client.get(f"{turn}?wait={wait}"), 422)["error"]["param"] == "wait"
    assert assert_problem(api.client.get(f"{turn}/events?wait={wait}"), 422)["error"]["param"] == "wait"


@pytest.mark.parametrize("how", [{"headers": {"Accept": "application/json"}}, {"query_string": {"wait": "0"}}])
def test_events_come_in_pages_where_json_is_asked_for(api: Api, how: dict[str, dict[str, str]]) -> None:
    turn = api.turn()
    api.worker(turn).finish()

    page = api.client.get(f"{turn}/events", **how).json
    events = [item["event"]["payload"]["event_type"] for item in page["data"]]

    assert events == ["turn_created", "turn_start", "turn_complete"]
    assert [item["seq"] for item in page["data"]] == [1, 2, 3]
    assert (page["status"], page["has_more"], page["last_id"]) == ("completed", False, page["data"][-1]["id"])


def test_pages_follow_each_other_by_their_last_id(api: Api) -> None:
    turn = api.turn()
    api.worker(turn).finish()

    first = api.client.get(f"{turn}/events?wait=0&limit=2").json
    second = api.client.get(f"{turn}/events?wait=0&after={first['last_id']}").json

    assert (first["has_more"], len(first["data"])) == (True, 2)
    assert [item["seq"] for item in second["data"]] == [3]


def test_events_are_server_sent_by_default_and_end_with_the_turn(api: Api) -> None:
    turn = api.turn()
    api.worker(turn).finish()

    answer = api.client.get(f"{turn}/events")

    assert answer.mimetype == "text/event-stream"
    assert [line for line in answer.text.splitlines() if line.startswith("event: ")] == [
        "event: turn_created",
        "event: turn_start",
        "event: turn_complete",
    ]


@pytest.mark.parametrize("how", ["header", "query"])
def test_a_tail_goes_on_after_the_last_event_that_the_client_has(api: Api, how: str) -> None:
    turn = api.turn()
    api.worker(turn).finish()
    ids = [item["id"] for item in api.client.get(f"{turn}/events?wait=0").json["data"]]

    def tail(event_id: str) -> str:
        headers, query = ({"Last-Event-ID": event_id}, {}) if how == "header" else ({}, {"after": event_id})
        return api.client.get(f"{turn}/events", headers=headers, query_string=query).text

    assert [line for line in tail(ids[1]).splitlines() if line.startswith("id: ")] == [f"id: {ids[2]}"]
    assert tail("") == api.client.get(f"{turn}/events").text


def test_a_client_that_has_all_events_of_an_ended_turn_is_told_to_stop(api: Api) -> None:
    turn = api.turn()
    api.worker(turn).finish()

    answer = api.client.get(f"{turn}/events?after=3")

    assert (answer.status_code, answer.data) == (204, b"")


@pytest.mark.parametrize("after", ["abc", "-1", "1-2-3", "1" * 40, "1-", "ü"])
def test_a_cursor_that_is_none_is_refused(api: Api, after: str) -> None:
    turn = api.turn()

    for query in ({"after": after}, {"after": after, "wait": "0"}):
        assert assert_problem(api.client.get(f"{turn}/events", query_string=query), 400)["error"]["param"] == "after"


def test_a_client_that_leaves_a_tail_leaves_nothing_behind(api: Api) -> None:
    turn = api.turn()
    hub = api.services.tails._hub

    answer = api.client.get(f"{turn}/events", buffered=False)
    next(answer.iter_encoded())
    wait_for(lambda: len(hub._topics) == 1, "the tail follows the turn")
    answer.close()

    assert hub._topics == {}


def test_a_stream_whose_store_goes_away_before_its_first_event_ends_with_a_word(tmp_path: Path) -> None:
    with Rooms(tmp_path) as rooms:
        services = (api := Api.on(rooms.store_url, "ts")).services
        tails, ref = services.tails, ref_of(api.turn())
        row = services.reader.row(ref)
        assert row is not None
        stream = tails.events_response(ref, row, after=None)

        rooms.kill_store()
        said = list(stream or ())
        tails.close()

    assert said == [b": the store does not answer, reconnect\n"]
