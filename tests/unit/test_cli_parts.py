"""What the command line decides by itself, without a process."""

import io
from pathlib import Path

import pytest

from shared.cli import binaries
from shared.cli.binaries import find_binary, is_recent
from shared.cli.console import Console
from shared.cli.main import main
from shared.cli.stack import API_GRACE_S, STORE_GRACE_S, WORKER_GRACE_S
from shared.cli.store import LONGEST_SOCKET_PATH, make_private, server_version, socket_path
from shared.cli.supervisor import restart_delay
from shared.cli.watchdog import read_groups
from shared.errors import ConfigError


def fake_server(folder: Path, *, name: str, version_line: str) -> None:
    """A program on PATH that says what a server of some version says."""
    program = folder / name
    program.write_text(f"#!/bin/sh\necho '{version_line}'\n")
    program.chmod(0o755)


@pytest.fixture
def only_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No embedded store, and a PATH of one empty folder."""
    monkeypatch.setattr(binaries, "embedded_binary", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_the_first_restart_is_at_once_and_later_ones_wait_up_to_ten_seconds() -> None:
    assert [restart_delay(deaths) for deaths in range(1, 9)] == [0, 0.5, 1, 2, 4, 8, 10, 10]
    assert restart_delay(10_000) == 10


def test_the_time_that_a_stop_may_take_adds_up_to_less_than_ten_seconds() -> None:
    assert STORE_GRACE_S + WORKER_GRACE_S + API_GRACE_S < 10


def test_the_watchdog_knows_the_groups_that_were_added_and_not_taken_off() -> None:
    assert read_groups(["+ 10 1\n", "+ 11 0\n", "+ 12 0\n", "- 11\n"]) == {10: True, 12: False}


@pytest.mark.parametrize(
    ("version", "recent"),
    [("7.0.15", False), ("7.2.0", True), ("9.1.2", True), ("6.2", False), ("10", True), ("0", False)],
)
def test_a_server_is_recent_from_7_2_on(version: str, recent: bool) -> None:
    assert is_recent(version) is recent


def test_a_valkey_is_judged_by_its_own_version_and_not_by_the_redis_it_resembles() -> None:
    assert server_version({"redis_version": "7.2.4", "valkey_version": "9.1.2"}) == ("Valkey", "9.1.2")


def test_an_old_server_on_path_is_refused_with_the_reason(only_path: Path) -> None:
    fake_server(only_path, name="redis-server", version_line="Redis server v=7.0.15 sha=0 bits=64")

    with pytest.raises(ConfigError) as caught:
        find_binary()

    assert "Redis 7.0.15, and 7.2 or later is needed" in caught.value.message
    assert "pip install 'turnstone[embedded]'" in caught.value.message


def test_a_recent_server_on_path_is_taken_where_there_is_no_embedded_one(only_path: Path) -> None:
    fake_server(only_path, name="redis-server", version_line="Redis server v=7.0.15 sha=0 bits=64")
    fake_server(only_path, name="valkey-server", version_line="Valkey server v=8.0.1 sha=0 bits=64")

    binary = find_binary()

    assert (binary.name, binary.version, binary.origin) == ("Valkey", "8.0.1", "on PATH")


def test_a_server_that_cannot_be_run_is_an_error_that_names_it(only_path: Path) -> None:
    program = only_path / "redis-server"
    program.write_bytes(b"\x7fELF")
    program.chmod(0o755)

    with pytest.raises(ConfigError, match=f"{program} cannot be run"):
        find_binary()


def test_no_server_at_all_is_an_error_that_says_what_to_install(only_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither valkey-server nor redis-server is on PATH"):
        find_binary()


def test_the_socket_lies_with_the_data_or_in_a_short_folder_where_that_is_too_long() -> None:
    deep = Path("/") / ("d" * LONGEST_SOCKET_PATH)

    assert socket_path(Path("/data")) == Path("/data/store.sock")
    assert len(str(socket_path(deep))) <= LONGEST_SOCKET_PATH
    assert socket_path(deep) != socket_path(deep / "other")


def test_a_data_folder_is_for_its_user_alone(tmp_path: Path) -> None:
    make_private(tmp_path / "a" / "b")

    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700


def test_a_link_is_no_data_folder(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)

    with pytest.raises(ConfigError, match="not a folder of this user"):
        make_private(tmp_path / "link")


def test_lines_carry_the_name_of_their_process_without_colour_off_a_terminal() -> None:
    stream = io.StringIO()

    Console(stream).line("api", "hello")

    assert stream.getvalue() == "api       | hello\n"


def test_a_sign_that_the_terminal_cannot_show_is_written_as_its_number() -> None:
    binary = io.BytesIO()
    console = Console(io.TextIOWrapper(binary, encoding="ascii"))

    console.line("api", "caf\u00e9")

    assert binary.getvalue() == b"api       | caf\\xe9\n"


def test_output_that_nobody_reads_any_more_is_no_error() -> None:
    stream = io.StringIO()
    console = Console(stream)
    stream.close()

    console.say("hello")


def test_a_worker_without_a_store_says_which_variable_to_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TURNSTONE_REDIS_URL", raising=False)

    assert main(["worker"]) == 2
    assert "TURNSTONE_REDIS_URL is not set" in capsys.readouterr().err
