"""Idempotency keys of the routes that create: the same key and body give the same resource.

Format: draft-ietf-httpapi-idempotency-key-header. A turn's key is kept by the log itself, in the script that accepts
the turn; here are those of agents and sessions.
"""

from collections.abc import Callable
from hashlib import sha256
from typing import cast

import orjson
from redis import Redis

from shared.errors import Conflict, InvalidRequest
from shared.events import Json
from shared.log.keys import Keys
from shared.redis_client import translated

CREATING_S = 30
KEPT_S = 86_400


def digest_of(body: Json, *, without: str = "") -> str:
    """Names a body, whatever the order of its keys and its white space. The member `without` does not count."""
    counted = {key: value for key, value in body.items() if key != without}
    return sha256(orjson.dumps(counted, option=orjson.OPT_SORT_KEYS)).hexdigest()


def key_reused() -> InvalidRequest:
    return InvalidRequest(
        "This Idempotency-Key came with another body before. Use a new key for a new request.",
        param="Idempotency-Key",
        code="idempotency_key_reused",
    )


class Idempotency:
    """Runs a creation once per key, tenant and route. Raises StoreError where the store cannot be reached."""

    def __init__(self, *, client: Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    def once(
        self, create: Callable[[], Json], *, tenant: str, route: str, key: str | None, digest: str
    ) -> tuple[Json, bool]:
        """What `create` returns, and whether it is from an earlier request.

        Raises InvalidRequest where the key came with another body, Conflict while the first request is at work.
        """
        if key is None:
            return create(), False
        name = self._keys.idempotency(tenant, route, key)
        if not self._begin(name, digest):
            return self._earlier(name, digest), True
        try:
            result = create()
        except Exception:
            self._forget(name)  # nothing was created: the client may try again at once
            raise
        self._keep(name, digest, result)
        return result, False

    def _begin(self, name: str, digest: str) -> bool:
        with translated():
            return bool(self._client.set(name, orjson.dumps({"digest": digest}), nx=True, ex=CREATING_S))

    def _earlier(self, name: str, digest: str) -> Json:
        with translated():
            raw = cast(bytes | None, self._client.get(name))
        record: Json = {"digest": digest} if raw is None else orjson.loads(raw)
        if record["digest"] != digest:
            raise key_reused()
        if "result" not in record:
            message = "A request with this Idempotency-Key is being worked on. Try again in a second."
            raise Conflict(message, code="idempotency_key_in_use", lasting=False)
        result: Json = record["result"]
        return result

    def _keep(self, name: str, digest: str, result: Json) -> None:
        with translated():
            self._client.set(name, orjson.dumps({"digest": digest, "result": result}), ex=KEPT_S)

    def _forget(self, name: str) -> None:
        with translated():
            self._client.delete(name)
