"""Mistakes in the configs of the shields that ask somebody else."""

from typing import Any

import pytest

from shared.errors import ConfigError
from shared.runconfig import ProviderInstance, Providers, RunConfig
from worker.providers.instances import build_safety
from worker.providers.safety import SafetyProvider

Json = dict[str, Any]

GUARD, MODERATION = "inline::llama-guard", "remote::openai-moderation"
URL = "http://127.0.0.1:1/v1"


def built(provider_type: str, config: Json) -> SafetyProvider:
    instance = ProviderInstance(provider_id="s", provider_type=provider_type, config=config)
    config_of_all = RunConfig(providers=Providers(safety=(instance,)))
    return build_safety(config_of_all, chat=lambda request: iter(()), serves=lambda name: True)["s"]


def refusal(provider_type: str, config: Json) -> str:
    with pytest.raises(ConfigError) as caught:
        built(provider_type, config)
    return caught.value.message


@pytest.mark.parametrize(
    ("provider_type", "config", "expected"),
    [
        (GUARD, {"shields": [{}]}, "shields[0].provider_shield_id: this key is missing; add it."),
        (GUARD, {"shields": ["guard"]}, "shields[0]: has to be a mapping (key: value)."),
        (GUARD, {"shields": [{"provider_shield_id": "g", "model": "g"}]}, "shields[0].model: unknown key; known here:"),
        (
            GUARD,
            {"shields": [{"provider_shield_id": "g", "excluded_categories": ["S15"]}]},
            "shields[0].excluded_categories[0]: has to be 'S1', 'S2',",
        ),
        (
            GUARD,
            {"shields": [{"provider_shield_id": "g", "excluded_categories": [f"S{n}" for n in range(1, 15)]}]},
            "shields[0].excluded_categories: excludes every category; leave the shield out instead.",
        ),
        (GUARD, {"shields": [{"provider_shield_id": "g", "prompt": "x"}]}, "prompt: has to be 'written' or 'server'."),
        (GUARD, {"timeout_s": -1}, "config.timeout_s: has to be greater than 0."),
        (MODERATION, {}, "config.url: this key is missing; add it."),
        (MODERATION, {"url": "api.openai.com"}, "config.url: has to be a URL such as http://host:port/v1."),
        (MODERATION, {"url": URL, "api_key": "sk-a\nb"}, "config.api_key: must be printable ASCII"),
        (MODERATION, {"url": URL, "shields": [{"model": "m"}]}, "shields[0].shield_id: this key is missing; add it."),
        (MODERATION, {"url": URL, "timeout": 3}, "config.timeout: unknown key; did you mean timeout_s?"),
    ],
)
def test_a_mistake_names_key_and_fix(provider_type: str, config: Json, expected: str) -> None:
    message = refusal(provider_type, config)
    assert message.startswith("the default config: providers.safety[0].config")
    assert expected in message
    assert "sk-a" not in message


def test_an_unknown_type_lists_the_known_ones() -> None:
    assert refusal("inline::denlist", {}) == (
        "the default config: providers.safety[0].provider_type: there is no safety provider type 'inline::denlist'; "
        "did you mean inline::denylist? known: inline::denylist, inline::llama-guard, remote::openai-moderation, "
        "or one of your own as package.module:Class."
    )


def test_a_guard_is_named_as_its_model_unless_it_has_a_name() -> None:
    shields: list[Json] = [
        {"provider_shield_id": "guard"},
        {"provider_shield_id": "guard", "shield_id": "mild", "excluded_categories": ["S6"]},
    ]
    first, second = built(GUARD, {"shields": shields}).list_shields()
    assert (first.identifier, first.resource_id, first.params) == ("guard", "guard", {})
    assert (second.identifier, second.resource_id) == ("mild", "guard")
    assert second.params == {"excluded_categories": ["S6"]}


def test_a_moderation_has_the_model_of_its_shield_or_of_its_provider() -> None:
    shields = [{"shield_id": "a"}, {"shield_id": "b", "provider_shield_id": "small"}]
    one = built(MODERATION, {"url": URL, "shields": shields})
    assert [shield.resource_id for shield in one.list_shields()] == ["omni-moderation-latest", "small"]
    one.close()
