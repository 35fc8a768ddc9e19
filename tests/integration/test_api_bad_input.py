"""Bad input: for every POST route a problem document with 4xx, and never a 500."""

import json
from typing import Any

import pytest
from apikit import HELLO, Api, assert_problem

JSON = "application/json"

# Of each route a body that would be taken, so that what is wrong with the others is what the test says.
BODIES: dict[str, dict[str, Any]] = {
    "agents": {"agent_config": {"model": "m"}},
    "session": {"session_name": "x"},
    "turn": HELLO,
    "resume": {"tool_responses": [{"call_id": "c1", "tool_name": "add", "content": "1"}]},
}
ROUTES = list(BODIES)

MALFORMED = {
    "nothing": b"",
    "white space": b"  \n",
    "no JSON": b"{nope",
    "two documents": b"{}{}",
    "half a document": b'{"messages": [{"role"',
    "invalid UTF-8": b'{"session_name": "\xff\xfe"}',
    "an overlong NUL": b'{"session_name": "\xc0\x80"}',
    "UTF-16": '{"session_name": "x"}'.encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf{}",
    "a raw NUL": b'{"session_name": "\x00"}',
    "a NUL behind the document": b"{}\x00",
    "a lone surrogate": b'{"session_name": "\\ud800"}',
    "a swapped pair of surrogates": b'{"session_name": "\\udc00\\ud800"}',
    "a raw control character": b'{"session_name": "\x01"}',
    "NaN": b'{"session_name": NaN}',
    "Infinity": b'{"session_name": -Infinity}',
    "a number beyond a double": b'{"session_name": 1e999}',
    "a whole number beyond 64 bits": b'{"metadata": 18446744073709551616}',
    "a whole number of 5,000 digits": b'{"metadata": ' + b"9" * 5000 + b"}",
    "lists 100,000 deep": b"[" * 100_000 + b"]" * 100_000,
    "objects 100,000 deep": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "lists without an end": b"[" * 1_000_000,
    "a list": b"[]",
    "a text": b'"agent_config"',
    "a number": b"1",
    "null": b"null",
}


@pytest.fixture
def paths(api: Api) -> dict[str, str]:
    """A path of each POST route under which everything is there."""
    turn = api.turn()
    api.worker(turn).ask("c1")
    session = turn.partition("/turn/")[0]
    agent = session.partition("/session/")[0]
    return {
        "agents": "/v1/agents",
        "session": f"{agent}/session",
        "turn": f"{session}/turn",
        "resume": f"{turn}/resume",
    }


@pytest.mark.parametrize("route", ROUTES)
def test_what_is_no_json_object_is_refused(api: Api, paths: dict[str, str], route: str) -> None:
    for what, body in MALFORMED.items():
        answer = api.client.post(paths[route], data=body, content_type=JSON)

        assert answer.status_code == 400, what
        assert_problem(answer, 400)


@pytest.mark.parametrize("route", ROUTES)
def test_a_nul_is_refused_wherever_it_hides(api: Api, paths: dict[str, str], route: str) -> None:
    for extra in ({"x": "a\0b"}, {"a\0b": 1}, {"x": [{"y": ["\\\0"]}]}):
        answer = api.client.post(paths[route], data=json.dumps({**BODIES[route], **extra}), content_type=JSON)

        assert_problem(answer, 400, "nul_character")


@pytest.mark.parametrize("route", ROUTES)
def test_a_backslash_before_u0000_is_no_nul(api: Api, paths: dict[str, str], route: str) -> None:
    body = {**BODIES[route], "x": "\\u0000 and \\\\u0000"}

    assert api.client.post(paths[route], data=json.dumps(body), content_type=JSON).status_code in (200, 202)


@pytest.mark.parametrize("route", ROUTES)
def test_json_that_nests_deeper_than_64_levels_is_refused(api: Api, paths: dict[str, str], route: str) -> None:
    def nested(levels: int) -> dict[str, Any]:
        value: Any = 1
        for _ in range(levels):
            value = [value]
        return {**BODIES[route], "x": value}

    assert_problem(api.post(paths[route], nested(64)), 400, "too_deep")
    assert api.post(paths[route], nested(63)).status_code in (200, 202)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("wrong", [1, "text", [], {}, True, [[]], 1.5, {"a": {"b": []}}, [None], 2**63])
def test_fields_of_a_wrong_type_are_named(api: Api, paths: dict[str, str], route: str, wrong: Any) -> None:
    (name,) = BODIES[route]
    if route == "session" and wrong == "text":
        return

    body = assert_problem(api.post(paths[route], {name: wrong}), 422, "invalid_fields")

    assert body["error"]["param"].startswith(name)


@pytest.mark.parametrize("route", ROUTES)
def test_a_missing_field_is_named(api: Api, paths: dict[str, str], route: str) -> None:
    for body in ({}, dict.fromkeys(BODIES[route])):
        answer = assert_problem(api.post(paths[route], body), 422, "invalid_fields")

        assert answer["detail"] == f"{next(iter(BODIES[route]))}: is required."


