"""The run config: what is accepted, what is refused, and in which words."""

from hashlib import sha256
from pathlib import Path

import pytest

from shared.errors import ConfigError
from shared.runconfig import RunConfig, load, load_front

SECRET = "sk-very-secret-value"

FULL = """\
providers:
  inference:
    - provider_id: big
      provider_type: remote::openai
      config:
        url: ${env.BIG_URL:=http://127.0.0.1:8000/v1}
        api_key: ${env.BIG_KEY}
        headers: {X-Team: "blue", Authorization: "${env.BIG_KEY}"}
    - {provider_id: trial, provider_type: "inline::scripted", config: {models: [scripted]}}
turns: {lease_s: 5, max_attempts: 3}
limits: {messages: 10}
durability: none
api_keys:
  - ${env.FRONT_KEY:=front}
  - {key: other, tenant: acme}
models:
  - {model_id: m1, provider_id: big}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "turnstone.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(folder: Path, text: str, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(write(folder, text), environ)
    assert SECRET not in caught.value.message
    return caught.value.message


def inference(config: str) -> str:
    return f"providers:\n  inference:\n    - provider_id: a\n      provider_type: t\n      {config}\n"


def test_a_full_config_is_read_with_its_defaults(tmp_path: Path) -> None:
    config = load(write(tmp_path, FULL), {"BIG_KEY": SECRET})

    assert [entry.provider_id for entry in config.providers.inference] == ["big", "trial"]
    assert config.providers.inference[0].config["url"] == "http://127.0.0.1:8000/v1"
    assert config.providers.inference[0].config["api_key"].get_secret_value() == SECRET
    assert (config.turns.lease_s, config.turns.max_attempts, config.turns.max_queued) == (5, 3, None)
    assert (config.turns.input_timeout_s, config.turns.deadline_s) == (86_400, None)
    assert (config.limits.body_mb, config.limits.messages) == (8, 10)
    limits = config.limits
    assert (limits.file_mb, limits.files_mb_per_tenant, limits.file_ttl_s) == (32, 1024, 7 * 86_400)
    assert config.durability == "none"
    assert [(key.key.get_secret_value(), key.tenant) for key in config.api_keys] == [
        ("front", "default"),
        ("other", "acme"),
    ]
    assert config.models[0].model_id == "m1"


def test_an_empty_file_is_a_config_without_providers(tmp_path: Path) -> None:
    config = load(write(tmp_path, "# nothing yet\n"), {})
    assert config.providers.inference == ()
    assert config.turns.lease_s == 15


def test_no_credential_shows_in_the_repr_or_in_the_masked_config(tmp_path: Path) -> None:
    config = load(write(tmp_path, FULL), {"BIG_KEY": SECRET, "FRONT_KEY": SECRET})
    shown = config.masked()

    assert SECRET not in repr(config)
    assert SECRET not in repr(shown)
    assert "blue" not in repr(shown)
    assert shown["providers"]["inference"][0]["config"]["url"] == "http://127.0.0.1:8000/v1"
    assert shown["providers"]["inference"][0]["config"]["api_key"] == "********"
    assert shown["api_keys"][0] == {"key": "********", "tenant": "default"}


def test_the_user_part_of_a_url_is_masked(tmp_path: Path) -> None:
    config = load(write(tmp_path, inference("config: {url: 'http://me:pass@host/v1'}")), {})
    shown = config.masked()["providers"]["inference"][0]["config"]["url"]
    assert shown == "http://********@host/v1"


def test_the_digest_is_that_of_the_files_bytes_for_both_readers(tmp_path: Path) -> None:
    path = write(tmp_path, FULL)
    digest = sha256(path.read_bytes()).hexdigest()
    assert load(path, {"BIG_KEY": "k"}).digest == digest
    assert load_front(path, {}).digest == digest


def test_the_front_needs_no_variable_of_a_provider_and_sees_none(tmp_path: Path) -> None:
    front = load_front(write(tmp_path, FULL), {"BIG_KEY": SECRET})
    assert front.turns.lease_s == 5
    assert not hasattr(front, "providers")
    assert SECRET not in repr(front.masked())


def test_the_front_refuses_what_is_wrong_in_its_own_sections(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"line 1: turns\.lease: unknown key; did you mean lease_s\?"):
        load_front(write(tmp_path, "turns: {lease: 3}\n"), {})


def test_a_variable_without_value_names_itself_the_key_and_the_line(tmp_path: Path) -> None:
    message = refusal(tmp_path, FULL)
    assert message == (
        "turnstone.yaml, line 7: providers.inference[0].config.api_key: the environment variable BIG_KEY is "
        "not set. Set it, or write ${env.BIG_KEY:=default}."
    )


@pytest.mark.parametrize(
    ("text", "environ", "expected"),
    [
        ("${env.HOST}:${env.PORT:=80}", {"HOST": "h"}, "h:80"),
        ("${env.HOST:=d}", {"HOST": ""}, "d"),
        ("${env.HOST:=d}", {"HOST": "h"}, "h"),
        ("a${env.HOST:=}b", {}, "ab"),
        ("${env.HOST}", {"HOST": "${env.OTHER} {x: 1}"}, "${env.OTHER} {x: 1}"),
        ("${HOST}", {}, "${HOST}"),
    ],
)
def test_references_are_replaced_inside_strings(
    tmp_path: Path, text: str, environ: dict[str, str], expected: str
) -> None:
    config = load(write(tmp_path, inference(f"config: {{url: '{text}'}}")), environ)
    assert config.providers.inference[0].config["url"] == expected


def test_an_empty_default_leaves_the_key_out(tmp_path: Path) -> None:
    text = inference("config: {url: u, api_key: '${env.KEY:=}'}")
    assert load(write(tmp_path, text), {}).providers.inference[0].config == {"url": "u"}


def test_a_number_may_come_from_the_environment(tmp_path: Path) -> None:
    config = load(write(tmp_path, "turns:\n  lease_s: ${env.LEASE}\n"), {"LEASE": "30"})
    assert config.turns.lease_s == 30


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("provider: {}\n", "line 1: provider: unknown key; did you mean providers?"),
        ("turns:\n  lease_s: soon\n", "line 2: turns.lease_s: has to be a number."),
        ("turns:\n  lease_s: 0\n", "line 2: turns.lease_s: has to be greater than 0."),
        ("turns: {max_attempts: 0}\n", "turns.max_attempts: has to be greater than or equal to 1."),
        ("limits: 3\n", "line 1: limits: has to be a mapping (key: value)."),
        ("turns: {max_queued: 0}\n", "line 1: turns.max_queued: has to be greater than or equal to 1."),
        ("turns: {deadline_s: 0}\n", "line 1: turns.deadline_s: has to be greater than 0."),
        (
            "memory_banks: [{memory_bank_id: b, type: vector, provider_id: gone}]\n",
            "line 1: memory_banks[0].provider_id: no such provider instance",
        ),
        ("durability: always\n", "line 1: durability: has to be 'none', 'fsync' or 'replicated'."),
        (inference("config: {url: '${env.}'}"), "config.url: a malformed reference; write ${env.NAME}"),
        (inference("conf: {}"), "line 5: providers.inference[0].conf: unknown key; did you mean config?"),
        ("providers: {inference: [{provider_id: a}]}\n", "inference[0].provider_type: this key is missing"),
        ("providers: {inference: {}}\n", "providers.inference: has to be a list."),
        ("models: [{model_id: m, provider_id: x}]\n", "models[0].provider_id: no such provider instance; none"),
        ("api_keys: ['']\n", "api_keys[0]: must not be empty."),
        ("api_keys: [{key: k, tenan: t}]\n", "api_keys[0].tenan: unknown key; did you mean tenant?"),
        ("turns: {lease_s: 1}\nturns: {lease_s: 2}\n", "line 2: turns: this key stands twice; remove one."),
        ("- a\n", "the top level has to be a mapping"),
        ("1: a\n", "line 1: a key has to be text"),
        ("turns: &t [*t]\n", "an alias points back to what contains it"),
        ("turns: 2024-13-45\n", "line 1: turns: this looks like a date or a number and is none; quote it."),
        ("a: \x07\n", "line 1: a control character stands here"),
    ],
)
def test_a_mistake_is_named_with_its_place_and_fix(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in refusal(tmp_path, text)


def test_every_mistake_is_named_at_once(tmp_path: Path) -> None:
    message = refusal(tmp_path, "turns:\n  lease_s: x\nlimits:\n  messages: y\n")
    assert message.splitlines() == [
        "turnstone.yaml, line 2: turns.lease_s: has to be a number.",
        "turnstone.yaml, line 4: limits.messages: has to be a whole number.",
    ]


def test_a_syntax_error_gives_line_and_column(tmp_path: Path) -> None:
    message = refusal(tmp_path, f"turns:\n  lease_s: 3\n bad: [{SECRET}\n")
    assert "turnstone.yaml, line 3, column 2: not valid YAML" in message


def test_a_reference_that_flow_style_cannot_hold_gets_the_hint_to_quote_it(tmp_path: Path) -> None:
    message = refusal(tmp_path, "providers:\n  inference: [{provider_id: a, config: {url: ${env.X}}}]\n")
    assert "line 2" in message
    assert "in quotes" in message


@pytest.mark.parametrize("line", [f"api_key: *{SECRET}", f"api_key: !{SECRET} x", f'api_key: "\\{SECRET}'])
def test_a_syntax_error_does_not_quote_a_credential(tmp_path: Path, line: str) -> None:
    assert "not valid YAML" in refusal(tmp_path, f"{line}\n")


def test_a_wrong_value_is_not_quoted(tmp_path: Path) -> None:
    assert "has to be" in refusal(tmp_path, "turns: {lease_s: '${env.KEY}'}\n", KEY=SECRET)


def test_a_provider_id_stands_once_over_all_apis(tmp_path: Path) -> None:
    text = (
        "providers:\n  inference:\n    - {provider_id: a, provider_type: t}\n"
        "  safety:\n    - {provider_id: a, provider_type: t}\n"
    )
    assert refusal(tmp_path, text) == (
        "turnstone.yaml, line 5: providers.safety[0].provider_id: 'a' is taken already "
        "(turnstone.yaml, line 3: providers.inference[0].provider_id); choose another."
    )


def test_a_provider_id_has_no_slash_because_it_pins_models(tmp_path: Path) -> None:
    text = "providers: {inference: [{provider_id: a/b, provider_type: t}]}\n"
    assert "providers.inference[0].provider_id: use letters, digits" in refusal(tmp_path, text)


def test_merged_mappings_work(tmp_path: Path) -> None:
    text = (
        "providers:\n  inference:\n    - &a {provider_id: a, provider_type: t, config: {url: u}}\n"
        "    - {<<: *a, provider_id: b}\n"
    )
    config = load(write(tmp_path, text), {})
    assert [entry.config["url"] for entry in config.providers.inference] == ["u", "u"]


def test_a_file_that_is_missing_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.yaml cannot be read: No such file"):
        load(tmp_path / "gone.yaml", {})
    path = tmp_path / "turnstone.yaml"
    path.write_bytes(b"turns: {}\n# \xff\n")
    with pytest.raises(ConfigError, match="line 2: not UTF-8"):
        load(path, {})


def default(**environ: str) -> RunConfig:
    return load(None, environ)


def test_without_a_file_there_is_the_scripted_model() -> None:
    config = default()
    assert [entry.provider_type for entry in config.providers.inference] == ["inline::scripted"]
    assert (config.digest, load_front(None, {}).digest) == ("default", "default")


@pytest.mark.parametrize(
    ("environ", "provider_id", "url"),
    [
        ({"OPENAI_API_KEY": SECRET}, "openai", "https://api.openai.com/v1"),
        ({"OPENAI_BASE_URL": "http://gw/openai/v1/"}, "openai", "http://gw/openai/v1"),
        ({"OLLAMA_HOST": "0.0.0.0"}, "ollama", "http://127.0.0.1:11434/v1"),
        ({"OLLAMA_HOST": "gpu-1:8080"}, "ollama", "http://gpu-1:8080/v1"),
        ({"OLLAMA_HOST": "[::1]:8080"}, "ollama", "http://[::1]:8080/v1"),
        ({"OLLAMA_HOST": "https://ollama.example"}, "ollama", "https://ollama.example/v1"),
        ({"VLLM_URL": "http://gpu:8000/v1", "VLLM_API_TOKEN": SECRET}, "vllm", "http://gpu:8000/v1"),
        ({"TGI_URL": "http://gpu:8080"}, "tgi", "http://gpu:8080/v1"),
        ({"GROQ_API_KEY": SECRET}, "groq", "https://api.groq.com/openai/v1"),
    ],
)
def test_without_a_file_the_environment_adds_services(environ: dict[str, str], provider_id: str, url: str) -> None:
    config = default(**environ)
    added = config.providers.inference[1]
    kind = f"remote::{provider_id}" if provider_id in ("ollama", "vllm", "tgi") else "remote::openai"
    assert (added.provider_id, added.provider_type, added.config["url"]) == (provider_id, kind, url)
    assert ("api_key" in added.config) == (SECRET in environ.values())
    assert SECRET not in repr(config)


@pytest.mark.parametrize("address", ["http://", "gpu:port"])
def test_an_address_in_the_environment_that_is_none_is_named(address: str) -> None:
    with pytest.raises(ConfigError, match="VLLM_URL is no address"):
        default(VLLM_URL=address)
