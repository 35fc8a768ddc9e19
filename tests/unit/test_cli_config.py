"""`turnstone config`: mistakes as they are, and secrets masked."""

import json
from pathlib import Path

import pytest
import yaml

from shared.cli.main import main

GOOD = """
providers:
  inference:
    - provider_id: big
      provider_type: remote::openai
      config: {url: "https://host/v1", api_key: "${env.BIG_KEY}", headers: {X-Team: sesame}}
api_keys: [sesame-client]
turns: {lease_s: 20}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BIG_KEY", "sesame-provider")
    monkeypatch.setenv("TURNSTONE_REDIS_URL", "redis://user:sesame@host:6379/0")
    for name in ("TURNSTONE_CONFIG", "TURNSTONE_BROKER_URL"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "turnstone.yaml").write_text(GOOD)
    return tmp_path


def test_a_config_with_which_a_worker_would_start_is_valid(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "check"]) == 0

    assert capsys.readouterr().out == (
        f"config:    {folder / 'turnstone.yaml'}\nproviders: inference big (remote::openai)\nvalid\n"
    )


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ("turns: {lease: 3}", "turnstone.yaml, line 1: turns.lease: unknown key; did you mean lease_s?"),
        (
            GOOD.replace("remote::openai", "remote::opnai"),
            "turnstone.yaml, line 5: providers.inference[0].provider_type: there is no inference provider type",
        ),
        (
            GOOD.replace("api_key:", "api_kye:"),
            "turnstone.yaml, line 6: providers.inference[0].config.api_kye: unknown key; did you mean api_key?",
        ),
        (
            "providers:\n  tool_runtime:\n"
            "    - {provider_id: t, provider_type: remote::mcp, config: {ur: 'http://tools/mcp'}}",
            "turnstone.yaml, line 3: providers.tool_runtime[0].config.ur: unknown key; did you mean uri?",
        ),
    ],
)
def test_a_mistake_is_named_as_a_worker_would_name_it(
    folder: Path, capsys: pytest.CaptureFixture[str], wrong: str, error: str
) -> None:
    (folder / "turnstone.yaml").write_text(wrong)

    assert main(["config", "check"]) == 2
    assert capsys.readouterr().err.startswith(f"turnstone: {error}")

    assert main(["config", "check", "--json"]) == 2
    answer = json.loads(capsys.readouterr().out)
    assert answer["valid"] is False
    assert answer["errors"][0].startswith(error)
    assert "sesame" not in str(answer)


def test_a_file_can_be_named_and_has_to_be_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "other.yaml").write_text("{}")

    assert main(["config", "check", "other.yaml"]) == 0
    assert "providers: none" in capsys.readouterr().out
    assert main(["config", "check", "missing.yaml"]) == 2
    assert capsys.readouterr().err == "turnstone: There is no file 'missing.yaml'.\n"


def test_without_a_file_the_default_is_checked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "turnstone.yaml").unlink()

    assert main(["config", "check"]) == 0
    assert "there is no turnstone.yaml here" in capsys.readouterr().out


def test_what_is_shown_is_yaml_with_every_secret_masked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show"]) == 0

    text = capsys.readouterr().out
    shown = yaml.safe_load(text)
    assert "sesame" not in text
    assert "# TURNSTONE_REDIS_URL=redis://user:***@host:6379/0" in text.splitlines()
    assert shown["turns"]["lease_s"] == 20
    assert shown["turns"]["max_attempts"] == 5, "defaults are shown too"
    assert shown["providers"]["inference"][0]["config"]["api_key"] == "********"
    assert shown["api_keys"] == [{"key": "********", "tenant": "default"}]


def test_what_is_shown_as_json_is_one_document(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", "--json"]) == 0

    text = capsys.readouterr().out
    shown = json.loads(text)
    assert "sesame" not in text
    assert shown["settings"]["TURNSTONE_PORT"] == "8321"
    assert shown["config"]["limits"] == {
        "body_mb": 8,
        "messages": 1000,
        "file_mb": 32,
        "files_mb_per_tenant": 1024,
        "file_ttl_s": 604_800,
    }
