"""One stack for all tests that leave it as it is: starting one takes seconds."""

from collections.abc import Iterator

import pytest
from fake_upstream import FakeUpstream
from stack import Json, Stack, running, scripted

ADD = {"tool_name": "add", "arguments": {"x": 2, "y": 40}}
WEATHER = {"tool_name": "weather", "arguments": {"city": "Paris", "days": 3}}
RULES: list[Json] = [
    {"match": "^add$", "role": "user", "tool_calls": [ADD]},
    {"match": "^add and weather$", "role": "user", "tool_calls": [ADD, WEATHER]},
    {"match": "^.?again", "tool_calls": [{"tool_name": "again"}]},
    {"match": "^42$", "role": "tool", "text": "The sum is 42."},
    {"match": "^.?sunny in Paris", "role": "tool", "text": "42, and sunny."},
    {"match": "^fail$", "error": {"status": 500, "message": "the model fell over"}},
    {"match": "^tell a story$", "text": " ".join(f"word{n}" for n in range(30)), "token_ms": 60},
    {"match": "^tell a long story$", "text": " ".join(f"word{n}" for n in range(90)), "token_ms": 60},
    {"match": "^be quick$", "text": "Done."},
]


@pytest.fixture(scope="session")
def upstream() -> Iterator[FakeUpstream]:
    """An inference server of which the shared stack's model `m` is served; it records what it is asked."""
    with FakeUpstream() as server:
        yield server


@pytest.fixture(scope="session")
def shared_stack(tmp_path_factory: pytest.TempPathFactory, upstream: FakeUpstream) -> Iterator[Stack]:
    """A stack with the scripted model (`RULES`) and `upstream`."""
    config = scripted(*RULES)
    config["providers"]["inference"].append(
        {"provider_id": "upstream", "provider_type": "remote::openai", "config": {"url": upstream.url}}
    )
    with running(tmp_path_factory.mktemp("shared"), config) as stack:
        yield stack
