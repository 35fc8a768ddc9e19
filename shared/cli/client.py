"""Talks to the API as any client would: over HTTP, with errors that a person can act on."""

import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import httpx

from shared.errors import ApiRefused, ApiUnreachable
from shared.events import Json
from shared.settings import ClientSettings, masked_url

TIMEOUT_S = 30.0
# The API writes a heartbeat every fifteen seconds; a stream silent for three of them is cut somewhere.
SILENCE_S = 45.0
ATTEMPTS = 3
RETRY_S = 0.5
NOT_READY = frozenset({502, 503, 504})
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

_LISTING = re.compile(
    r"GET /v1/(?:(models|agents|turns)|agents/([^/ {]+)/(sessions)|agents/([^/ {]+)/session/([^/ {]+)) lists"
)


class ApiClient:
    """Requests below `/v1`. Paths begin with a slash.

    Every method raises ApiUnreachable where there is no answer or the API is not ready, ApiRefused where it
    answers with a problem.
    """

    def __init__(self, *, settings: ClientSettings, http: httpx.Client | None = None) -> None:
        self._settings = settings
        self._owned = http is None
        self._http = http or httpx.Client(
            timeout=TIMEOUT_S,
            # A proxy for the way out must not catch what stays on this machine.
            trust_env=urlsplit(settings.url).hostname not in _LOOPBACK,
        )
        self._headers = {"Accept": "application/json"}
        if settings.api_key is not None:
            self._headers["Authorization"] = f"Bearer {settings.api_key}"

    def __enter__(self) -> "ApiClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._owned:
            self._http.close()

    def get(self, path: str, **params: Any) -> Json:
        """The body of a GET. Parameters that are None are left out."""
        return self._json(self._send("GET", path, params={k: v for k, v in params.items() if v is not None}))

    def post(self, path: str, body: Json | None = None, *, key: str | None = None) -> Json:
        """The body of a POST's answer. With an idempotency key it is repeated where the connection breaks."""
        attempts = ATTEMPTS if key is not None else 1
        for attempt in range(1, attempts + 1):
            try:
                return self._json(self._send("POST", path, json=body, key=key))
            except _Broken:
                if attempt == attempts:
                    raise
                time.sleep(RETRY_S)
        raise AssertionError("not reached")

    @contextmanager
    def stream(self, path: str, *, last_id: str | None) -> Iterator[Iterator[bytes] | None]:
        """The bytes of an event stream, from the event after `last_id` on; None where there is nothing after it."""
        headers = {**self._headers, "Accept": "text/event-stream"}
        if last_id is not None:
            headers["Last-Event-ID"] = last_id
        timeout = httpx.Timeout(TIMEOUT_S, read=SILENCE_S)
        with (
            self._translated(),
            self._http.stream("GET", self._url(path), headers=headers, timeout=timeout) as reply,
        ):
            if reply.status_code == 204:
                yield None
                return
            if not reply.is_success:
                reply.read()
                raise self._problem(reply)
            if not reply.headers.get("content-type", "").startswith("text/event-stream"):
                raise self._no_api(reply)
            yield reply.iter_bytes()

    def _send(
        self, method: str, path: str, *, params: Json | None = None, json: Json | None = None, key: str | None = None
    ) -> httpx.Response:
        headers = self._headers if key is None else {**self._headers, "Idempotency-Key": key}
        with self._translated():
            return self._http.request(method, self._url(path), params=params, json=json, headers=headers)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectError as error:
            raise ApiUnreachable(
                f"Cannot reach {self._shown()}: {_reason(error)}. Start it with 'turnstone dev' (in a checkout: "
                "make run), or name another address with --url or TURNSTONE_URL."
            ) from error
        except httpx.TimeoutException as error:
            raise _Broken(f"{self._shown()} does not answer in time. Is it overloaded, or stopped?") from error
        except httpx.TransportError as error:
            raise _Broken(f"The connection to {self._shown()} broke: {_reason(error)}.") from error

    def _json(self, reply: httpx.Response) -> Json:
        if not reply.is_success:
            raise self._problem(reply)
        try:
            body = reply.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise self._no_api(reply)
        return body

    def _problem(self, reply: httpx.Response) -> ApiRefused | ApiUnreachable:
        """The error in an answer, in one line with what to do."""
        try:
            body = reply.json()
        except ValueError:
            body = None
        if not isinstance(body, dict) or not isinstance(body.get("detail"), str):
            return self._no_api(reply)
        error = body.get("error")
        code, param = (error.get("code"), error.get("param")) if isinstance(error, dict) else (None, None)
        message = " ".join(body["detail"].split())
        if param and param not in message:
            message = f"{param}: {message}"
        message = " ".join(filter(None, (message, _hint(reply, message))))
        if reply.status_code in NOT_READY:
            return ApiUnreachable(message)
        return ApiRefused(message, status=reply.status_code, code=code)

    def _no_api(self, reply: httpx.Response) -> ApiRefused | ApiUnreachable:
        status = f"{reply.status_code} {reply.reason_phrase}".strip()
        message = f"{self._shown()} answers {status}, but not as Turnstone does. Is --url or TURNSTONE_URL its address?"
        if reply.status_code in NOT_READY:
            return ApiUnreachable(message)
        return ApiRefused(message, status=reply.status_code)

    def _url(self, path: str) -> str:
        return f"{self._settings.url}/v1{path}"

    def _shown(self) -> str:
        return masked_url(self._settings.url)


class _Broken(ApiUnreachable):
    """The request may have arrived: it can be repeated where it has an idempotency key."""


def new_key() -> str:
    """An idempotency key, for one request and its repetitions."""
    return f"turnstone-cli-{uuid.uuid4().hex}"


def _hint(reply: httpx.Response, message: str) -> str | None:
    if reply.status_code == 401:
        return "Set TURNSTONE_API_KEY to one of the server's api_keys."
    if reply.status_code == 500 and "X-Request-Id" in reply.headers:
        return f"(X-Request-Id: {reply.headers['X-Request-Id']})"
    match = _LISTING.search(message) if reply.status_code == 404 else None
    return None if match is None else f"Or: turnstone {_listing_command(match)}"


def _listing_command(match: re.Match[str]) -> str:
    """The command that shows what the call in an error lists."""
    listed, agent, sessions, of_agent, session = match.groups()
    if session is not None:
        return f"turns {of_agent} {session}"
    return f"{sessions} {agent}" if sessions is not None else str(listed)


def _reason(error: httpx.TransportError) -> str:
    """The cause in words: httpx passes on what the operating system says, with its number."""
    text = str(error) or type(error).__name__
    return text.rpartition("] ")[2].rstrip(".").lower() if "Errno" in text else text.rstrip(".")
