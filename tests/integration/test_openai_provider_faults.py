"""Each fault of a server, and the words that its user gets to read."""

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fake_upstream import Failure, FakeUpstream, Raw, Reply, Stream, chunk, chunks, event, text

from shared.errors import ProviderError
from worker.providers import wire
from worker.providers.inference import ChatRequest, Delta, TextDelta
from worker.providers.openai import OpenAIInference
from worker.providers.openai_config import OpenAIConfig

SECRET = "sk-fault-secret-value"
REQUEST = ChatRequest(model="m", messages=[{"role": "user", "content": "hi"}])
SECRET_ERROR = {"error": {"message": f"key {SECRET} of Bearer {SECRET}"}}


@pytest.fixture
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream() as server:
        yield server


def provider(url: str, **config: Any) -> OpenAIInference:
    options = OpenAIConfig.model_validate({"url": url, "api_key": SECRET, "max_retries": 0, **config})
    return OpenAIInference(provider_id="big", config=options)


def fault(one: OpenAIInference, act: Callable[[OpenAIInference], object] | None = None) -> ProviderError:
    """What is raised; no form of it holds the secret."""
    with pytest.raises(ProviderError) as caught:
        act(one) if act else list(one.chat(REQUEST))
    one.close()
    error = caught.value
    assert SECRET not in f"{error!r} {error.as_json()} {error.__cause__!r}"
    assert error.provider_id == "big"
    return error


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def test_a_server_that_is_not_running() -> None:
    port = closed_port()
    error = fault(provider(f"http://127.0.0.1:{port}/v1"))
    assert (error.code, error.retryable) == ("provider_unreachable", True)
    assert error.message == (
        f"Provider 'big' cannot be reached: connection refused. Is the server running at 127.0.0.1:{port}?"
    )


def test_a_server_that_does_not_accept_in_time() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        # The backlog of a listener that never accepts is full after these.
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        error = fault(provider(f"http://127.0.0.1:{port}/v1", connect_timeout_s=0.2))
        for filler in fillers:
            filler.close()
    assert error.code == "provider_unreachable"
    assert f"no connection to 127.0.0.1:{port} in time. Check `url` and the network." in error.message


def test_https_to_a_server_that_speaks_http(upstream: FakeUpstream) -> None:
    error = fault(provider(upstream.url.replace("http:", "https:")))
    assert error.code == "provider_unreachable"
    assert "TLS failed" in error.message
    assert "Check `url` (http or https) and `tls_verify`." in error.message


