"""Turns over HTTP: submit, cancel, resume."""

import re
from typing import Any

import pytest
from apikit import HELLO, Api, assert_problem, event_types, ref_of
from redis.exceptions import ConnectionError as RedisConnectionError

from shared.runconfig import FrontConfig, Limits

ANSWER = [{"call_id": "c1", "tool_name": "add", "content": "42"}]


def test_a_submit_without_stream_answers_202_at_once(api: Api) -> None:
    for stream in ({}, {"stream": None}):
        answer = api.post(f"{api.session()}/turn", {**HELLO, **stream})

        assert answer.status_code == 202
        assert answer.json["status"] == "queued"
        assert answer.headers["Retry-After"] == "1"
        assert answer.headers["Location"].endswith(f"/turn/{answer.json['turn_id']}")
        assert api.client.get(answer.headers["Location"]).json == answer.json


def test_a_waiting_submit_answers_with_the_ended_turn(api: Api) -> None:
    session = api.session()
    api.services.hints.send = lambda ref: _run(api, ref)  # type: ignore[method-assign]

    answer = api.post(f"{session}/turn", {**HELLO, "stream": False})

    assert answer.status_code == 200
    assert answer.json["status"] == "completed"
    assert answer.json["output_message"]["content"] == "hello back"


def _run(api: Api, ref: Any) -> None:
    worker = api.worker(f"/v1/agents/a/session/{ref.session_id}/turn/{ref.turn_id}")
    worker.say("hello back")
    worker.finish()


def test_a_preferred_wait_that_is_too_short_answers_202_with_the_unfinished_turn(api: Api) -> None:
    answer = api.post(f"{api.session()}/turn", {**HELLO, "stream": False}, Prefer="respond-async, wait=0")

    assert answer.status_code == 202
    assert answer.json["status"] == "queued"
    assert answer.headers["Preference-Applied"] == "wait=0"


def test_a_streaming_submit_gives_the_official_clients_frames(api: Api) -> None:
    api.services.hints.send = lambda ref: _run(api, ref)  # type: ignore[method-assign]

    answer = api.post(f"{api.session()}/turn", {**HELLO, "stream": True})

    assert answer.status_code == 200
    assert answer.mimetype == "text/event-stream"
    assert answer.headers["X-Accel-Buffering"] == "no"
    assert answer.headers["Cache-Control"] == "no-cache"
    types = re.findall(r'"event_type":\s*"(\w+)"', answer.text)
    assert types == ["turn_start", "step_start", "step_complete", "turn_complete"]


def test_a_turn_runs_with_the_agents_config_and_its_own_overrides(api: Api) -> None:
    tools = [{"name": "add", "parameters": [{"name": "x", "parameter_type": "integer", "description": "a number"}]}]
    agent = api.agent(client_tools=tools, instructions="Be brief.", sampling_params={"max_tokens": 0})

    plain = api.worker(api.turn(api.session(agent))).config
    changed = api.worker(
        api.turn(
            api.session(agent),
            model="meta/small",
            tool_config={"tool_choice": "add"},
            max_infer_iters=3,
            sampling_params={"strategy": {"type": "greedy"}, "max_tokens": 7},
        )
    ).config

    assert plain == api.client.get(agent).json["agent_config"]
    assert plain["sampling_params"]["max_tokens"] is None
    assert changed == {
        **plain,
        "model": "meta/small",
        "tool_choice": "add",
        "tool_config": {"tool_choice": "add", "system_message_behavior": "append"},
        "max_infer_iters": 3,
        "sampling_params": {
            "strategy": {"type": "greedy"},
            "max_tokens": 7,
            "repetition_penalty": None,
            "stop": None,
        },
    }


def test_an_override_of_the_tool_config_keeps_the_agents_choice_unless_it_makes_one(api: Api) -> None:
    agent = api.agent(tool_choice="none")
    turn = api.turn(api.session(agent), tool_config={"system_message_behavior": "replace"})

    config = api.worker(turn).config

    assert config["tool_config"] == {"tool_choice": "none", "system_message_behavior": "replace"}


def test_input_is_kept_without_what_was_absent(api: Api) -> None:
    messages = [
        {"role": "user", "content": "plain", "context": None, "unknown": 1},
        {"role": "user", "content": {"type": "text", "text": "item"}, "context": "more"},
        {
            "role": "user",
            "content": [
                {"type": "image", "image": {"url": {"uri": "https://example.org/x.png"}, "data": None}},
                {"type": "image", "image": {"data": "aGVsbG8="}},
            ],
        },
        {"role": "tool", "call_id": "c", "content": "42"},
    ]

    turn = api.client.get(api.turn(messages=messages)).json

    assert turn["input_messages"] == [
        {"role": "user", "content": "plain"},
        {"role": "user", "content": {"type": "text", "text": "item"}, "context": "more"},
        {
            "role": "user",
            "content": [
                {"type": "image", "image": {"url": {"uri": "https://example.org/x.png"}}},
                {"type": "image", "image": {"data": "aGVsbG8="}},
            ],
        },
        {"role": "tool", "call_id": "c", "content": "42"},
    ]


