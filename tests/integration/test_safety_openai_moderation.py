"""`remote::openai-moderation` on real sockets: what it asks, how it reads the answer, and what its user is told."""

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from fake_moderation import FakeModeration, moderation, result
from fake_upstream import Failure, Raw, Reply

from shared.errors import ProviderError
from worker.providers.safety import Json, Shield, Violation
from worker.providers.safety_base import STANDARD_MESSAGE
from worker.providers.safety_openai_moderation import ModerationConfig, ModerationSafety

SECRET = "sk-moderation-secret"
CONTENT = "what the user said"
SHIELD = Shield(identifier="s", resource_id="omni-moderation-latest")
IMAGE = {"type": "image", "image": {"url": {"uri": "https://example.test/attack.png"}}}


@pytest.fixture
def upstream() -> Iterator[FakeModeration]:
    with FakeModeration() as server:
        yield server


@pytest.fixture
def slept() -> list[float]:
    """How long the provider waited between attempts."""
    return []


@pytest.fixture
def provider(upstream: FakeModeration, slept: list[float]) -> Iterator[ModerationSafety]:
    one = made(upstream.url, slept)
    yield one
    one.close()


def made(url: str, slept: list[float], **fields: Any) -> ModerationSafety:
    config = ModerationConfig.model_validate({"url": url, "api_key": SECRET, **fields})
    return ModerationSafety(provider_id="mod", config=config, sleep=slept.append)


def user(content: Any) -> list[Json]:
    return [{"role": "user", "content": content}]


def fault(provider: ModerationSafety) -> ProviderError:
    """What is raised; no form of it holds the secret, or what was looked at."""
    with pytest.raises(ProviderError) as caught:
        provider.run_shield(SHIELD, user(CONTENT))
    error = caught.value
    shown = f"{error!r} {error.as_json()} {error.__cause__!r}"
    assert SECRET not in shown
    assert CONTENT not in shown
    assert error.provider_id == "mod"
    return error


def test_all_texts_are_asked_about_at_once(upstream: FakeModeration, provider: ModerationSafety) -> None:
    messages = [*user("a"), {"role": "assistant", "content": "b"}, *user("")]
    assert provider.run_shield(SHIELD, messages) is None
    (request,) = upstream.requests
    assert request.path == "/v1/moderations"
    assert request.headers["authorization"] == f"Bearer {SECRET}"
    assert request.json == {"model": "omni-moderation-latest", "input": ["a", "b"]}


