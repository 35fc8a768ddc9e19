"""The command line's HTTP client: whom it reaches, what it sends, and which words its errors have."""

import httpx
import pytest

from shared.cli.client import ApiClient
from shared.errors import ApiRefused, ApiUnreachable, ConfigError
from shared.settings import ClientSettings

SETTINGS = ClientSettings(url="http://api:8321")


Answer = httpx.Response | Exception


def client(answer: Answer | list[Answer]) -> tuple[ApiClient, list[httpx.Request]]:
    """A client whose requests, which are noted, get these answers; the last one again and again."""
    answers, requests = answer if isinstance(answer, list) else [answer], []

    def respond(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        found = answers[min(len(requests), len(answers)) - 1]
        if isinstance(found, Exception):
            raise found
        return found

    return ApiClient(settings=SETTINGS, http=httpx.Client(transport=httpx.MockTransport(respond))), requests


def problem(status: int, detail: str, **error: str) -> httpx.Response:
    return httpx.Response(status, json={"title": "x", "status": status, "detail": detail, "error": error})


def test_paths_lie_below_v1_and_parameters_without_a_value_are_left_out() -> None:
    api, requests = client(httpx.Response(200, json={"data": []}))

    api.get("/agents", start_index=0, limit=None)

    assert str(requests[0].url) == "http://api:8321/v1/agents?start_index=0"
    assert "Authorization" not in requests[0].headers


def test_the_key_is_sent_as_bearer_token_and_stands_in_no_repr() -> None:
    settings = ClientSettings.from_env({"TURNSTONE_API_KEY": "sesame"})
    requests: list[httpx.Request] = []

    def respond(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(200, json={})

    ApiClient(settings=settings, http=httpx.Client(transport=httpx.MockTransport(respond))).get("/models")

    assert requests[0].headers["Authorization"] == "Bearer sesame"
    assert "sesame" not in repr(settings)


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (problem(404, "There is no agent 'x'. GET /v1/agents lists what exists."), "Or: turnstone agents$"),
        (
            problem(404, "There is no session 's'. GET /v1/agents/a1/sessions lists what exists."),
            "Or: turnstone sessions a1$",
        ),
        (
            problem(404, "There is no turn 't'. GET /v1/agents/a1/session/s1 lists what exists."),
            "Or: turnstone turns a1 s1$",
        ),
        (
            problem(404, "There is no turn 't'. GET /v1/agents/{agent_id}/session/{session_id} lists what exists."),
            "lists what exists.$",
        ),
        (problem(401, "No key."), "^No key. Set TURNSTONE_API_KEY to one of the server's api_keys.$"),
        (
            problem(400, "No provider\nserves it.", param="agent_config.model"),
            "^agent_config.model: No provider serves",
        ),
        (
            httpx.Response(500, json={"detail": "Its log has it."}, headers={"X-Request-Id": "r1"}),
            r"^Its log has it. \(X-Request-Id: r1\)$",
        ),
        (httpx.Response(404, text="<html>"), "answers 404 Not Found, but not as Turnstone does"),
        (httpx.Response(200, text="<html>"), "answers 200 OK, but not as Turnstone does"),
        (httpx.Response(302, headers={"Location": "/login"}), "answers 302 Found, but not as Turnstone does"),
    ],
)
def test_a_refusal_is_one_line_with_what_to_do(reply: httpx.Response, words: str) -> None:
    api, _ = client(reply)

    with pytest.raises(ApiRefused, match=words) as caught:
        api.get("/agents")

    assert "\n" not in caught.value.message
    assert caught.value.status == reply.status_code


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            httpx.ConnectError("[Errno 111] Connection refused"),
            "Cannot reach http://api:8321: connection refused.",
        ),
        (httpx.ReadTimeout("timed out"), "does not answer in time"),
        (httpx.ReadError("reset"), "The connection to http://api:8321 broke: reset."),
        (problem(503, "The store cannot be reached."), "^The store cannot be reached.$"),
        (httpx.Response(502, text="Bad Gateway"), "answers 502 Bad Gateway, but not as Turnstone does"),
    ],
)
def test_an_api_that_is_away_or_not_ready_is_unreachable(answer: Answer, words: str) -> None:
    api, _ = client(answer)

    with pytest.raises(ApiUnreachable, match=words):
        api.get("/agents")


def test_a_post_with_a_key_is_repeated_with_that_key_where_the_connection_broke(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shared.cli.client.RETRY_S", 0)
    api, requests = client([httpx.ReadError("reset"), httpx.Response(200, json={"turn_id": "t"})])

    assert api.post("/turn", {"a": 1}, key="k") == {"turn_id": "t"}

    assert [request.headers["Idempotency-Key"] for request in requests] == ["k", "k"]


def test_a_post_without_a_key_is_sent_once() -> None:
    api, requests = client(httpx.ReadError("reset"))

    with pytest.raises(ApiUnreachable):
        api.post("/cancel")

    assert len(requests) == 1


def test_a_password_in_the_address_is_not_shown() -> None:
    settings = ClientSettings(url="http://user:sesame@api:8321")

    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(ApiUnreachable) as caught:
        ApiClient(settings=settings, http=httpx.Client(transport=httpx.MockTransport(refuse))).get("/models")

    assert "sesame" not in caught.value.message


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({}, "http://127.0.0.1:8321"),
        ({"TURNSTONE_PORT": "8400"}, "http://127.0.0.1:8400"),
        ({"TURNSTONE_URL": "https://host/base/"}, "https://host/base"),
        ({"TURNSTONE_URL": "http://host:1/v1/"}, "http://host:1"),
    ],
)
def test_the_address_comes_from_the_environment_and_may_end_in_v1(environ: dict[str, str], url: str) -> None:
    assert ClientSettings.from_env(environ).url == url


@pytest.mark.parametrize("url", ["host", "host:8321", "ftp://host", "http://", "http://host:port", "user:sesame@host"])
def test_what_is_no_address_is_refused_with_the_form_of_one(url: str) -> None:
    with pytest.raises(ConfigError, match="--url or TURNSTONE_URL as http://host:port") as caught:
        ClientSettings.from_env({"TURNSTONE_URL": url})

    assert "sesame" not in caught.value.message


def test_a_key_that_no_header_can_carry_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigError, match="TURNSTONE_API_KEY has characters") as caught:
        ClientSettings.from_env({"TURNSTONE_API_KEY": "sesame\u2026"})

    assert "sesame" not in caught.value.message


@pytest.mark.parametrize(("environ", "plain"), [({}, False), ({"NO_COLOR": "1"}, True), ({"TERM": "dumb"}, True)])
def test_a_terminal_that_wants_no_colours_gets_none(environ: dict[str, str], plain: bool) -> None:
    assert ClientSettings.from_env(environ).plain is plain