@pytest.mark.parametrize("name", ["documents", "attachments"])
def test_documents_are_read_under_both_of_their_names(api: Api, name: str) -> None:
    turn = api.turn(**{name: [{"content": "text", "mime_type": "text/plain"}]})

    (first,) = api.services.reader.entries(ref_of(turn))

    assert b'"documents":[{"content":"text","mime_type":"text/plain"}]' in first.payload


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"documents": [{"content": "x"}, {"content": {"uri": "file:///x"}}]}, 400, "documents.1.content.uri"),
        (
            {"documents": [{"content": {"type": "image", "image": {"data": "a"}}}]},
            422,
            "documents.0.content.image.data",
        ),
        ({"toolgroups": ["builtin::rag"]}, 400, "toolgroups"),
        ({"model": "gpt-9"}, 400, "model"),
        ({"tool_config": {"tool_choice": "nothing"}}, 400, "tool_config.tool_choice"),
        ({"messages": []}, 422, "messages"),
        ({"messages": None}, 422, "messages"),
        ({"messages": [{"role": "system", "content": "x"}]}, 422, "messages.0"),
        ({"messages": [{"role": "user", "content": 1}]}, 422, "messages.0.content"),
        ({"messages": [{"role": "user"}]}, 422, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, 422, "messages.0.content.0.text"),
        (
            {"messages": [{"role": "user", "content": {"type": "image", "image": {"url": {"uri": "ftp://x"}}}}]},
            422,
            "messages.0.content.image.url",
        ),
        (
            {"messages": [{"role": "user", "content": {"type": "image", "image": {"data": "no base64"}}}]},
            422,
            "messages.0.content.image.data",
        ),
        (
            {"messages": [{"role": "user", "content": {"type": "image", "image": {}}}]},
            422,
            "messages.0.content.image",
        ),
        ({"stream": "yes"}, 422, "stream"),
    ],
)
def test_a_turn_that_cannot_run_is_refused_and_the_field_named(api: Api, body: Any, status: int, param: str) -> None:
    answer = api.post(f"{api.session()}/turn", {**HELLO, **body})

    assert assert_problem(answer, status)["error"]["param"] == param


def test_more_messages_than_the_limit_are_refused(redis_url: str, key_prefix: str) -> None:
    api = Api.on(redis_url, key_prefix, FrontConfig(limits=Limits(messages=3)))
    message = HELLO["messages"][0]
    session = api.session()

    assert api.post(f"{session}/turn", {"messages": [message] * 3}).status_code == 202
    answer = api.post(f"{session}/turn", {"messages": [message] * 4})
    assert_problem(answer, 400, "too_many_messages")


def test_a_repetition_with_the_same_key_finds_the_same_turn(api: Api) -> None:
    session = api.session()

    first = api.post(f"{session}/turn", HELLO, Idempotency_Key="k")
    again = api.post(f"{session}/turn", {**HELLO, "stream": None}, Idempotency_Key="k")
    api.client.post(f"{first.headers['Location']}/cancel")
    streamed = api.post(f"{session}/turn", {**HELLO, "stream": True}, Idempotency_Key="k")

    assert (again.status_code, again.json) == (202, first.json)
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == streamed.headers["Idempotent-Replayed"] == "true"
    assert first.json["turn_id"] in streamed.text
    assert len(api.client.get(session).json["turns"]) == 1


def test_the_same_key_with_another_message_is_refused(api: Api) -> None:
    session = api.session()
    api.post(f"{session}/turn", HELLO, Idempotency_Key="k")

    answer = api.post(f"{session}/turn", {"messages": [{"role": "user", "content": "other"}]}, Idempotency_Key="k")

    assert_problem(answer, 422, "idempotency_key_reused")


def test_an_official_clients_retry_without_a_key_finds_the_same_turn(api: Api) -> None:
    session = api.session()

    first = api.post(f"{session}/turn", HELLO, x_stainless_retry_count="0").json
    retry = api.post(f"{session}/turn", HELLO, x_stainless_retry_count="1").json
    second = api.post(f"{session}/turn", HELLO, x_stainless_retry_count="0").json

    assert retry["turn_id"] == first["turn_id"] != second["turn_id"]


def test_a_queued_turn_is_canceled_at_once_and_again_without_harm(api: Api) -> None:
    turn = api.turn()

    answers = [api.client.post(f"{turn}/cancel") for _ in range(2)]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert [answer.json["status"] for answer in answers] == ["canceled", "canceled"]


