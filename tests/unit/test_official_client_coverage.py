"""Every method of the official client that this service has a route for is called, unchanged, by an acceptance test."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_stack_client import LlamaStackClient
from llama_stack_client._resource import SyncAPIResource

ACCEPTANCE = Path(__file__).parents[1] / "acceptance"
CALL = re.compile(r"client((?:\.\w+)+)\(")
ELSEWHERE = (
    "benchmarks", "chat", "completions", "datasets", "embeddings", "eval", "files", "inference.batch_", "post_training",
    "responses", "scoring", "scoring_functions", "synthetic_data_generation", "telemetry", "vector_stores",
)  # fmt: skip
"""APIs of Llama Stack that this service does not have: their calls get a 404 that names the list of routes."""


def methods(resource: Any, path: str) -> Iterator[str]:
    """`agents.turn.create` and the like: the public methods of a resource, and of those below it."""
    for name in dir(type(resource)):
        if name.startswith(("_", "with_")):
            continue
        if inspect.isfunction(inspect.getattr_static(type(resource), name)):
            yield f"{path}.{name}"
        elif isinstance(below := getattr(resource, name), SyncAPIResource):
            yield from methods(below, f"{path}.{name}")


def all_methods() -> list[str]:
    with LlamaStackClient(base_url="http://127.0.0.1:1") as client:
        resources = {name: value for name, value in vars(client).items() if isinstance(value, SyncAPIResource)}
        return sorted(method for name, resource in resources.items() for method in methods(resource, name))


SERVED = [method for method in all_methods() if not method.startswith(ELSEWHERE)]


def test_the_client_has_the_resources_that_are_looked_for() -> None:
    assert {"agents.turn.resume", "vector_io.query", "tool_runtime.rag_tool.insert", "inspect.version"} <= set(SERVED)


@pytest.mark.parametrize("method", SERVED)
def test_a_method_is_called_by_an_acceptance_test(method: str) -> None:
    tests = "\n".join(file.read_text() for file in ACCEPTANCE.glob("test_official_client*.py"))

    assert f".{method}" in {call[1] for call in CALL.finditer(tests)}
