"""`remote::openai` on a real socket: completions and embeddings, and what goes wrong with them."""

from collections.abc import Iterator

import pytest
from fake_upstream import Failure, FakeUpstream, completion, event

from shared.errors import ProviderError
from worker.providers.inference import CompletionRequest, EmbeddingRequest, Finished, StopReason, TextDelta
from worker.providers.openai import OpenAIInference
from worker.providers.openai_config import OpenAIConfig


@pytest.fixture
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream() as upstream:
        yield upstream


@pytest.fixture
def provider(upstream: FakeUpstream) -> Iterator[OpenAIInference]:
    config = OpenAIConfig.model_validate({"url": upstream.url, "api_key": "sk-secret-1", "max_retries": 1})
    provider = OpenAIInference(provider_id="big", config=config, sleep=lambda _: None)
    yield provider
    provider.close()


def test_a_completion_streams_the_text_and_ends_with_reason_and_usage(
    provider: OpenAIInference, upstream: FakeUpstream
) -> None:
    request = CompletionRequest(
        model="m", content=[{"type": "text", "text": "Once"}], sampling_params={"max_tokens": 5, "stop": ["."]}
    )

    *texts, finished = provider.complete(request)

    assert texts == [TextDelta(" and"), TextDelta(" so on")]
    assert isinstance(finished, Finished)
    assert finished.stop_reason is StopReason.OUT_OF_TOKENS
    assert finished.usage == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    asked = upstream.requests[-1]
    assert asked.path == "/v1/completions"
    assert (asked.json["prompt"], asked.json["max_tokens"], asked.json["stop"]) == ("Once", 5, ["."])


def test_the_newer_name_of_max_tokens_is_one_of_chats_alone(upstream: FakeUpstream) -> None:
    config = OpenAIConfig(url=upstream.url, max_tokens_field="max_completion_tokens")
    provider = OpenAIInference(provider_id="big", config=config)

    list(provider.complete(CompletionRequest(model="m", content="Once", sampling_params={"max_tokens": 5})))

    assert upstream.requests[-1].json["max_tokens"] == 5
    assert "max_completion_tokens" not in upstream.requests[-1].json
    provider.close()


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (Failure(status=404, body={"detail": "Not Found"}), "provider_bad_request"),
        (Failure(status=401, body={"error": {"message": "bad key sk-secret-1"}}), "provider_auth"),
        (completion(" and", end="cut"), "provider_interrupted"),
    ],
)
def test_what_goes_wrong_with_a_completion_is_said_as_with_a_chat(
    provider: OpenAIInference, upstream: FakeUpstream, reply: Failure, code: str
) -> None:
    upstream.completion = reply

    with pytest.raises(ProviderError) as fault:
        list(provider.complete(CompletionRequest(model="m", content="Once")))

    assert fault.value.code == code
    assert "sk-secret-1" not in fault.value.message


def test_a_text_with_an_image_is_not_gone_on_with(provider: OpenAIInference, upstream: FakeUpstream) -> None:
    image = [{"type": "image", "image": {"data": "iVBOR"}}]

    with pytest.raises(ProviderError) as fault:
        list(provider.complete(CompletionRequest(model="m", content=image)))

    assert fault.value.code == "unsupported_parameter"
    assert upstream.requests == []


def test_embeddings_come_in_the_order_of_the_texts(provider: OpenAIInference, upstream: FakeUpstream) -> None:
    assert provider.embed(EmbeddingRequest(model="m", texts=["a", "bbb", ""])) == [[1.0, 0.0], [3.0, 1.0], [0.0, 2.0]]
    assert upstream.requests[-1].json == {"model": "m", "input": ["a", "bbb", ""], "encoding_format": "float"}


@pytest.mark.parametrize(
    ("reply", "code", "asked"),
    [
        (Failure(status=500, body={"error": {"message": "out of memory"}}), "provider_error", 2),
        (Failure(status=429, body={"error": {"message": "slow down"}}), "provider_rate_limited", 2),
        (Failure(status=400, body={"error": {"message": "too long"}}), "provider_bad_request", 1),
        (Failure(status=401, body={"error": {"message": "bad key sk-secret-1"}}), "provider_auth", 1),
        (Failure(status=200, body=b"<html>"), "provider_bad_response", 1),
        (Failure(status=200, body={"data": []}), "provider_bad_response", 1),
        (Failure(status=200, body={"data": [{"index": 0, "embedding": "AAAA"}]}), "provider_bad_response", 1),
        (Failure(status=200, body={"data": [{"embedding": [1]}]}), "provider_bad_response", 1),
        (Failure(status=200, body=[]), "provider_bad_response", 1),
    ],
)
def test_what_goes_wrong_with_embeddings_says_which_provider_and_how(
    provider: OpenAIInference, upstream: FakeUpstream, reply: Failure, code: str, asked: int
) -> None:
    upstream.embedding = reply

    with pytest.raises(ProviderError) as fault:
        provider.embed(EmbeddingRequest(model="m", texts=["a"]))

    assert (fault.value.code, fault.value.provider_id) == (code, "big")
    assert "Provider 'big'" in fault.value.message and "sk-secret-1" not in fault.value.message
    assert len(upstream.requests) == asked


def test_events_that_are_no_completions_are_a_bad_response(provider: OpenAIInference, upstream: FakeUpstream) -> None:
    upstream.completion = completion(" and")
    upstream.completion = type(upstream.completion)(pieces=[event("no json")])

    with pytest.raises(ProviderError) as fault:
        list(provider.complete(CompletionRequest(model="m", content="Once")))

    assert fault.value.code == "provider_bad_response"