def test_a_running_turn_is_told_to_end(api: Api) -> None:
    turn = api.turn()
    api.worker(turn)

    answer = api.client.post(f"{turn}/cancel")

    assert (answer.status_code, answer.json["status"]) == (202, "in_progress")


def test_canceling_a_completed_turn_says_that_it_is_completed(api: Api) -> None:
    turn = api.turn()
    worker = api.worker(turn)
    worker.finish()

    answer = api.client.post(f"{turn}/cancel")

    assert "completed" in assert_problem(answer, 409, "already_ended")["detail"]
    assert answer.headers["x-should-retry"] == "false"


def test_a_canceled_turn_makes_way_for_the_next_one(api: Api) -> None:
    session = api.session()
    first, second = api.turn(session), api.turn(session)
    hinted: list[str] = []
    api.services.hints.send = lambda ref: hinted.append(ref.turn_id)  # type: ignore[method-assign]

    api.client.post(f"{first}/cancel")

    assert hinted == [second.rpartition("/")[2]]


def test_a_waiting_turn_goes_on_with_the_clients_answers(api: Api) -> None:
    turn = api.turn()
    api.worker(turn).ask("c1")

    answer = api.post(f"{turn}/resume", {"tool_responses": ANSWER})

    assert (answer.status_code, answer.json["status"]) == (202, "queued")
    assert event_types(api.services, ref_of(turn))[-2:] == ["turn_awaiting_input", "turn_resumed"]


def test_the_same_answers_again_change_nothing(api: Api) -> None:
    turn = api.turn()
    api.worker(turn).ask("c1")

    answers = [api.post(f"{turn}/resume", {"tool_responses": ANSWER}) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [202, 202]
    assert event_types(api.services, ref_of(turn)).count("turn_resumed") == 1


@pytest.mark.parametrize(
    ("call_ids", "named"),
    [(["c1"], "missing call_id: c2"), (["c1", "c2", "c3"], "unknown call_id: c3"), (["c1", "c1", "c2"], "once")],
)
def test_answers_to_other_calls_than_the_pending_ones_are_refused(api: Api, call_ids: list[str], named: str) -> None:
    turn = api.turn()
    api.worker(turn).ask("c1", "c2")
    responses = [{"call_id": call_id, "tool_name": "add", "content": "1"} for call_id in call_ids]

    body = assert_problem(api.post(f"{turn}/resume", {"tool_responses": responses}), 422, "wrong_call_ids")

    assert named in body["detail"]


def test_a_turn_that_does_not_wait_cannot_be_resumed(api: Api) -> None:
    answer = api.post(f"{api.turn()}/resume", {"tool_responses": ANSWER})

    assert_problem(answer, 409, "not_awaiting_input")
    assert answer.headers["x-should-retry"] == "false"


def test_a_resume_that_waits_answers_with_the_turn_at_rest(api: Api) -> None:
    turn = api.turn()
    api.worker(turn).ask("c1")
    api.services.hints.send = lambda ref: _run(api, ref)  # type: ignore[method-assign]

    answer = api.post(f"{turn}/resume", {"tool_responses": ANSWER, "stream": False})

    assert (answer.status_code, answer.json["status"]) == (200, "completed")


def test_a_turn_under_another_session_is_not_found_and_not_touched(api: Api) -> None:
    turn, session = api.turn(), api.session()
    elsewhere = f"{session}/turn/{turn.rpartition('/')[2]}"

    assert_problem(api.client.get(elsewhere), 404)
    assert_problem(api.client.get(f"{elsewhere}/events"), 404)
    assert_problem(api.client.get(f"{elsewhere}/step/x"), 404)
    assert_problem(api.client.post(f"{elsewhere}/cancel"), 404)
    assert_problem(api.post(f"{elsewhere}/resume", {"tool_responses": ANSWER}), 404)
    assert api.client.get(turn).json["status"] == "queued"


def test_a_submit_whose_reply_from_the_store_was_lost_is_answered_with_the_turn_that_it_made(api: Api) -> None:
    session = api.session()
    api.turn(session)  # from now on the scripts are loaded, and the session is known
    client = api.services.log._scripts._client
    replies_of, lost = client.together, []

    def lose_the_first(commands: Any) -> Any:
        replies = replies_of(commands)
        if commands[0][0] == "EVALSHA" and not lost:
            lost.extend(replies)
            raise RedisConnectionError("the reply was lost")
        return replies

    client.together = lose_the_first

    answer = api.post(f"{session}/turn", HELLO)

    assert [reply[0] for reply in lost] == [b"ACCEPTED"]
    assert answer.status_code == 202
    assert "Idempotent-Replayed" not in answer.headers
    assert [turn["turn_id"] for turn in api.client.get(session).json["turns"]][1:] == [answer.json["turn_id"]]
