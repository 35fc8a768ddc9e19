"""What a tenant can use, as this process last read it."""

import time
from collections.abc import Callable
from typing import TypeVar

from shared.errors import InvalidRequest, NotFound, Unavailable
from shared.registrations import RegistrationStore, merged
from shared.registry import Registry, RegistryStore

KEPT_S = 1.0
"""Every submit asks for the registry; workers renew it once a minute."""
_TENANTS = 10_000

T = TypeVar("T")


class Served:
    """The registry with a tenant's registrations, read once a second at the most."""

    def __init__(self, *, store: RegistryStore, registrations: RegistrationStore, kept_s: float = KEPT_S) -> None:
        self._store = store
        self._registrations = registrations
        self._kept_s = kept_s
        self._kept: dict[str, tuple[float, Registry]] = {}

    def registry(self, tenant: str, *, fresh: bool = False) -> Registry:
        """What the tenant can use. `fresh`: as it is now. Raises Unavailable where no worker has published yet."""
        kept = self._kept.get(tenant)
        if kept is not None and not fresh and time.monotonic() - kept[0] < self._kept_s:
            return kept[1]
        if kept is not None:
            self._kept[tenant] = (time.monotonic(), kept[1])  # while one request reads it, others make do with this
        listed = self._store.read()
        if listed is None:
            self._kept.pop(tenant, None)
            raise Unavailable(
                "No worker with this run config has reported what its providers serve. Try again when one is up.",
                code="no_workers",
                retry_after=2,
            )
        registry = merged(listed, self._registrations.of(tenant))
        if len(self._kept) >= _TENANTS:
            self._kept.clear()
        self._kept[tenant] = (time.monotonic(), registry)
        return registry

    def look(self, tenant: str, look: Callable[[Registry], T]) -> T:
        """What `look` says of the registry.

        What it refuses may have been registered a moment ago: then it looks once more, at what is there now.
        """
        try:
            return look(self.registry(tenant))
        except (InvalidRequest, NotFound):
            return look(self.registry(tenant, fresh=True))
