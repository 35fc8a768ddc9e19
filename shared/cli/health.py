"""Asks the API how it is, from outside, as a client would."""

import http.client
import json
import threading
from collections.abc import Callable
from typing import Any

from shared.settings import Settings

POLL_S = 0.2
IMPATIENT_S = 20.0
TIMEOUT_S = 5.0


def local_host(host: str) -> str:
    """Where to reach, on this machine, a server that listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)


def base_url(settings: Settings) -> str:
    """The API's address for somebody on this machine."""
    host = local_host(settings.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"


def get(settings: Settings, path: str, *, api_key: str | None = None) -> tuple[int, Any]:
    """Status and JSON body of a GET; status 0 and the reason where there is no answer."""
    connection = http.client.HTTPConnection(local_host(settings.host), settings.port, timeout=TIMEOUT_S)
    try:
        key = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        connection.request("GET", path, headers={"Accept": "application/json", **key})
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read() or b"null")
    except (OSError, http.client.HTTPException) as error:
        return 0, str(error)
    except ValueError:
        return reply.status, None
    finally:
        connection.close()


class HealthWatch:
    """Polls GET /v1/health in a thread until it answers 200, then calls `on_healthy` once.

    `on_waiting` is told every twenty seconds what the answer still is.
    """

    def __init__(
        self, settings: Settings, *, on_healthy: Callable[[], None], on_waiting: Callable[[str], None]
    ) -> None:
        self._settings = settings
        self._on_healthy = on_healthy
        self._on_waiting = on_waiting
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "HealthWatch":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopped.set()

    def _watch(self) -> None:
        waited = 0.0
        while True:
            status, body = get(self._settings, "/v1/health")
            if status == 200:
                self._on_healthy()
                return
            if self._stopped.wait(POLL_S):
                return
            waited += POLL_S
            if waited >= IMPATIENT_S:
                waited = 0.0
                self._on_waiting(f"{status} {body}" if status else str(body))
