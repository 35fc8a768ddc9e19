"""Logs: one format for every process of both rooms, and the ids of the turn and the request that a line belongs to.

The ids are bound once, where a greenlet takes up its work, and the formatter adds them to whatever is logged there.
Our own loggers log from the level that was asked for; those of libraries from WARNING on at the earliest, because on
lower levels some of them write headers and bodies.
"""

import json
import logging
import logging.config
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from shared.settings import LogSettings

OWN = ("api", "worker", "shared")
SERVER = "gunicorn.error"
MASK = "********"
_SHORTEST_SECRET = 6
"""Shorter ones would blank out ordinary words."""

_IDS: ContextVar[Mapping[str, str]] = ContextVar("log_ids", default={})  # noqa: B039 - never changed in place
_secrets: set[str] = set()

# pydantic quotes what it was given, and that may be what a user wrote.
_INPUT_VALUE = re.compile(r"input_value=.*?, input_type=", re.DOTALL)
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), 127) if code not in b"\n\t"} | {ord("\n"): "\\n"}
_PLAIN = re.compile(r"[^\s\"=]+")


def bind(**ids: str | None) -> None:
    """Have every line that this greenlet logs from now on carry `ids`; None takes one away."""
    merged = {**_IDS.get(), **ids}
    _IDS.set({name: value for name, value in merged.items() if value is not None})


@contextmanager
def bound(**ids: str) -> Iterator[None]:
    """Like `bind`, for the length of a block."""
    token = _IDS.set({**_IDS.get(), **ids})
    try:
        yield
    finally:
        _IDS.reset(token)


def fields(**values: object) -> dict[str, Any]:
    """What a line says in a form for machines, for `extra`: `logger.info("turn ended", extra=fields(steps=3))`."""
    return {"fields": {name: value for name, value in values.items() if value is not None}}


def conceal(secrets: Iterable[str]) -> None:
    """Never write these, whoever quotes them."""
    _secrets.update(secret for secret in secrets if len(secret) >= _SHORTEST_SECRET)


def configure(settings: LogSettings) -> None:
    """Log to stderr from now on, also warnings and what nobody has caught."""
    logging.config.dictConfig(as_dict(settings))
    logging.captureWarnings(True)
    sys.excepthook = _uncaught


def as_dict(settings: LogSettings) -> dict[str, Any]:
    """The same for a server that does its logging by `logging.config.dictConfig`."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": _FORMATTERS[settings.format]}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line", "stream": "ext://sys.stderr"}},
        "root": {"level": _at_least(logging.WARNING, settings), "handlers": ["stderr"]},
        "loggers": {
            **{name: {"level": settings.level, "handlers": [], "propagate": True} for name in OWN},
            # Below INFO it writes whole URLs.
            SERVER: {"level": _at_least(logging.INFO, settings), "handlers": [], "propagate": True},
        },
    }


class Line(logging.Formatter):
    """Base of the formats. Whatever a line is made of, concealed values are not in it."""

    def format(self, record: logging.LogRecord) -> str:
        line = self.render(record, {**getattr(record, "fields", {}), **_IDS.get()})
        for secret in _secrets:
            line = line.replace(secret, MASK)
        return line

    def render(self, record: logging.LogRecord, pairs: Mapping[str, object]) -> str:
        raise NotImplementedError

    def time(self, record: logging.LogRecord) -> str:
        """When it happened: UTC, RFC 3339, to the millisecond."""
        text = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        return f"{text.removesuffix('+00:00')}Z"

    def formatException(self, ei: Any) -> str:
        """The traceback, without the values that pydantic quotes."""
        return _INPUT_VALUE.sub("input_value=..., input_type=", super().formatException(ei))

    def trouble(self, record: logging.LogRecord) -> str:
        """The traceback and the stack, where there are any."""
        exception = self.formatException(record.exc_info) if record.exc_info else ""
        stack = self.formatStack(record.stack_info) if record.stack_info else ""
        return "\n".join(text for text in (exception, stack) if text)


class TextLine(Line):
    """For people: `time LEVEL logger: message name=value …`, and a traceback below it."""

    def render(self, record: logging.LogRecord, pairs: Mapping[str, object]) -> str:
        # One line for one record: what is quoted from outside must not look like a line of its own.
        said = "".join([record.getMessage(), *(f" {name}={_text(value)}" for name, value in pairs.items())])
        head = f"{self.time(record)} {record.levelname} {record.name}: {said.translate(_CONTROL)}"
        trouble = self.trouble(record)
        return f"{head}\n{trouble}" if trouble else head


class JsonLine(Line):
    """For collectors: an object per line."""

    def render(self, record: logging.LogRecord, pairs: Mapping[str, object]) -> str:
        line: dict[str, object] = {
            "time": self.time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **pairs,
        }
        if trouble := self.trouble(record):
            line["exception"] = trouble
        return json.dumps(line, default=str)


_FORMATTERS: Mapping[str, type[Line]] = {"text": TextLine, "json": JsonLine}


def _at_least(level: int, settings: LogSettings) -> int:
    return max(level, int(getattr(logging, settings.level)))


def _text(value: object) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
    else:
        logging.getLogger("shared.logs").critical("the process ends", exc_info=(kind, error, trace))
