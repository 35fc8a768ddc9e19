"""gunicorn's log, without a line for each request: those are ours (api.metrics)."""

from typing import Any

from gunicorn.glogging import Logger


class ErrorLog(Logger):  # type: ignore[misc]
    """Says nothing of requests. gunicorn would put each line together before it finds that nobody wants it."""

    def access(self, *request: Any) -> None:
        pass
