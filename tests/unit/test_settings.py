"""The environment, read once: defaults, mistakes that name their fix, and URLs fit to be shown."""

from pathlib import Path

import pytest

from shared.errors import ConfigError
from shared.settings import Settings, kombu_url, masked_url

STORE = {"TURNSTONE_REDIS_URL": "redis://store:6379/0"}


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_environment_with_only_a_store_gives_the_defaults() -> None:
    settings = Settings.from_env(STORE)

    assert settings == Settings(redis_url="redis://store:6379/0", broker_url="redis://store:6379/0")
    assert (settings.host, settings.port, settings.key_prefix) == ("127.0.0.1", 8321, "ts")
    assert (settings.concurrency, settings.config_path) == (1000, None)


def test_settings_survive_the_way_through_the_environment(empty_folder: Path) -> None:
    config = empty_folder / "run.yaml"
    config.touch()
    settings = Settings(
        redis_url="unix:///tmp/s.sock",
        broker_url="amqp://broker//",
        config_path=config.resolve(),
        host="::1",
        port=1,
        api_processes=2,
        workers=3,
        concurrency=4,
        key_prefix="p:",
        log_level="DEBUG",
        log_format="json",
        metrics_host="0.0.0.0",
        metrics_port=9000,
    )

    assert Settings.from_env(settings.as_environ()) == settings


def test_an_empty_variable_counts_as_one_that_is_not_set() -> None:
    assert Settings.from_env({**STORE, "TURNSTONE_PORT": "", "TURNSTONE_CONFIG": ""}).port == 8321


def test_a_missing_store_is_an_error_that_names_the_variable() -> None:
    with pytest.raises(ConfigError, match="TURNSTONE_REDIS_URL is not set"):
        Settings.from_env({})


def test_a_missing_store_is_fine_for_who_starts_one() -> None:
    settings = Settings.from_env({}, require_store=False)

    assert (settings.redis_url, settings.broker_url) == ("", "")


def test_a_config_file_in_the_working_folder_is_found(empty_folder: Path) -> None:
    (empty_folder / "turnstone.yaml").touch()

    assert Settings.from_env(STORE).config_path == (empty_folder / "turnstone.yaml").resolve()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("TURNSTONE_PORT", "0", "from 1 to 65535"),
        ("TURNSTONE_PORT", "65536", "from 1 to 65535"),
        ("TURNSTONE_PORT", "-1", "from 1 to 65535"),
        ("TURNSTONE_PORT", "http", "'http'"),
        ("TURNSTONE_PORT", "٣", "from 1 to 65535"),
        ("TURNSTONE_API_PROCESSES", "0", "from 1 up"),
        ("TURNSTONE_WORKERS", "two", "from 1 up"),
        ("TURNSTONE_CONCURRENCY", "1.5", "from 1 up"),
        ("TURNSTONE_LOG_LEVEL", "loud", "DEBUG, INFO"),
        ("TURNSTONE_LOG", "xml", "text, json"),
        ("TURNSTONE_METRICS_PORT", "-1", "from 0 to 65535"),
        ("TURNSTONE_DRAIN_S", "soon", "from 0 up"),
        ("TURNSTONE_KEY_PREFIX", "{s1}", "no braces"),
        ("TURNSTONE_CONFIG", "nowhere.yaml", "no such file"),
        ("TURNSTONE_REDIS_URL", "http://store", "redis://, rediss:// or unix://"),
    ],
)
def test_a_bad_value_is_an_error_that_names_variable_and_fix(name: str, value: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.from_env({**STORE, name: value})

    assert name in caught.value.message
    assert words in caught.value.message


def test_a_bad_store_url_is_shown_without_its_password() -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.from_env({"TURNSTONE_REDIS_URL": "http://user:hidden@store"})

    assert "hidden" not in caught.value.message


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://u:p@h:1/2", "redis://u:p@h:1/2"),
        ("rediss://h?ssl_cert_reqs=none", "rediss://h?ssl_cert_reqs=none"),
        ("unix:///run/s.sock", "redis+socket:///run/s.sock"),
        ("unix://u:p@/run/s.sock?db=2", "redis+socket://u:p@/run/s.sock?virtual_host=2"),
        ("", ""),
    ],
)
def test_a_store_url_becomes_the_broker_url_of_the_same_server(url: str, expected: str) -> None:
    assert kombu_url(url) == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://:hidden@h:1/0", "redis://:***@h:1/0"),
        ("redis://user:hidden@h", "redis://user:***@h"),
        ("redis://:hid/den@h/0", "redis://:***@h/0"),
        ("redis://h/0?db=1&password=hid@den&x=1", "redis://h/0?db=1&password=***&x=1"),
        ("unix:///run/a@b.sock", "unix:///run/a@b.sock"),
        ("redis://h:1/0", "redis://h:1/0"),
        ("no url", "no url"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, expected: str) -> None:
    assert masked_url(url) == expected
