"""What README and docs tell a user to run, run."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from stack import Stack

from shared.runconfig import load
from worker.providers.instances import build_inference, build_memory, build_safety, build_tools

ROOT = Path(__file__).parents[2]
DEFAULT_URL = "http://127.0.0.1:8321"


def block(document: str, language: str, having: str) -> str:
    """The code block of a document in a language that holds some words."""
    found = re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    matching = [code for code in found if having in code]
    assert len(matching) == 1, f"{document}: {len(matching)} {language} blocks hold {having!r}"
    return str(matching[0])


def test_the_readmes_curl_commands_submit_poll_and_tail(shared_stack: Stack) -> None:
    script = block("README.md", "bash", "last id").replace(DEFAULT_URL, shared_stack.url)

    done = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr
    polled, _, tailed = done.stdout.partition("id: 1-")
    assert json.loads(polled)["status"] == "completed"
    assert "event: turn_complete" in tailed


def test_the_readmes_client_program_prints_an_answer(shared_stack: Stack) -> None:
    program = block("README.md", "python", "LlamaStackClient").replace(DEFAULT_URL, shared_stack.url)

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr
    assert "Hello" in done.stdout


def test_the_readmes_command_line_answers(shared_stack: Stack, tmp_path: Path) -> None:
    script = block("README.md", "bash", "turnstone ask")
    (tmp_path / "turnstone.yaml").write_text(block("README.md", "yaml", "providers:"))
    prepare = "git init -q . && echo one > file && git add file && echo two > file"
    environ = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "TURNSTONE_URL": shared_stack.url,
        "OPENAI_API_KEY": "sk-test",
    }

    done = subprocess.run(
        ["bash", "-euc", f"{prepare}\n{script}"], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 0, done.stderr
    answer, _, rest = done.stdout.partition("\n")
    assert answer == "What can you do?"
    assert "scripted" in rest and rest.endswith("valid\n")
    assert "-one\n+two" in (tmp_path / "review.txt").read_text()


def test_the_readmes_flask_view_submits_polls_and_tails(shared_stack: Stack) -> None:
    program = block("README.md", "python", "from flask import").replace(DEFAULT_URL, shared_stack.url)
    names: dict[str, Any] = {"__name__": "readme"}
    exec(compile(program, "README.md", "exec"), names)  # noqa: S102 - the document is what is tested
    client = names["app"].test_client()
    agent, session = re.fullmatch(r"/agents/(.+)/session/(.+)", shared_stack.new_session()).groups()  # type: ignore[union-attr]

    asked = client.post(f"/ask/{agent}/{session}", json={"text": "Hello"}, headers={"X-Message-Id": "m1"})
    again = client.post(f"/ask/{agent}/{session}", json={"text": "Hello"}, headers={"X-Message-Id": "m1"})
    turn = asked.json["turn_id"]
    answer = client.get(f"/answer/{agent}/{session}/{turn}")
    tail = client.get(f"/tail/{agent}/{session}/{turn}").get_data(as_text=True)
    rest = client.get(f"/tail/{agent}/{session}/{turn}", headers={"Last-Event-ID": "2"}).get_data(as_text=True)
    names["turnstone"].close()

    assert asked.status_code == 202
    assert again.json == asked.json, "a retry finds the same turn"
    assert answer.json["status"] == "completed"
    assert tail.endswith(rest) and "turn_created" not in rest


def test_the_readmes_run_config_is_valid(tmp_path: Path) -> None:
    file = tmp_path / "turnstone.yaml"
    file.write_text(block("README.md", "yaml", "providers:"))
    providers = build_inference(load(file, {"OPENAI_API_KEY": "sk-test"}))
    assert list(providers) == [
        instance["provider_id"] for instance in yaml.safe_load(file.read_text())["providers"]["inference"]
    ]


@pytest.mark.parametrize("api", ["inference", "safety", "memory", "tool_runtime"])
def test_the_configs_of_the_providers_page_are_valid(tmp_path: Path, api: str) -> None:
    file = tmp_path / "turnstone.yaml"
    file.write_text(block("docs/providers.md", "yaml", f"  {api}:"))

    config = load(file, {})
    built = {
        "inference": lambda: build_inference(config),
        "safety": lambda: build_safety(config, chat=lambda request: iter(()), serves=lambda model: True),
        "memory": lambda: build_memory(config),
        "tool_runtime": lambda: build_tools(config),
    }[api]()

    assert list(built) == [instance["provider_id"] for instance in yaml.safe_load(file.read_text())["providers"][api]]
    for provider in built.values():
        provider.close()


@pytest.mark.parametrize(
    "document",
    [
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "examples/README.md",
        "docs/design.md",
        "docs/api.md",
        "docs/memory.md",
        "docs/operations.md",
        "docs/performance.md",
        "docs/providers.md",
    ],
)
def test_links_between_documents_lead_somewhere(document: str) -> None:
    text = (ROOT / document).read_text()
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)]+)\)", text)]
    missing = [t for t in targets if t and "://" not in t and not ((ROOT / document).parent / t).exists()]
    assert missing == []


def test_the_files_that_the_design_names_are_there() -> None:
    text = (ROOT / "docs/design.md").read_text()
    paths = set(re.findall(r"`((?:api|worker|shared)/[\w/]+(?:\.py|/))`", text))
    assert paths and [path for path in paths if not (ROOT / path).exists()] == []
