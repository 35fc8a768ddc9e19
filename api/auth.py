"""Who a request comes from: its API key, and whose data that opens."""

import hmac
from collections.abc import Sequence
from hashlib import sha256

from shared.errors import Unauthorized
from shared.ids import DEFAULT_TENANT
from shared.runconfig import ApiKey

OPEN_PATHS = ("/v1/health", "/v1/health/live", "/openapi")
"""Health for those who watch the service, and its documentation. What lies below `/openapi` is open too."""


class KeyRing:
    """The keys of the run config. Without any, every request works on the default tenant's data.

    Keys are kept as digests: so they are compared in constant time whatever their lengths are.
    """

    def __init__(self, keys: Sequence[ApiKey]) -> None:
        self._tenants = [(_digest(key.key.get_secret_value()), key.tenant) for key in keys]

    def tenant(self, authorization: str | None) -> str:
        """Whose data the `Authorization` header opens. Raises Unauthorized, which quotes nothing of it."""
        if not self._tenants:
            return DEFAULT_TENANT
        scheme, _, given = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not given.strip():
            raise Unauthorized("This service wants an API key: send 'Authorization: Bearer <key>'.", given=False)
        digest, found = _digest(given), None
        for known, tenant in self._tenants:
            # All of them, also after one that fits: the time says nothing about which it was.
            if hmac.compare_digest(known, digest):
                found = tenant
        if found is None:
            raise Unauthorized("This API key opens nothing here: check it, or ask the operator for one.", given=True)
        return found


def is_open(path: str) -> bool:
    """Whether a path needs no key."""
    return path in OPEN_PATHS or path.startswith("/openapi/")


def _digest(key: str) -> bytes:
    return sha256(key.strip().encode()).digest()
