"""`inline::denylist`: what its patterns find, and that none of them can hang a worker."""

import random
import time
from collections.abc import Iterator
from typing import Any

import pytest

from shared.errors import ConfigError, ProviderError
from shared.runconfig.check import check
from shared.runconfig.origin import Origin
from worker.providers.safety import Shield, Violation
from worker.providers.safety_base import STANDARD_MESSAGE
from worker.providers.safety_denylist import GAVE_UP, NOTHING, DenylistConfig, DenylistSafety, DenylistShield

# Each keeps a backtracking engine busy for longer than the universe has been there.
CATASTROPHES = [
    r"^(a+)+$",
    r"^(a|aa)+$",
    r"(x+x+)+y",
    r"^(.*,){30}P",
    r"(a*)*b",
    r"^(([a-z])+.)+[0-9]([a-z])+$",
]
# Linear, but of the slow kind: each character may be the beginning of 500 others.
SLOW = r"[ab]*a[ab]{500}[^ab]"

Made = dict[str, Any]


@pytest.fixture
def made() -> Iterator[list[DenylistSafety]]:
    """Providers to close in the end."""
    providers: list[DenylistSafety] = []
    yield providers
    for provider in providers:
        provider.close()


def look(made: list[DenylistSafety], text: str, *patterns: str, config: Made | None = None, **entry: Any) -> Any:
    shields = [{"shield_id": "s", "patterns": patterns, **entry}]
    provider = DenylistSafety(
        provider_id="deny", config=DenylistConfig.model_validate({"shields": shields, **(config or {})})
    )
    made.append(provider)
    return provider.run_shield(provider.list_shields()[0], [{"role": "user", "content": text}])


@pytest.mark.parametrize(
    ("text", "pattern", "found"),
    [
        ("an Attack!", "attack", True),
        ("an attack", "ATTACK", True),
        ("an ÄRGERNIS", "ärgernis", True),
        ("an attack", "(?-i:ATTACK)", False),
        ("attack", "^attack$", True),
        ("no\nattack", "^attack$", False),
        ("no\nattack", "(?m)^attack$", True),
        ("4111 1111", r"\d{4} \d{4}", True),
        ("日本語", "本", True),
        ("Zoë", r"^\pL+$", True),
        ("half a surrogate \ud800 and an attack", "attack", True),
        ("nothing", "attack", False),
    ],
)
def test_what_a_pattern_finds(made: list[DenylistSafety], text: str, pattern: str, found: bool) -> None:
    assert (look(made, text, pattern) is not None) is found


def test_case_matters_where_it_is_asked_for(made: list[DenylistSafety]) -> None:
    assert look(made, "an Attack", "attack", case_sensitive=True) is None
    assert look(made, "an attack", "attack", case_sensitive=True) is not None


def test_the_user_reads_the_message_and_the_operator_finds_the_pattern(made: list[DenylistSafety]) -> None:
    assert look(made, "b", "a", "b", message="Not here.") == Violation(
        user_message="Not here.", metadata={"violation_type": "denylist", "pattern": 1}
    )
    assert look(made, "b", "b").user_message == STANDARD_MESSAGE


@pytest.mark.parametrize("pattern", CATASTROPHES)
def test_no_pattern_backtracks(made: list[DenylistSafety], pattern: str) -> None:
    assert look(made, "a" * 100_000 + "!", pattern) is None
    assert look(made, "x" * 100_000, pattern) is None


def test_a_slow_search_is_given_up_and_the_next_one_works(made: list[DenylistSafety]) -> None:
    with pytest.raises(ProviderError) as caught:
        look(made, "".join(random.Random(1).choices("ab", k=400_000)), SLOW, config={"timeout_s": 0.05})
    error = caught.value
    assert (error.code, error.provider_id, error.retryable) == ("shield_timeout", "deny", True)
    assert error.message == "Provider 'deny' had no verdict of the shield 's' within 0.05 s (`timeout_s`)."
    shield = Shield(identifier="s", resource_id="s")
    assert made[0].run_shield(shield, [{"role": "user", "content": "a"}]) is None


def test_a_search_that_nobody_waits_for_ends_with_its_pattern() -> None:
    shield = DenylistShield(shield_id="s", patterns=("a", "b"))
    assert shield.first_match([b"b"], time.monotonic() + 60) == 1
    assert shield.first_match([b"c"], time.monotonic() + 60) == NOTHING
    assert shield.first_match([b"b"], time.monotonic() - 1) == GAVE_UP


def test_a_text_that_is_too_long_is_an_error_and_not_cut(made: list[DenylistSafety]) -> None:
    assert look(made, "x" * 10, "attack", config={"max_text_chars": 10}) is None
    with pytest.raises(ProviderError) as caught:
        look(made, "x" * 11, "attack", config={"max_text_chars": 10})
    assert (caught.value.code, caught.value.retryable) == ("shield_text_too_long", False)
    assert caught.value.message == (
        "Provider 'deny' looks at no more than 10 characters (`max_text_chars`), and there are more."
    )


def test_a_shield_that_is_not_in_the_config_is_refused_with_those_that_are() -> None:
    config = DenylistConfig(shields=(DenylistShield(shield_id="a", patterns=("x",)),))
    provider = DenylistSafety(provider_id="deny", config=config)
    for act in (provider.register_shield, lambda shield: provider.run_shield(shield, [])):
        with pytest.raises(ProviderError, match=r"has no shield 'b'\. Its config has: a\.") as caught:
            act(Shield(identifier="mine", resource_id="b"))
        assert caught.value.code == "shield_not_found"
    provider.close()


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, "config.shields: this key is missing; add it."),
        ({"shields": []}, "config.shields: needs at least one."),
        ({"shields": [{"shield_id": "s", "patterns": []}]}, "config.shields[0].patterns: needs at least one."),
        ({"shields": [{"patterns": ["a"]}]}, "config.shields[0].shield_id: this key is missing; add it."),
        ({"shields": [{"shield_id": "s"}]}, "config.shields[0].patterns: this key is missing; add it."),
        ({"shields": [{"shield_id": "s", "patterns": "a"}]}, "config.shields[0].patterns: has to be a list."),
        (
            {"shields": [{"shield_id": "s", "patterns": ["a", "("]}]},
            "config.shields[0].patterns[1]: is no regular expression: missing ): (. "
            "The syntax is RE2's, which has no look-around and no back references.",
        ),
        (
            {"shields": [{"shield_id": "s", "patterns": ["a(?=b)"]}]},
            "config.shields[0].patterns[0]: is no regular expression: invalid perl operator: (?=.",
        ),
        (
            {"shields": [{"shield_id": "s", "patterns": [r"(\pL{0,100}x?){0,9}c"]}]},
            "config.shields[0].patterns[0]: is no regular expression: pattern too large",
        ),
        (
            {"shields": [{"shield_id": "s", "patterns": ["a|"]}]},
            "config.shields[0].patterns[0]: matches an empty text too, so it would stop everything.",
        ),
        (
            {"shields": [{"shield_id": "s", "patterns": ["a"], "pattern": "a"}]},
            "config.shields[0].pattern: unknown key; did you mean patterns?",
        ),
        (
            {"timeout_s": 0, "shields": [{"shield_id": "s", "patterns": ["a"]}]},
            "config.timeout_s: has to be greater than 0",
        ),
    ],
)
def test_a_mistake_in_the_config_names_key_and_fix(config: Made, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(DenylistConfig, config, origin=Origin(), at=("config",))
    assert expected in caught.value.message
    assert len(caught.value.message.splitlines()) == 1