def test_each_image_is_asked_about_by_itself(upstream: FakeModeration, provider: ModerationSafety) -> None:
    violation = provider.run_shield(SHIELD, user(["look", IMAGE, {"type": "image", "image": {"data": "iVBORw0K"}}]))
    assert violation is not None
    assert [request.json["input"] for request in upstream.requests] == [
        ["look"],
        [{"type": "image_url", "image_url": {"url": "https://example.test/attack.png"}}],
        [{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0K"}}],
    ]


def test_what_was_flagged_is_named_once(upstream: FakeModeration, provider: ModerationSafety) -> None:
    upstream.expect(
        moderation(
            result(**{"violence": True, "self-harm/intent": True, "hate": False}), result(violence=True, illicit=True)
        )
    )
    named = ["violence", "self-harm/intent", "illicit"]
    assert provider.run_shield(SHIELD, [*user("a"), *user("b")]) == Violation(
        user_message=STANDARD_MESSAGE, metadata={"violation_type": ",".join(named), "categories": named}
    )


def test_flagged_without_categories_is_still_an_objection(upstream: FakeModeration, provider: ModerationSafety) -> None:
    upstream.expect(moderation({"flagged": True}))
    violation = provider.run_shield(SHIELD, user("a"))
    assert violation is not None
    assert violation.metadata == {"violation_type": "", "categories": []}


def test_headers_of_the_config_are_sent(upstream: FakeModeration, slept: list[float]) -> None:
    one = made(upstream.url, slept, api_key=None, headers={"X-Key": SECRET}, shields=[{"shield_id": "s"}])
    assert one.run_shield(one.list_shields()[0], user("a")) is None
    one.close()
    assert upstream.requests[0].headers["x-key"] == SECRET
    assert "authorization" not in upstream.requests[0].headers


def echo(status: int, **headers: str) -> Failure:
    """A refusal that quotes the key and all that it was sent, as servers built on pydantic do."""
    body = {"error": {"message": f"{SECRET} in {CONTENT}", "type": "bad_input", "code": "no_good", "input": CONTENT}}
    return Failure(status=status, body=body, headers=headers)


@pytest.mark.parametrize(
    ("reply", "code", "retryable", "says"),
    [
        (echo(400), "provider_bad_request", False, "refuses the request (400). It said: no_good, bad_input"),
        (echo(401), "provider_auth", False, "does not accept the credentials (401): check `api_key` of provider 'mod'"),
        (echo(403), "provider_auth", False, "does not allow this request (403)"),
        (echo(404), "provider_bad_request", False, "has no such route (404): check that `url` ends where"),
        (echo(422), "provider_bad_request", False, "refuses the request (422)"),
        (Failure(status=422, body={"detail": CONTENT}), "provider_bad_request", False, "refuses the request (422)."),
        (Failure(status=400, body=CONTENT), "provider_bad_request", False, "refuses the request (400)."),
        (
            Failure(status=404, body={"error": {"code": "model_not_found", "type": "x"}}),
            "model_not_found",
            False,
            "does not know the model 'omni-moderation-latest' (404)",
        ),
        (
            Failure(status=429, body={"error": {"code": "insufficient_quota", "message": CONTENT}}),
            "provider_rate_limited",
            False,
            "its quota is used up",
        ),
        (Failure(status=302, headers={"location": "/"}), "provider_bad_request", False, "redirects (302): set `url`"),
        (Failure(status=200, body=CONTENT), "provider_bad_response", False, "something else than moderation results"),
        (Failure(status=200, body={"results": CONTENT}), "provider_bad_response", False, "than moderation results"),
        (Failure(status=200, body={"results": [[]]}), "provider_bad_response", False, "than moderation results"),
        (moderation(), "provider_bad_response", False, "other results than one for each input"),
        (moderation({"flagged": "no"}), "provider_bad_response", False, "other results than one for each input"),
    ],
)
def test_each_fault_says_what_to_do_and_quotes_nobody(
    upstream: FakeModeration, provider: ModerationSafety, reply: Reply, code: str, retryable: bool, says: str
) -> None:
    upstream.expect(reply)
    error = fault(provider)
    assert (error.code, error.retryable) == (code, retryable)
    assert says in error.message
    assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    ("replies", "waits"),
    [
        ([Failure(status=503)], [pytest.approx(0.375, abs=0.126)]),
        ([Failure(status=429, headers={"retry-after": "2"}), Raw()], [2.0, pytest.approx(0.75, abs=0.251)]),
    ],
)
def test_a_passing_fault_is_tried_again(
    upstream: FakeModeration, provider: ModerationSafety, slept: list[float], replies: list[Reply], waits: list[float]
) -> None:
    upstream.expect(*replies)
    assert provider.run_shield(SHIELD, user("hello")) is None
    assert slept == waits
    assert len(upstream.requests) == len(replies) + 1


def test_a_lasting_fault_is_told_after_the_last_attempt(
    upstream: FakeModeration, provider: ModerationSafety, slept: list[float]
) -> None:
    upstream.expect(*[echo(500)] * 3)
    error = fault(provider)
    assert (error.code, error.status, error.retryable) == ("provider_error", 500, True)
    assert len(upstream.requests) == 3
    assert len(slept) == 2


def test_nothing_is_waited_for_that_the_time_does_not_allow(
    upstream: FakeModeration, provider: ModerationSafety, slept: list[float]
) -> None:
    upstream.expect(echo(429, **{"retry-after": "11"}))
    error = fault(provider)
    assert (error.code, error.retry_after) == ("provider_rate_limited", 11)
    assert slept == []


def test_a_server_that_is_not_running(slept: list[float]) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    error = fault(made(f"http://127.0.0.1:{port}/v1", slept))
    assert error.code == "provider_unreachable"
    assert f"Is the server running at 127.0.0.1:{port}?" in error.message


def test_something_that_is_not_http(upstream: FakeModeration, provider: ModerationSafety) -> None:
    upstream.expect(Raw(data=b"SSH-2.0-OpenSSH\r\n\r\n"))
    error = fault(provider)
    assert error.code == "provider_bad_response"
    assert "something that is not HTTP" in error.message


def test_registering_asks_the_server_and_hands_on_its_reason(
    upstream: FakeModeration, provider: ModerationSafety
) -> None:
    mine = Shield(identifier="mine", resource_id="omni-moderation-2024-09-26")
    assert provider.register_shield(mine) == mine
    assert upstream.requests[0].json == {"model": "omni-moderation-2024-09-26", "input": ["Hello"]}

    reason = f"Invalid value: 'x'. Supported models are a and b. ({SECRET})"
    upstream.expect(Failure(status=400, body={"error": {"message": reason, "code": None}}))
    with pytest.raises(ProviderError) as caught:
        provider.register_shield(Shield(identifier="x", resource_id="x"))
    assert "It said: Invalid value: 'x'. Supported models are a and b. (***)" in caught.value.message