@pytest.mark.parametrize(
    ("reply", "code", "status", "words"),
    [
        (
            Failure(status=401, body=SECRET_ERROR),
            "provider_auth",
            401,
            "does not accept the credentials (401): check `api_key` of provider 'big'. It said: key ***",
        ),
        (
            Failure(status=429, headers={"retry-after": "7"}),
            "provider_rate_limited",
            429,
            "limits its rate (429): lower the load, or try again later.",
        ),
        (
            Failure(status=404, body={"error": {"message": "The model `m` does not exist"}}),
            "model_not_found",
            404,
            "does not know the model 'm' (404): GET /v1/models lists what is served.",
        ),
        (
            Failure(status=404, body="<h1>Not Found</h1>", content_type="text/html"),
            "provider_bad_request",
            404,
            "has no such route (404): check that `url` ends where its routes begin, mostly /v1.",
        ),
        (
            Failure(status=500, body=SECRET_ERROR),
            "provider_error",
            500,
            "failed (500): look into the log of the server at 127.0.0.1:",
        ),
        (
            Failure(status=200, body="<html><body>Welcome!</body></html>", content_type="text/html"),
            "provider_bad_response",
            None,
            "answered with text/html instead of an event stream: is the server at 127.0.0.1:",
        ),
        (
            Failure(status=200, body={"choices": []}),
            "provider_bad_response",
            None,
            "answered with application/json instead of an event stream",
        ),
        (
            Failure(status=200, body={"error": {"message": "worker died", "code": 500}}),
            "provider_error",
            500,
            "broke off its answer with an error. It said: worker died",
        ),
        (
            Stream(pieces=[b"lorem ipsum\n" * 50]),
            "provider_bad_response",
            None,
            "answered with a stream without a single event",
        ),
        (
            Stream(pieces=[event(f"lorem {SECRET}")]),
            "provider_bad_response",
            None,
            "answered with an event that is no chat completion chunk",
        ),
        (
            Raw(data=b"220 mail.example ESMTP\r\n"),
            "provider_bad_response",
            None,
            "answered with something that is not HTTP",
        ),
        (
            Raw(data=b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nlorem\r\nipsum"),
            "provider_bad_response",
            None,
            "answered with something that is not HTTP",
        ),
        (Raw(), "provider_interrupted", None, "cut the connection in the middle of its answer"),
    ],
)
def test_an_answer_that_is_none(
    upstream: FakeUpstream, reply: Reply, code: str, status: int | None, words: str
) -> None:
    upstream.script(reply)
    error = fault(provider(upstream.url))
    assert (error.code, error.status) == (code, status)
    assert error.message.startswith(f"Provider 'big' {words}")


def test_a_rate_limit_keeps_the_wish_to_wait(upstream: FakeUpstream) -> None:
    upstream.script(Failure(status=429, headers={"retry-after": "7"}))
    assert fault(provider(upstream.url)).retry_after == 7


@pytest.mark.parametrize(
    "reply",
    [
        text("Hel", end="cut"),
        # In the middle of a token: half an event, and nothing more.
        chunks(chunk({"content": "Hel"}), b'data: {"choices": [{"delta": {"cont', end="cut"),
    ],
)
def test_a_connection_cut_in_mid_answer(upstream: FakeUpstream, reply: Reply) -> None:
    upstream.script(reply)
    seen: list[Delta] = []
    error = fault(provider(upstream.url), lambda one: seen.extend(one.chat(REQUEST)))
    assert (error.code, error.retryable) == ("provider_interrupted", True)
    assert error.message == (
        "Provider 'big' cut the connection in the middle of its answer: look into the log of the server at "
        f"127.0.0.1:{upstream.port}."
    )


def test_an_answer_given_up_with_a_proper_last_word_is_no_answer(upstream: FakeUpstream) -> None:
    # As llama-cpp-python does when another request comes: [DONE] without a finish reason, then the connection is cut.
    upstream.script(Stream(pieces=[chunk({"content": "Once"}), event("[DONE]")], end="cut"))
    one = provider(upstream.url, max_retries=0)

    assert fault(one).code == "provider_interrupted"


@pytest.fixture(params=["timer", "watch"])
def clock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ends a wait: a timer of its own, as for short ones, or the watch over all connections."""
    if request.param == "watch":
        monkeypatch.setattr(wire, "_TIMER_S", 0.0)
        monkeypatch.setattr(wire, "_WATCH_S", 0.05)
        monkeypatch.setattr(wire, "_watch", wire._Watch())


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("reply", [Stream(pieces=[], hang_before_head=True), chunks(end="hang")])
def test_a_first_token_that_does_not_come(upstream: FakeUpstream, reply: Reply) -> None:
    upstream.script(reply)
    error = fault(provider(upstream.url, first_token_timeout_s=0.2, max_retries=3))
    assert (error.code, error.retryable) == ("provider_timeout", True)
    assert error.message == ("Provider 'big' sent no first token within 0.2 s (`first_token_timeout_s`).")
    assert len(upstream.requests) == 1
    upstream.wait_for(lambda: upstream.hangups == 1)


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("chunked", [True, False])
def test_a_silence_between_tokens(upstream: FakeUpstream, chunked: bool) -> None:
    upstream.script(text("Hel", end="hang", chunked=chunked))
    deltas = provider(upstream.url, token_timeout_s=0.2).chat(REQUEST)
    assert next(deltas) == TextDelta("Hel")
    with pytest.raises(ProviderError) as caught:
        next(deltas)
    assert caught.value.code == "provider_timeout"
    assert caught.value.message == (
        "Provider 'big' sent nothing for 0.2 s in the middle of its answer (`token_timeout_s`)."
    )
    upstream.wait_for(lambda: upstream.hangups == 1)


@pytest.mark.parametrize(
    ("reply", "code", "words"),
    [
        (Failure(status=401), "provider_auth", "check `api_key`"),
        (Failure(status=200, body="hello"), "provider_bad_response", "something that is not JSON"),
        (Failure(status=200, body={"models": []}), "provider_bad_response", "else than a list of models"),
        (Failure(status=200, body={"data": [{"name": 1}]}), "provider_bad_response", "else than a list"),
    ],
)
def test_a_list_of_models_that_is_none(upstream: FakeUpstream, reply: Failure, code: str, words: str) -> None:
    upstream.models_reply = reply
    error = fault(provider(upstream.url), lambda one: one.list_models())
    assert error.code == code
    assert words in error.message
