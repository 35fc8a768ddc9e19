"""The OpenAI adapter against a server on a real socket: what it sends, how it streams, retries and lets go."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fake_upstream import Failure, FakeUpstream, Raw, Reply, call_piece, calls, chunk, chunks, event, text

from shared.errors import ProviderError
from worker.providers.inference import ChatRequest, Delta, Finished, Model, StopReason, TextDelta, ToolCallDone
from worker.providers.openai import OpenAIInference
from worker.providers.openai_config import OpenAIConfig

SECRET = "sk-integration-secret"
HELLO = [TextDelta("Hello"), TextDelta(" world")]

Make = Callable[..., OpenAIInference]


@pytest.fixture
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream() as server:
        yield server


@pytest.fixture
def waits() -> list[float]:
    """The pauses before retries, which take no time here."""
    return []


@pytest.fixture
def make(upstream: FakeUpstream, waits: list[float]) -> Iterator[Make]:
    made: list[OpenAIInference] = []

    def provider(**config: Any) -> OpenAIInference:
        options = OpenAIConfig.model_validate({"url": upstream.url, "api_key": SECRET, **config})
        made.append(OpenAIInference(provider_id="big", config=options, sleep=waits.append))
        return made[-1]

    yield provider
    for one in made:
        one.close()


REQUEST = ChatRequest(model="m", messages=[{"role": "user", "content": "hi"}])


def ask(provider: OpenAIInference) -> list[Delta]:
    return list(provider.chat(REQUEST))


def words(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))


def test_a_request_carries_the_key_the_headers_and_no_wish_for_compression(upstream: FakeUpstream, make: Make) -> None:
    ask(make(headers={"X-Team": "blue"}))
    request = upstream.requests[0]
    assert (request.method, request.path) == ("POST", "/v1/chat/completions")
    assert request.headers["authorization"] == f"Bearer {SECRET}"
    assert (request.headers["x-team"], request.headers["accept-encoding"]) == ("blue", "identity")
    assert request.json["messages"] == [{"role": "user", "content": "hi"}]


def test_a_header_of_the_config_replaces_ours(upstream: FakeUpstream, make: Make) -> None:
    ask(make(headers={"Authorization": "Basic abc"}))
    assert upstream.requests[0].headers["authorization"] == "Basic abc"


def test_without_a_key_none_is_sent(upstream: FakeUpstream, make: Make) -> None:
    ask(make(api_key=None))
    assert "authorization" not in upstream.requests[0].headers


def test_replies_share_a_connection(upstream: FakeUpstream, make: Make) -> None:
    provider = make()
    for _ in range(3):
        assert ask(provider)[:2] == HELLO
        provider.list_models()
    assert (upstream.connections, len(upstream.requests)) == (1, 6)


def test_each_token_is_there_before_the_next_is_sent(upstream: FakeUpstream, make: Make) -> None:
    upstream.script(chunks(chunk({"content": "first"}), end="hang"))
    deltas = make().chat(REQUEST)
    assert next(deltas) == TextDelta("first")
    deltas.close()  # type: ignore[attr-defined]
    upstream.wait_for(lambda: upstream.hangups == 1)


def test_closing_the_iterator_drops_the_connection_at_once(upstream: FakeUpstream, make: Make) -> None:
    upstream.script(text(*["w"] * 1_000, between_s=0.05))
    deltas = make().chat(REQUEST)
    next(deltas)
    deltas.close()  # type: ignore[attr-defined]
    upstream.wait_for(lambda: upstream.hangups == 1)


@pytest.mark.parametrize("options", [{"end": "close"}, {"end": "no_done"}, {"chunked": False}])
def test_other_ways_to_end_a_stream_are_understood(upstream: FakeUpstream, make: Make, options: dict[str, Any]) -> None:
    upstream.script(text("Hello", " world", **options))
    deltas = ask(make())
    assert deltas[:2] == HELLO
    assert isinstance(deltas[-1], Finished)


def test_a_reply_that_is_complete_survives_the_loss_of_what_follows(upstream: FakeUpstream, make: Make) -> None:
    upstream.script(chunks(chunk({"content": "all"}), chunk({}, finish_reason="stop"), end="cut"))
    assert ask(make()) == [TextDelta("all"), Finished(stop_reason=StopReason.END_OF_TURN)]


def test_events_may_be_cut_and_joined_anywhere(upstream: FakeUpstream, make: Make) -> None:
    reply = text("Hello", " world")
    whole = b"".join(reply.pieces).replace(b"\n\n", b"\r\n\r\n")
    upstream.script(
        type(reply)(pieces=[b": welcome\n\n", *(whole[at : at + 7] for at in range(0, len(whole), 7))]),
        type(reply)(pieces=[whole]),
    )
    provider = make()
    assert words(ask(provider)) == words(ask(provider)) == "Hello world"


def test_parallel_calls_arrive_whole(upstream: FakeUpstream, make: Make) -> None:
    upstream.script(
        calls(
            call_piece(0, id="x", name="f", arguments=""),
            call_piece(1, id="y", name="g", arguments='{"b": '),
            call_piece(0, arguments='{"a": "ä"}'),
            call_piece(1, arguments="nonsense"),
        )
    )
    deltas = ask(make())
    done = [delta for delta in deltas if isinstance(delta, ToolCallDone)]
    assert [(call.call_id, call.arguments, call.parse_status) for call in done] == [
        ("x", {"a": "ä"}, "succeeded"),
        ("y", {}, "failed"),
    ]
    assert isinstance(deltas[-1], Finished)
    assert deltas[-1].stop_reason is StopReason.END_OF_MESSAGE


@pytest.mark.parametrize(
    "fault",
    [
        Failure(status=500),
        Failure(status=503),
        Failure(status=408),
        Failure(status=409),
        Failure(status=429),
        Raw(),
        chunks(end="cut"),
        chunks(event({"error": {"message": "busy", "code": 503}})),
    ],
)
def test_faults_before_the_first_token_are_retried(
    upstream: FakeUpstream, make: Make, waits: list[float], fault: Reply
) -> None:
    upstream.script(fault, fault)
    assert ask(make())[:2] == HELLO
    assert len(upstream.requests) == 3
    assert 0.25 <= waits[0] <= 0.5 <= waits[1] <= 1.0


@pytest.mark.parametrize(
    "fault", [Failure(status=400), Failure(status=401), Failure(status=404), Raw(data=b"SSH-2.0-x\r\n")]
)
def test_faults_that_would_stay_are_not_retried(upstream: FakeUpstream, make: Make, fault: Reply) -> None:
    upstream.script(fault)
    with pytest.raises(ProviderError) as caught:
        ask(make())
    assert not caught.value.retryable
    assert len(upstream.requests) == 1


def test_retries_end(upstream: FakeUpstream, make: Make, waits: list[float]) -> None:
    upstream.default = Failure(status=500)
    with pytest.raises(ProviderError) as caught:
        ask(make(max_retries=2))
    assert (caught.value.status, caught.value.retryable) == (500, True)
    assert (len(upstream.requests), len(waits)) == (3, 2)


@pytest.mark.parametrize(("wish", "wait"), [("2", 2.0), ("3600", 60.0)])
def test_retry_after_is_honoured_and_bounded(
    upstream: FakeUpstream, make: Make, waits: list[float], wish: str, wait: float
) -> None:
    upstream.script(Failure(status=429, headers={"retry-after": wish}))
    ask(make())
    assert waits == [wait]


def test_after_the_first_token_nothing_is_retried(upstream: FakeUpstream, make: Make) -> None:
    upstream.script(text("Hel", end="cut"))
    seen: list[Delta] = []
    with pytest.raises(ProviderError) as caught:
        seen.extend(make().chat(REQUEST))
    assert caught.value.code == "provider_interrupted"
    assert len(upstream.requests) == 1


def test_a_server_that_refuses_stream_options_is_asked_without_from_then_on(
    upstream: FakeUpstream, make: Make, waits: list[float]
) -> None:
    upstream.script(Failure(status=400, body={"error": {"message": "Unknown field: stream_options"}}))
    provider = make(max_retries=0)
    assert ask(provider)[:2] == ask(provider)[:2] == HELLO
    assert ["stream_options" in request.json for request in upstream.requests] == [True, False, False]
    assert waits == []


def test_a_connection_that_the_server_has_closed_meanwhile_is_replaced(upstream: FakeUpstream, make: Make) -> None:
    provider = make(max_retries=1)
    ask(provider)
    upstream.script(Raw())
    assert ask(provider)[:2] == HELLO
    assert upstream.connections == 2


def test_an_interim_response_is_passed_over(upstream: FakeUpstream, make: Make) -> None:
    body = b"".join(text("Hello", " world").pieces)
    upstream.script(
        Raw(
            data=b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
            b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        )
    )
    assert ask(make())[:2] == HELLO


def test_many_replies_at_once_do_not_mix(upstream: FakeUpstream, make: Make) -> None:
    upstream.default = lambda request: text(*[request.json["messages"][0]["content"]] * 50)
    provider = make()
    found: dict[int, str] = {}

    def one(number: int) -> None:
        messages = [{"role": "user", "content": f"<{number}>"}]
        found[number] = words(list(provider.chat(ChatRequest(model="m", messages=messages))))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: f"<{number}>" * 50 for number in range(20)}


def test_models_are_listed_with_their_type(upstream: FakeUpstream, make: Make) -> None:
    upstream.models = [{"id": "chat"}, {"id": "nomic-embed"}, {"id": "e5", "type": "embedding"}]
    assert make().list_models() == [
        Model(identifier="chat", resource_id="chat"),
        Model(identifier="nomic-embed", resource_id="nomic-embed", model_type="embedding"),
        Model(identifier="e5", resource_id="e5", model_type="embedding"),
    ]


def test_the_list_in_a_refused_registration_is_bounded(upstream: FakeUpstream, make: Make) -> None:
    upstream.models = [{"id": f"m{number}"} for number in range(100)]
    with pytest.raises(ProviderError, match=r"It serves: m0, m1, .*, m19 and 80 more\.$"):
        make().register_model(Model(identifier="x", resource_id="x"))
