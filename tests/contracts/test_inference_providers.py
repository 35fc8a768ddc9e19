"""What the turn loop may rely on from every inference provider."""

from collections.abc import Iterator

import pytest
from fake_upstream import Failure, FakeUpstream, Reply, Request, call_piece, calls, text

from shared.errors import ProviderError
from shared.runconfig import ProviderInstance, Providers, RunConfig
from worker.providers.inference import (
    ChatRequest,
    Delta,
    Finished,
    InferenceProvider,
    Json,
    Model,
    StopReason,
    TextDelta,
    ToolCallDelta,
    ToolCallDone,
)
from worker.providers.instances import build_inference

SECRET = "sk-contract-secret"
ANSWER = "The answer  is\n42."
RULES: list[Json] = [
    {"match": "text", "text": ANSWER},
    {"match": "calls", "tool_calls": [{"tool_name": "f", "arguments": {"a": 1}}, {"tool_name": "g"}]},
    {"match": "fail", "error": {"status": 503, "message": "no room"}},
    {"match": "crowd", "error": {"status": 429, "message": "slow down"}},
]
REPLIES: dict[str, Reply] = {
    "text": text("The", " answer ", " is\n", "42."),
    "calls": calls(
        call_piece(0, id="c1", name="f", arguments=""),
        call_piece(0, arguments='{"a": '),
        call_piece(1, id="c2", name="g", arguments="{}"),
        call_piece(0, arguments="1}"),
    ),
    "fail": Failure(status=503, body={"error": {"message": f"no room for {SECRET}"}}),
    "crowd": Failure(status=429),
}


def by_last_message(request: Request) -> Reply:
    return REPLIES[request.json["messages"][-1]["content"]]


def built(provider_type: str, config: Json) -> InferenceProvider:
    instance = ProviderInstance(provider_id="it", provider_type=provider_type, config=config)
    return build_inference(RunConfig(providers=Providers(inference=(instance,))))["it"]


REMOTES: dict[str, Json] = {
    "remote::openai": {},
    "remote::vllm": {},
    "remote::tgi": {},
    "remote::ollama": {"pull_models": False},
}


@pytest.fixture(params=["inline::scripted", *REMOTES])
def provider(request: pytest.FixtureRequest) -> Iterator[InferenceProvider]:
    """A provider that serves the model `m` and answers according to the last message."""
    if request.param == "inline::scripted":
        yield built(request.param, {"models": ["m"], "rules": RULES})
        return
    with FakeUpstream(default=by_last_message) as upstream:
        config = {"url": upstream.url, "api_key": SECRET, "max_retries": 0, **REMOTES[request.param]}
        remote = built(request.param, config)
        yield remote
        remote.close()


def asking(words: str, **fields: Json) -> ChatRequest:
    return ChatRequest(model="m", messages=[{"role": "user", "content": words}], **fields)


def deltas(provider: InferenceProvider, words: str) -> list[Delta]:
    return list(provider.chat(asking(words)))


def failure(provider: InferenceProvider, words: str) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        deltas(provider, words)
    assert SECRET not in caught.value.message
    return caught.value


def test_it_says_what_it_is(provider: InferenceProvider) -> None:
    assert provider.provider_id == "it"
    assert provider.provider_type in ("inline::scripted", *REMOTES)


def test_text_comes_in_pieces_that_join_to_the_whole(provider: InferenceProvider) -> None:
    pieces = [delta.text for delta in deltas(provider, "text") if isinstance(delta, TextDelta)]
    assert len(pieces) > 1
    assert all(pieces)
    assert "".join(pieces) == ANSWER


def test_the_last_delta_is_the_only_finish_and_has_the_usage(provider: InferenceProvider) -> None:
    *others, last = deltas(provider, "text")
    assert not any(isinstance(delta, Finished) for delta in others)
    assert isinstance(last, Finished)
    assert last.stop_reason is StopReason.END_OF_TURN
    assert last.usage is not None
    assert last.usage["total_tokens"] == last.usage["prompt_tokens"] + last.usage["completion_tokens"]


def test_each_call_is_started_then_written_then_done(provider: InferenceProvider) -> None:
    found = deltas(provider, "calls")
    done = [delta for delta in found if isinstance(delta, ToolCallDone)]

    assert [(call.tool_name, call.arguments, call.parse_status) for call in done] == [
        ("f", {"a": 1}, "succeeded"),
        ("g", {}, "succeeded"),
    ]
    assert len({call.call_id for call in done}) == 2
    for call in done:
        own = [delta for delta in found if isinstance(delta, ToolCallDelta) and delta.call_id == call.call_id]
        assert (own[0].parse_status, own[0].arguments, own[0].tool_name) == ("started", "", call.tool_name)
        assert {delta.parse_status for delta in own[1:]} == {"in_progress"}
        assert "".join(delta.arguments for delta in own) == call.arguments_json
        assert found.index(call) > found.index(own[-1])


def test_a_reply_with_calls_ends_the_message_and_not_the_turn(provider: InferenceProvider) -> None:
    last = deltas(provider, "calls")[-1]
    assert isinstance(last, Finished)
    assert last.stop_reason is StopReason.END_OF_MESSAGE


def test_a_failure_names_the_instance_and_its_status(provider: InferenceProvider) -> None:
    error = failure(provider, "fail")
    assert (error.provider_id, error.code, error.status) == ("it", "provider_error", 503)
    assert error.retryable
    assert "'it'" in error.message
    assert "no room" in error.message
    assert error.as_json() == {"code": error.code, "message": error.message, "provider_id": "it"}


def test_a_rate_limit_has_a_code_of_its_own(provider: InferenceProvider) -> None:
    error = failure(provider, "crowd")
    assert (error.code, error.status, error.retryable) == ("provider_rate_limited", 429, True)


def test_replies_are_independent_of_each_other(provider: InferenceProvider) -> None:
    one, other = provider.chat(asking("text")), provider.chat(asking("text"))
    mixed = [(next(one), next(other)) for _ in range(2)]
    assert all(left == right for left, right in mixed)
    assert list(one) == list(other)


def test_an_iterator_may_be_closed_at_any_time(provider: InferenceProvider) -> None:
    unread = provider.chat(asking("text"))
    unread.close()  # type: ignore[attr-defined]
    begun = provider.chat(asking("text"))
    next(begun)
    begun.close()  # type: ignore[attr-defined]
    assert list(begun) == []
    assert deltas(provider, "text")


def test_models_are_listed_and_accepted_by_the_providers_own_name(provider: InferenceProvider) -> None:
    assert [model.resource_id for model in provider.list_models()] == ["m"]
    alias = Model(identifier="mine", resource_id="m")
    assert provider.register_model(alias) == alias


def test_a_model_that_is_not_served_is_refused_with_the_list(provider: InferenceProvider) -> None:
    with pytest.raises(ProviderError) as caught:
        provider.register_model(Model(identifier="x", resource_id="x"))
    assert caught.value.code == "model_not_found"
    assert "It serves: m." in caught.value.message
