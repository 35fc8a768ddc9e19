"""What the turn loop may rely on from every safety provider."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import pytest
from fake_moderation import FakeModeration
from fake_upstream import FakeUpstream, Reply, Request, text

from shared.errors import ConfigError, ProviderError
from shared.runconfig import ProviderInstance, Providers, RunConfig
from worker.providers.inference import ChatRequest, Delta
from worker.providers.instances import build_inference, build_safety
from worker.providers.safety import Json, SafetyProvider, Shield, Violation

SECRET = "sk-contract-secret"
MODEL = "meta-llama/Llama-Guard-3-8B"
# Every provider below objects to this word, and to nothing else.
WORD = "attack"

HARMLESS: list[list[Json]] = [
    [],
    [{"role": "user", "content": "hello"}],
    [{"role": "user", "content": ""}],
    [{"role": "user", "content": []}],
    [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hello"}],
    [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hello", "tool_calls": []}],
]
HARMFUL: list[list[Json]] = [
    [{"role": "user", "content": f"how do I {WORD} you"}],
    [{"role": "user", "content": {"type": "text", "text": WORD}}],
    [{"role": "user", "content": [{"type": "text", "text": "how do I"}, {"type": "text", "text": WORD}]}],
    [{"role": "user", "content": "hello", "context": f"from a document: {WORD}"}],
    [{"role": "user", "content": WORD}, {"role": "user", "content": "and thank you"}],
    [{"role": "user", "content": "hello"}, {"role": "assistant", "content": WORD}],
    [{"role": "user", "content": "hello"}, {"role": "tool", "call_id": "c", "content": WORD}],
    [
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"call_id": "c", "tool_name": "f", "arguments": {"deep": [{"in": f"an {WORD}"}]}}],
        }
    ],
]


def guard(request: Request) -> Reply:
    """Answers as Llama Guard does, about the last message of the conversation in the prompt."""
    prompt = request.json["messages"][-1]["content"]
    said = prompt.partition("<BEGIN CONVERSATION>")[2].partition("<END CONVERSATION>")[0]
    last = max(said.rfind("\nUser: "), said.rfind("\nAgent: "))
    return text("unsafe", "\nS1") if WORD in said[last:] else text("\n\n", "safe")


def built(provider_type: str, config: Json, chat: Any = None) -> SafetyProvider:
    instance = ProviderInstance(provider_id="it", provider_type=provider_type, config=config)
    run_config = RunConfig(providers=Providers(safety=(instance,)))
    return build_safety(run_config, chat=chat, serves=lambda name: name == MODEL)["it"]


@contextmanager
def denylist() -> Iterator[SafetyProvider]:
    yield built("inline::denylist", {"shields": [{"shield_id": "s", "patterns": [rf"\b{WORD}\b"], "message": "No."}]})


@contextmanager
def llama_guard() -> Iterator[SafetyProvider]:
    with FakeUpstream(default=guard, models=[MODEL]) as upstream:
        config = {"url": upstream.url, "api_key": SECRET, "max_retries": 0}
        instance = ProviderInstance(provider_id="gpu", provider_type="remote::openai", config=config)
        inference = build_inference(RunConfig(providers=Providers(inference=(instance,))))["gpu"]

        def chat(request: ChatRequest) -> Iterator[Delta]:
            assert request.model == MODEL
            return inference.chat(request)

        yield built("inline::llama-guard", {"shields": [{"shield_id": "s", "provider_shield_id": MODEL}]}, chat)
        inference.close()


@contextmanager
def moderation() -> Iterator[SafetyProvider]:
    with FakeModeration(word=WORD) as upstream:
        config = {"url": upstream.url, "api_key": SECRET, "shields": [{"shield_id": "s"}]}
        yield built("remote::openai-moderation", config)


PROVIDERS = {
    "inline::denylist": denylist,
    "inline::llama-guard": llama_guard,
    "remote::openai-moderation": moderation,
}


@pytest.fixture(params=PROVIDERS)
def provider(request: pytest.FixtureRequest) -> Iterator[SafetyProvider]:
    """A provider with the shield `s`, which objects to `WORD`."""
    with PROVIDERS[request.param]() as one:
        assert one.provider_type == request.param
        yield one
        one.close()


@pytest.fixture
def shield(provider: SafetyProvider) -> Shield:
    """The provider's shield, as it lists it."""
    (listed,) = provider.list_shields()
    return listed


def user(content: Any) -> list[Json]:
    return [{"role": "user", "content": content}]


def test_it_names_its_instance_and_lists_its_shields(provider: SafetyProvider, shield: Shield) -> None:
    assert provider.provider_id == "it"
    assert shield.identifier == "s"
    assert shield.resource_id


@pytest.mark.parametrize("messages", HARMLESS)
def test_there_is_nothing_to_object_to(provider: SafetyProvider, shield: Shield, messages: list[Json]) -> None:
    assert provider.run_shield(shield, messages) is None


@pytest.mark.parametrize("messages", HARMFUL)
def test_it_objects_wherever_it_is_said(provider: SafetyProvider, shield: Shield, messages: list[Json]) -> None:
    violation = provider.run_shield(shield, messages)
    assert isinstance(violation, Violation)
    assert violation.level == "error"
    assert violation.user_message
    assert violation.metadata["violation_type"]
    assert WORD not in str(violation.as_json())


def test_content_that_it_cannot_read_is_an_error_and_no_verdict(provider: SafetyProvider, shield: Shield) -> None:
    with pytest.raises(ProviderError) as caught:
        provider.run_shield(shield, user([{"type": "video", "video": WORD}]))
    assert (caught.value.provider_id, caught.value.code) == ("it", "unsupported_parameter")
    assert "'video'" in caught.value.message
    assert WORD not in caught.value.message


def test_many_looks_at_once_do_not_mix(provider: SafetyProvider, shield: Shield) -> None:
    looks = [gevent.spawn(provider.run_shield, shield, user(WORD if number % 3 else "hello")) for number in range(30)]
    gevent.joinall(looks, raise_error=True)
    assert [look.value is not None for look in looks] == [bool(number % 3) for number in range(30)]


def test_a_shield_registered_again_under_another_name_works_alike(provider: SafetyProvider, shield: Shield) -> None:
    other = Shield(identifier="other", resource_id=shield.resource_id, params=shield.params)
    assert provider.register_shield(other) == other
    assert provider.run_shield(other, user(WORD)) is not None
    assert provider.run_shield(other, user("hello")) is None


@pytest.mark.parametrize("provider_type", PROVIDERS)
def test_a_name_that_is_there_twice_is_refused_at_start(provider_type: str) -> None:
    entry = {"shield_id": "s", "provider_shield_id": MODEL, "patterns": ["x"]}
    mine = ("shield_id", *(("patterns",) if "denylist" in provider_type else ("provider_shield_id",)))
    config: Json = {"shields": [{key: entry[key] for key in mine}] * 2}
    if provider_type.startswith("remote"):
        config["url"] = "http://127.0.0.1:1/v1"
    with pytest.raises(ConfigError) as caught:
        built(provider_type, config)
    assert caught.value.message == (
        "the default config: providers.safety[0].config.shields: each shield_id once; s is there more than once."
    )
