"""Logs: ids of turn and request on every line, text for people, JSON for collectors, and nothing secret in either."""

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import gevent
import pytest
from pydantic import BaseModel, ValidationError

from shared import logs
from shared.runconfig.secrets import protect, secret_values
from shared.settings import LogSettings


class Log:
    """A logger of a test's own, with what it wrote."""

    def __init__(self, line: logging.Formatter) -> None:
        self.stream = io.StringIO()
        handler = logging.StreamHandler(self.stream)
        handler.setFormatter(line)
        self.logger = logging.Logger("worker.test")
        self.logger.addHandler(handler)

    @property
    def lines(self) -> list[str]:
        return self.stream.getvalue().splitlines()


@pytest.fixture
def text() -> Log:
    return Log(logs.TextLine())


@pytest.fixture
def as_json() -> Log:
    return Log(logs.JsonLine())


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    """No secrets of this test, and no ids of one before it."""
    logs.bind(request=None, turn=None)
    yield
    logs._secrets.clear()


def test_a_line_for_people_has_time_level_logger_message_and_pairs(text: Log) -> None:
    text.logger.info("turn ended", extra=logs.fields(status="failed", duration_s=1.23456, error_code=None, why="a b"))

    time, rest = text.lines[0].split(" ", 1)
    assert time.endswith("Z") and time[10] == "T"
    assert rest == 'INFO worker.test: turn ended status=failed duration_s=1.235 why="a b"'


def test_a_line_for_collectors_is_an_object(as_json: Log) -> None:
    with logs.bound(turn="turn_01_a"):
        as_json.logger.warning("three %s", "words", extra=logs.fields(steps=3))

    line = json.loads(as_json.lines[0])
    assert line.pop("time")
    assert line == {
        "level": "WARNING",
        "logger": "worker.test",
        "message": "three words",
        "steps": 3,
        "turn": "turn_01_a",
    }


def test_each_greenlet_has_ids_of_its_own(text: Log) -> None:
    def turn(name: str) -> None:
        with logs.bound(turn=name):
            gevent.sleep(0)
            text.logger.info("said in %s", name)

    gevent.joinall([gevent.spawn(turn, f"turn-{number}") for number in range(20)], raise_error=True)
    text.logger.info("said outside")

    assert len(text.lines) == 21
    assert all(
        line.endswith(f"said in {line.rpartition('=')[2]} turn={line.rpartition('=')[2]}") for line in text.lines[:20]
    )
    assert text.lines[20].endswith("said outside")


def test_a_bound_id_ends_with_its_block_and_one_that_is_none_goes(text: Log) -> None:
    logs.bind(request="r1")
    with logs.bound(turn="t1"):
        text.logger.info("in")
    text.logger.info("after")
    logs.bind(request=None)
    text.logger.info("end")

    assert [line.partition("worker.test: ")[2] for line in text.lines] == [
        "in request=r1 turn=t1",
        "after request=r1",
        "end",
    ]


def test_what_is_quoted_from_outside_makes_no_line_of_its_own(text: Log) -> None:
    text.logger.info("no such path: %s", "/a\n2026-01-01 CRITICAL all is lost\x1b[2J")

    assert len(text.lines) == 1
    assert "\\n2026" in text.lines[0] and "\\x1b" in text.lines[0]


@pytest.mark.parametrize("line", [logs.TextLine(), logs.JsonLine()])
def test_a_concealed_value_is_never_written(line: logging.Formatter) -> None:
    log = Log(line)
    secret = "hidden-" + "key"
    logs.conceal([secret, "abc"])
    try:
        raise ValueError(f"refused {secret}")
    except ValueError:
        log.logger.exception("with %s, abc", secret, extra=logs.fields(key=secret))

    written = log.stream.getvalue()
    assert secret not in written
    assert written.count(logs.MASK) == 3
    assert "abc" in written, "what is that short is a word"


def test_a_traceback_does_not_quote_what_a_user_wrote(text: Log) -> None:
    class Model(BaseModel):
        count: int

    said = "dear " + "diary"
    try:
        Model.model_validate({"count": said})
    except ValidationError:
        text.logger.exception("unexpected fault")

    assert "ValidationError" in text.stream.getvalue()
    assert said not in text.stream.getvalue()


def test_libraries_log_from_warning_on_whatever_level_is_asked_for() -> None:
    config = logs.as_dict(LogSettings(level="DEBUG", format="json"))

    assert config["root"]["level"] == logging.WARNING
    assert {name: config["loggers"][name]["level"] for name in logs.OWN} == dict.fromkeys(logs.OWN, "DEBUG")
    assert config["loggers"][logs.SERVER]["level"] == logging.INFO


def test_a_process_that_nobody_catches_says_so_in_the_same_form() -> None:
    program = (
        "from shared import logs; from shared.settings import LogSettings;"
        "logs.configure(LogSettings(format='json')); import warnings; warnings.warn('old');"
        "raise RuntimeError('it broke')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)

    warned, ended = [json.loads(line) for line in done.stderr.splitlines()]
    assert warned["logger"] == "py.warnings" and "old" in warned["message"]
    assert ended["level"] == "CRITICAL" and "RuntimeError: it broke" in ended["exception"]
    assert done.returncode == 1


def test_the_credentials_of_run_config_and_settings_are_what_is_concealed() -> None:
    config = protect({"url": "http://user:url-pass@host", "api_key": "key-1", "headers": {"X-Key": "Bearer key-2"}})

    found = set(secret_values([config, "redis://:store-pass@host/0", "redis://host/0"]))

    assert found == {"url-pass", "key-1", "Bearer key-2", "key-2", "store-pass"}
