"""`remote::openai-moderation`: shields that ask OpenAI's moderations, or a server that speaks them."""

import re
import time
from collections.abc import Callable, Sequence
from itertools import count
from typing import Annotated

import httpx
import orjson
from pydantic import AfterValidator

from shared.errors import ProviderError
from shared.runconfig.model import Name
from worker.providers.openai_config import Endpoint
from worker.providers.openai_faults import Faults
from worker.providers.retry import Backoff, is_worth_a_retry
from worker.providers.safety import Json, Shield, Violation
from worker.providers.safety_base import STANDARD_MESSAGE, LimitedSafety, ShieldEntry, ShieldsConfig, each_once
from worker.providers.safety_content import Content, contents

DEFAULT_MODEL = "omni-moderation-latest"
MAX_RETRIES = 2
# What a shield is registered with: it has to be allowed everywhere.
PROBE = "Hello"

_IDENTIFIER = re.compile(r"[A-Za-z0-9_.-]{1,64}")

Input = list[str] | list[Json]


class ModerationShield(ShieldEntry):
    """A shield. `provider_shield_id` is the moderation model where it is not the provider's `model`."""

    provider_shield_id: Name | None = None


class ModerationConfig(ShieldsConfig, Endpoint):
    """Where the moderations are (`url` without /moderations), and the shields that ask them."""

    model: Name = DEFAULT_MODEL
    shields: Annotated[tuple[ModerationShield, ...], AfterValidator(each_once)] = ()


class ModerationSafety(LimitedSafety):
    """Sends the text of all messages and each of their images, and objects to what is flagged."""

    provider_type = "remote::openai-moderation"

    def __init__(
        self, *, provider_id: str, config: ModerationConfig, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        listed = [
            Shield(identifier=shield.shield_id, resource_id=shield.provider_shield_id or config.model)
            for shield in config.shields
        ]
        super().__init__(provider_id=provider_id, shields=listed, timeout_s=config.timeout_s)
        self._sleep = sleep
        self._backoff = Backoff(max_retries=MAX_RETRIES)
        self._faults = Faults(provider_id=provider_id, url=config.url, secrets=config.secrets())
        self._client = _client(config)
        self._url = f"{config.url}/moderations"

    def register_shield(self, shield: Shield) -> Shield:
        # The server knows whether it has the model.
        with self._in_time(shield):
            self._results(shield, [PROBE], until=time.monotonic() + self._timeout_s, quote=True)
        return shield

    def close(self) -> None:
        self._client.close()

    def _look(self, shield: Shield, messages: Sequence[Json]) -> Violation | None:
        until = time.monotonic() + self._timeout_s
        inputs = _inputs(contents(messages, self._unsupported))
        results = [result for asked in inputs for result in self._results(shield, asked, until=until)]
        if not any(result["flagged"] for result in results):
            return None
        named = dict.fromkeys(name for result in results for name, is_so in result["categories"].items() if is_so)
        metadata = {"violation_type": ",".join(named), "categories": list(named)}
        return Violation(user_message=STANDARD_MESSAGE, metadata=metadata)

    def _results(self, shield: Shield, asked: Input, *, until: float, quote: bool = False) -> list[Json]:
        """What the server finds, with retries as far as the time allows.

        `quote` what it says where it refuses; it may quote in turn what it was sent.
        """
        body = orjson.dumps({"model": shield.resource_id, "input": asked})
        for attempt in count():
            try:
                return self._checked(self._post(shield, body, quote=quote), asked)
            except ProviderError as error:
                wait_s = self._backoff.wait_s(attempt, error.retry_after)
                retried = is_worth_a_retry(error) and attempt < self._backoff.max_retries
                if not retried or time.monotonic() + wait_s > until:
                    raise
                self._sleep(wait_s)
        raise AssertionError("unreachable")

    def _post(self, shield: Shield, body: bytes, *, quote: bool) -> bytes:
        try:
            response = self._client.post(self._url, content=body)
        except httpx.TransportError as error:
            cause = error.__cause__
            if isinstance(error, httpx.ReadTimeout):
                raise self._too_slow(shield) from None
            raise self._faults.transport(cause if isinstance(cause, Exception) else error, waited="nothing") from None
        except httpx.HTTPError:
            raise self._faults.bad_response("something that cannot be decoded") from None
        if response.status_code != 200:
            said = response.content if quote else _identifiers(response.content)
            raise self._faults.refused(response.status_code, response.headers, said, model=shield.resource_id)
        return response.content

    def _checked(self, content: bytes, asked: Input) -> list[Json]:
        """The results, each with `flagged` and `categories`: one for each text, or one for an image."""
        try:
            results = orjson.loads(content)["results"]
            found = [{"flagged": one["flagged"], "categories": dict(one.get("categories") or {})} for one in results]
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError):
            raise self._faults.bad_response("something else than moderation results") from None
        if len(found) != len(asked) or not all(isinstance(one["flagged"], bool) for one in found):
            raise self._faults.bad_response("other results than one for each input")
        return found


def _inputs(said: Sequence[Content]) -> list[Input]:
    """What to ask: all texts at once, then each image by itself, because the model takes one at a time."""
    texts: list[str] = [content.text for content in said if content.text]
    images = [image for content in said for image in content.images]
    return [*([texts] if texts else []), *([{"type": "image_url", "image_url": {"url": image}}] for image in images)]


def _identifiers(body: bytes) -> bytes:
    """Of an error body nothing but its code and type."""
    try:
        error = orjson.loads(body)["error"]
        told = [error[key] for key in ("code", "type") if isinstance(error.get(key), str)]
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return b""
    named = ", ".join(text for text in told if _IDENTIFIER.fullmatch(text))
    # In the words by which a model that is missing is known.
    return named.replace("model_not_found", "model not found").encode()


def _client(config: ModerationConfig) -> httpx.Client:
    """A client without proxies or credentials from the environment. Its time for a whole answer is the shield's."""
    headers = {"content-type": "application/json", "accept": "application/json"} | config.request_headers()
    timeout = httpx.Timeout(config.timeout_s, connect=min(config.connect_timeout_s, config.timeout_s), pool=None)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
    return httpx.Client(
        headers=headers, timeout=timeout, limits=limits, verify=config.tls_context() or False, trust_env=False
    )
