"""`inline::llama-guard` with a guard model behind a real inference provider: what it asks and how it reads it."""

from collections.abc import Iterator
from typing import Any

import pytest
from fake_upstream import Failure, FakeUpstream, text

from shared.errors import ProviderError
from worker.providers.inference import ChatRequest, Delta
from worker.providers.openai import OpenAIInference
from worker.providers.openai_config import OpenAIConfig
from worker.providers.safety import Json, Shield, Violation
from worker.providers.safety_base import STANDARD_MESSAGE
from worker.providers.safety_llama_guard import LlamaGuardConfig, LlamaGuardSafety

MODEL = "llama-guard3"
CONTENT = "what the user said"
SHIELD = Shield(identifier="guard", resource_id=MODEL)
SERVER_SHIELD = Shield(identifier="guard", resource_id=MODEL, params={"prompt": "server"})


@pytest.fixture
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream(default=text("safe")) as server:
        yield server


@pytest.fixture
def provider(upstream: FakeUpstream) -> Iterator[LlamaGuardSafety]:
    inference = OpenAIInference(provider_id="gpu", config=OpenAIConfig(url=upstream.url, max_retries=0))

    def chat(request: ChatRequest) -> Iterator[Delta]:
        return inference.chat(request)

    yield LlamaGuardSafety(provider_id="safe", config=LlamaGuardConfig(), chat=chat, serves=lambda name: name == MODEL)
    inference.close()


def user(content: Any) -> list[Json]:
    return [{"role": "user", "content": content}]


def fault(provider: LlamaGuardSafety, shield: Shield = SHIELD) -> ProviderError:
    """What is raised; no form of it holds what was looked at."""
    with pytest.raises(ProviderError) as caught:
        provider.run_shield(shield, user(CONTENT))
    error = caught.value
    assert CONTENT not in f"{error!r} {error.as_json()} {error.__cause__!r}"
    assert error.provider_id == "safe"
    return error


def test_the_prompt_is_sent_as_one_message_without_chance(upstream: FakeUpstream, provider: LlamaGuardSafety) -> None:
    assert provider.run_shield(SHIELD, user("hello")) is None
    (request,) = upstream.requests
    (message,) = request.json["messages"]
    assert message["role"] == "user"
    assert message["content"].startswith("Task: Check if there is unsafe content in 'User' messages")
    assert (request.json["model"], request.json["temperature"], request.json["max_tokens"]) == (MODEL, 0.0, 100)


def test_the_servers_own_template_gets_the_conversation(upstream: FakeUpstream, provider: LlamaGuardSafety) -> None:
    messages = [
        {"role": "system", "content": "Be kind."},
        *user("a"),
        *user("b"),
        {"role": "assistant", "content": "c"},
    ]
    assert provider.run_shield(SERVER_SHIELD, messages) is None
    assert provider.run_shield(SERVER_SHIELD, messages[-1:]) is None
    assert [request.json["messages"] for request in upstream.requests] == [
        [{"role": "user", "content": "a\n\nb"}, {"role": "assistant", "content": "c"}],
        [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "c"}],
    ]


@pytest.mark.parametrize(
    ("answer", "metadata"),
    [
        ("unsafe\nS1", {"violation_type": "S1", "categories": ["Violent Crimes"]}),
        ("unsafe\nS9,S2", {"violation_type": "S9,S2", "categories": ["Indiscriminate Weapons", "Non-Violent Crimes"]}),
        ("unsafe", {"violation_type": "", "categories": []}),
        ("unsafe\nS77", {"violation_type": "S77", "categories": ["S77"]}),
    ],
)
def test_an_objection_names_its_categories(
    upstream: FakeUpstream, provider: LlamaGuardSafety, answer: str, metadata: Json
) -> None:
    upstream.script(text(*answer))
    assert provider.run_shield(SHIELD, user(CONTENT)) == Violation(user_message=STANDARD_MESSAGE, metadata=metadata)


@pytest.mark.parametrize(
    ("answer", "violation_type"), [("unsafe\nS6", None), ("unsafe\nS6,S2", "S2"), ("unsafe\nS2", "S2"), ("unsafe", "")]
)
def test_excluded_categories_are_no_objection(
    upstream: FakeUpstream, provider: LlamaGuardSafety, answer: str, violation_type: str | None
) -> None:
    upstream.script(text(answer))
    shield = Shield(identifier="guard", resource_id=MODEL, params={"excluded_categories": ["S6"]})
    violation = provider.run_shield(shield, user(CONTENT))
    assert (None if violation is None else violation.metadata["violation_type"]) == violation_type
    assert "S6: " not in upstream.requests[0].json["messages"][0]["content"]


@pytest.mark.parametrize("answer", ["", "Safe.", f"Well, {CONTENT} is fine", "S1", CONTENT * 1_000])
def test_anything_else_is_no_verdict(upstream: FakeUpstream, provider: LlamaGuardSafety, answer: str) -> None:
    upstream.script(text(*([answer] if answer else [])))
    error = fault(provider)
    assert (error.code, error.retryable) == ("shield_bad_verdict", False)
    assert error.message == (
        "Provider 'safe' got no verdict for the shield 'guard': 'llama-guard3' answered something else than safe or "
        "unsafe. Is it a Llama Guard model?"
    )


def test_a_model_that_never_stops_is_cut_off(upstream: FakeUpstream, provider: LlamaGuardSafety) -> None:
    upstream.script(text(*["word "] * 1_000, end="hang"))
    assert fault(provider).code == "shield_bad_verdict"
    upstream.wait_for(lambda: upstream.hangups == 1)


def test_a_fault_of_the_model_keeps_its_facts_and_loses_its_words(
    upstream: FakeUpstream, provider: LlamaGuardSafety
) -> None:
    upstream.script(Failure(status=429, headers={"retry-after": "3"}, body={"error": {"message": CONTENT}}))
    error = fault(provider)
    assert (error.code, error.status, error.retryable, error.retry_after) == ("provider_rate_limited", 429, True, 3)
    assert error.message == (
        "Provider 'safe' got no answer from its model 'llama-guard3' of provider 'gpu' (provider_rate_limited, 429): "
        "is the model served, and its server well? GET /v1/models lists what is served."
    )


def test_registering_wants_a_model_that_is_served(upstream: FakeUpstream, provider: LlamaGuardSafety) -> None:
    mine = Shield(identifier="mine", resource_id=MODEL, params={"excluded_categories": ["S1"]})
    assert provider.register_shield(mine) == mine
    assert provider.run_shield(mine, user("hello")) is None
    with pytest.raises(ProviderError) as caught:
        provider.register_shield(Shield(identifier="mine", resource_id="gpt"))
    assert caught.value.code == "model_not_found"
    assert caught.value.message == (
        "Provider 'safe' cannot run the shield 'mine': no provider serves the model 'gpt' now. "
        "Name a guard model of GET /v1/models in `provider_shield_id`."
    )


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"excluded_categories": ["S0"]}, "shield 'x': params.excluded_categories[0]: has to be 'S1', 'S2'"),
        ({"exclude": ["S1"]}, "shield 'x': params.exclude: unknown key; known here: excluded_categories, prompt."),
    ],
)
def test_registering_with_wrong_parameters_says_which(provider: LlamaGuardSafety, params: Json, expected: str) -> None:
    with pytest.raises(ProviderError) as caught:
        provider.register_shield(Shield(identifier="x", resource_id=MODEL, params=params))
    assert caught.value.code == "invalid_shield"
    assert expected in caught.value.message