@pytest.mark.parametrize("route", ROUTES)
def test_a_body_over_the_limit_is_refused(api: Api, paths: dict[str, str], route: str) -> None:
    limit = 8_000_000
    room = limit - len(json.dumps({**BODIES[route], "x": ""}))

    def body(size: int) -> bytes:
        return json.dumps({**BODIES[route], "x": "a" * size}).encode()

    for size in (room + 1, room + 2, 2 * room):
        answer = api.client.post(paths[route], data=body(size), content_type=JSON)
        assert "8000000 bytes" in assert_problem(answer, 413)["detail"]
    assert api.client.post(paths[route], data=body(room), content_type=JSON).status_code in (200, 202)


@pytest.mark.parametrize("route", ROUTES)
def test_a_long_list_of_wrong_items_costs_no_more_than_its_first(api: Api, paths: dict[str, str], route: str) -> None:
    (name,) = BODIES[route]

    answer = api.client.post(paths[route], data=json.dumps({name: [1] * 1_000_000}), content_type=JSON)

    assert len(assert_problem(answer, 422)["detail"]) < 2000


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "multipart/form-data; boundary=x"}, 415),
        ({"Content-Type": "application/json; charset=utf-16"}, 415),
        ({"Content-Type": "application/json; charset=utf-7"}, 415),
        ({"Content-Type": "/"}, 415),
        ({"Content-Type": "\xff;;;="}, 415),
        ({"Content-Type": JSON, "Content-Encoding": "gzip"}, 415),
        ({"Content-Type": JSON, "X-LlamaStack-Provider-Data": "{}"}, 400),
    ],
)
def test_headers_that_change_what_a_body_means_are_refused(
    api: Api, paths: dict[str, str], route: str, headers: dict[str, str], status: int
) -> None:
    answer = api.client.post(paths[route], data=json.dumps(BODIES[route]), headers=headers)

    assert_problem(answer, status)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "application/json; charset=UTF-8"},
        {"Content-Type": "application/merge-patch+json"},
        {"Content-Type": JSON, "Accept": "image/png;q=x, \xff"},
        {"Content-Type": JSON, "Prefer": "wait=abc, wait=-1, ;;=,"},
        {"Content-Type": JSON, "X-Stainless-Retry-Count": "\xb2"},
        {"Content-Type": JSON, "X-Request-Id": "\xff"},
    ],
)
def test_headers_that_say_nothing_usable_are_ignored(
    api: Api, paths: dict[str, str], route: str, headers: dict[str, str]
) -> None:
    answer = api.client.post(paths[route], data=json.dumps(BODIES[route]), headers=headers)

    assert answer.status_code in (200, 202), answer.text


@pytest.mark.parametrize("path", ["/v1/agents/a%00b", "/v1/agents?limit=1%00", "/v1/nothing%00", "/v1/models/a%00"])
def test_a_nul_in_the_url_is_refused(api: Api, path: str) -> None:
    assert_problem(api.client.get(path), 400, "nul_character")


@pytest.mark.parametrize(
    "path",
    ["/v1", "/v1/", "/v1/agents/", "/v1//agents", "/v1/agents/a/b", "/v1/agents/%FF/session", "/v1/agents/../.."],
)
def test_a_path_that_is_no_route_is_a_problem(api: Api, path: str) -> None:
    assert_problem(api.client.get(path), 404 if "session" not in path else 405)


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "TRACE"])
def test_a_method_that_a_route_does_not_know_is_a_problem_that_names_those_it_knows(api: Api, method: str) -> None:
    answer = api.client.open("/v1/agents", method=method)

    assert_problem(answer, 405)
    assert {"GET", "POST"} <= set(answer.headers["Allow"].split(", "))


def test_an_error_that_nobody_expected_tells_the_log_and_not_the_client(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret")

    api.services.lookup.agent = broken  # type: ignore[method-assign,assignment]

    answer = api.client.get("/v1/agents/x", headers={"X-Request-Id": "id-1"})

    assert "secret" not in assert_problem(answer, 500, "internal_error")["detail"]
    assert "secret" in caplog.text
    assert answer.headers["X-Request-Id"] == "id-1"


def test_a_store_that_cannot_be_reached_is_a_503_that_may_be_tried_again(key_prefix: str) -> None:
    api = Api.on("redis://127.0.0.1:1/0", key_prefix, registry=None)

    for answer in (api.client.get("/v1/agents"), api.post("/v1/agents", BODIES["agents"])):
        assert_problem(answer, 503, "store_unavailable")
        assert answer.headers["Retry-After"] == "1"
    health = api.client.get("/v1/health")
    assert (health.status_code, health.json["status"]) == (503, "Error")
    assert api.client.get("/v1/health/live").status_code == 200
