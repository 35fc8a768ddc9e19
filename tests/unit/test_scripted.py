"""The scripted model: rules, echo, pace."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ConfigError
from shared.runconfig import ProviderInstance, Providers, RunConfig, load
from worker.providers.inference import ChatRequest, Json, TextDelta
from worker.providers.instances import build_inference
from worker.providers.scripted import ScriptedConfig, ScriptedInference, tokens


def scripted(*rules: Json, pauses: list[float] | None = None) -> ScriptedInference:
    config = ScriptedConfig.model_validate({"rules": list(rules)})
    return ScriptedInference(provider_id="s", config=config, sleep=([] if pauses is None else pauses).append)


def answer(provider: ScriptedInference, *messages: Json) -> str:
    request = ChatRequest(model="scripted", messages=messages)
    return "".join(delta.text for delta in provider.chat(request) if isinstance(delta, TextDelta))


def user(content: object) -> Json:
    return {"role": "user", "content": content}


def tool(content: object) -> Json:
    return {"role": "tool", "call_id": "c", "content": content}


def test_without_a_rule_the_user_is_echoed() -> None:
    assert answer(scripted(), user("one"), user([{"type": "text", "text": "two"}, "three"])) == "two\nthree"
    assert answer(scripted(), user("question"), tool("result")) == "question"


def test_the_first_rule_that_matches_wins() -> None:
    rules = ({"match": "^wea", "text": "A"}, {"match": "weather", "text": "B"})
    assert answer(scripted(*rules), user("weather")) == "A"
    assert answer(scripted(*rules), user("the weather")) == "B"


def test_a_rule_may_be_for_the_responses_of_tools_only() -> None:
    provider = scripted({"match": ".", "role": "tool", "text": "done"}, {"match": ".", "text": "asked"})
    assert answer(provider, user("x")) == "asked"
    assert answer(provider, user("x"), {"role": "assistant", "content": ""}, tool("42")) == "done"


def test_the_pace_is_the_rules() -> None:
    pauses: list[float] = []
    provider = scripted({"match": "", "text": "a b c", "first_token_ms": 50, "token_ms": 20}, pauses=pauses)
    answer(provider, user("x"))
    assert pauses == [0.05, 0.02, 0.02]


@given(st.text())
def test_tokens_join_to_the_text(text: str) -> None:
    assert "".join(tokens(text)) == text


def test_tokens_are_words_with_the_space_before_them() -> None:
    assert tokens("The answer  is\n42. ") == ["The", " answer", "  is", "\n42.", " "]


def refusal(config: Json, provider_type: str = "inline::scripted") -> str:
    instance = ProviderInstance(provider_id="s", provider_type=provider_type, config=config)
    with pytest.raises(ConfigError) as caught:
        build_inference(RunConfig(providers=Providers(inference=(instance,))))
    return caught.value.message


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"rules": [{"match": "(", "text": "x"}]}, "rules[0].match: is no regular expression: missing )"),
        ({"rules": [{"match": "a{99999999999}", "text": "x"}]}, "rules[0].match: is no regular expression"),
        ({"rules": [{"match": "a"}]}, "rules[0]: a rule has exactly one of text, tool_calls and error."),
        ({"rules": [{"match": "a", "txt": "x"}]}, "rules[0].txt: unknown key; did you mean text?"),
        ({"rules": [{"match": "a", "error": {"status": 200}}]}, "rules[0].error.status: has to be greater"),
        ({"models": []}, "providers.inference[0].config.models"),
    ],
)
def test_a_mistake_in_the_rules_is_named(config: Json, expected: str) -> None:
    assert expected in refusal(config)


def test_an_unknown_provider_type_lists_the_known_ones() -> None:
    assert refusal({}, "remote::openay") == (
        "the default config: providers.inference[0].provider_type: there is no inference provider type "
        "'remote::openay'; did you mean remote::openai? known: inline::scripted, inline::wordllama, remote::ollama, "
        "remote::openai, remote::tgi, remote::vllm, or one of your own as package.module:Class."
    )


def test_the_default_config_greets_and_echoes() -> None:
    provider = build_inference(load(None, {}))["scripted"]
    assert isinstance(provider, ScriptedInference)
    assert answer(provider, user("Hello there")).startswith("Hello! I am the scripted model")
    assert answer(provider, user("What is this?")) == "What is this?"
