"""Turns what goes wrong between us and an OpenAI-compatible server into errors that say what to do."""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import httpcore
import orjson

from shared.errors import ProviderError
from worker.providers.retry import parse_retry_after

MAX_EXCERPT_CHARS = 300
# 409 is what OpenAI answers to a lock that timed out, 424 what TGI does when its generation failed.
RETRYABLE_STATUS = frozenset({408, 409, 424, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529})

_KEY_LIKE = re.compile(r"\b(sk|pk|hf|gsk|xai|nvapi|key)[-_][A-Za-z0-9*_.-]{6,}|\b(Bearer|Basic)\s+\S+", re.IGNORECASE)
_TAG = re.compile(r"<(style|script)\b.*?</\1>|<[^>]*>", re.DOTALL | re.IGNORECASE)
_NO_SUCH_MODEL = re.compile(r"model.{0,200}(not found|not exist|unknown|invalid|not available|no such)", re.I | re.S)


class Faults:
    """Words the errors of one provider instance. No message holds one of `secrets` or anything like a key."""

    def __init__(self, *, provider_id: str, url: str, secrets: Iterable[str]) -> None:
        self._provider_id = provider_id
        self._host = urlsplit(url).netloc
        # Short ones would blot out ordinary words, and no real credential is that short.
        self._secrets = sorted((secret for secret in secrets if len(secret) > 3), key=len, reverse=True)

    def error(self, code: str, problem: str, **facts: Any) -> ProviderError:
        """`problem` continues the sentence that begins with the provider's name."""
        message = f"Provider '{self._provider_id}' {problem}"
        return ProviderError(message, provider_id=self._provider_id, code=code, **facts)

    def excerpt(self, text: str) -> str:
        """A short piece of what the server said, without credentials."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        text = " ".join(_KEY_LIKE.sub("***", _TAG.sub(" ", text)).split())
        return text if len(text) <= MAX_EXCERPT_CHARS else text[:MAX_EXCERPT_CHARS].rstrip() + "…"

    def refused(
        self, status: int, headers: Mapping[str, str], body: bytes, *, model: str | None = None
    ) -> ProviderError:
        """The error for a response with another status than 200."""
        said = self._said(body)
        after = parse_retry_after(headers.get("retry-after"), datetime.now(UTC))
        if status in (401, 403):
            what = "does not accept the credentials" if status == 401 else "does not allow this request"
            problem = f"{what} ({status}): check `api_key` of provider '{self._provider_id}'.{said}"
            return self.error("provider_auth", problem, status=status)
        if status == 429:
            lasting = b"insufficient_quota" in body
            todo = "its quota is used up" if lasting else "lower the load, or try again later"
            problem = f"limits its rate (429): {todo}.{said}"
            facts = {"status": 429, "retryable": not lasting, "retry_after": after}
            return self.error("provider_rate_limited", problem, **facts)
        if model is not None and status in (400, 404, 422) and _NO_SUCH_MODEL.search(said):
            problem = f"does not know the model '{model}' ({status}): GET /v1/models lists what is served.{said}"
            return self.error("model_not_found", problem, status=status)
        if status in RETRYABLE_STATUS or status >= 500:
            retryable = status in RETRYABLE_STATUS and headers.get("x-should-retry") != "false"
            problem = f"failed ({status}): look into the log of the server at {self._host}.{said}"
            return self.error("provider_error", problem, status=status, retryable=retryable, retry_after=after)
        return self._refused_otherwise(status, said)

    def _refused_otherwise(self, status: int, said: str) -> ProviderError:
        if status == 404:
            problem = f"has no such route (404): check that `url` ends where its routes begin, mostly /v1.{said}"
        elif 300 <= status < 400:
            problem = f"redirects ({status}): set `url` to the address that it redirects to.{said}"
        else:
            problem = f"refuses the request ({status}).{said}"
        return self.error("provider_bad_request", problem, status=status)

    def in_stream(self, error: Any) -> ProviderError:
        """The error that a server reports inside a stream that it began with 200."""
        detail = error if isinstance(error, dict) else {"message": error}
        code = detail.get("code")
        status = code if isinstance(code, int) and 100 <= code < 600 else None
        said = self._said(orjson.dumps({"error": detail}))
        if status in (401, 403, 429):
            return self.refused(status, {}, orjson.dumps({"error": detail}))
        retryable = status is None or status in RETRYABLE_STATUS
        return self.error(
            "provider_error", f"broke off its answer with an error.{said}", status=status, retryable=retryable
        )

    def bad_response(self, what: str, sample: bytes = b"") -> ProviderError:
        """The error for an answer that is not what an OpenAI-compatible server sends."""
        text = self.excerpt(sample[:2_000].decode("utf-8", "replace"))
        said = f" It sent: {text}" if text else ""
        problem = f"answered with {what}: is the server at {self._host} OpenAI-compatible, and `url` right?{said}"
        return self.error("provider_bad_response", problem)

    def interrupted(self) -> ProviderError:
        """The error for a connection that ended before the answer did."""
        problem = f"cut the connection in the middle of its answer: look into the log of the server at {self._host}."
        return self.error("provider_interrupted", problem, retryable=True)

    def transport(self, error: Exception, *, waited: str) -> ProviderError:
        """The error for what httpcore raised. `waited` says for what and how long at a read timeout."""
        if isinstance(error, httpcore.ReadTimeout):
            return self.error("provider_timeout", f"sent {waited}.", retryable=True)
        if isinstance(error, httpcore.ConnectTimeout):
            problem = f"cannot be reached: no connection to {self._host} in time. Check `url` and the network."
            return self.error("provider_unreachable", problem, retryable=True)
        if isinstance(error, httpcore.ConnectError):
            return self._no_connection(error)
        if isinstance(error, httpcore.PoolTimeout):
            problem = "has all its connections in use: raise `max_connections`, or run fewer turns at once."
            return self.error("provider_timeout", problem, retryable=True)
        if isinstance(error, httpcore.WriteTimeout):
            return self.error("provider_timeout", "does not read the request.", retryable=True)
        if isinstance(error, httpcore.RemoteProtocolError) and "isconnected" not in str(error):
            if "peer closed" not in str(error):
                return self.bad_response("something that is not HTTP")
        if isinstance(error, httpcore.LocalProtocolError):
            return self.error("provider_bad_request", "cannot be sent this request: it is not valid HTTP.")
        return self.interrupted()

    def _no_connection(self, error: httpcore.ConnectError) -> ProviderError:
        text = str(error)
        if "CERTIFICATE" in text or "SSL" in text:
            todo = f"TLS failed at {self._host}. Check `url` (http or https) and `tls_verify`."
        elif "refused" in text:
            todo = f"connection refused. Is the server running at {self._host}?"
        else:
            todo = f"no connection to {self._host}. Check the host name in `url` and the network."
        return self.error("provider_unreachable", f"cannot be reached: {todo}", retryable=True)

    def _said(self, body: bytes) -> str:
        text = self.excerpt(_message(body))
        return f" It said: {text}" if text else ""


def _message(body: bytes) -> str:
    """The message in an error body of the kinds that servers send, or all of its text."""
    text = body.decode("utf-8", "replace")
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError:
        return text
    if isinstance(data, list) and data:
        data = data[0]
    for key in ("error", "message", "detail"):
        if isinstance(data, dict) and data.get(key):
            data = data[key]
    return data if isinstance(data, str) else orjson.dumps(data).decode()
