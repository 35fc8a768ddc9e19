"""What the workers' providers serve, as this process last read it."""

import time

from shared.errors import Unavailable
from shared.registry import Registry, RegistryStore

KEPT_S = 1.0
"""Every submit asks for the registry; workers renew it once a minute."""


class Served:
    """The registry, read once a second at the most."""

    def __init__(self, *, store: RegistryStore, kept_s: float = KEPT_S) -> None:
        self._store = store
        self._kept_s = kept_s
        self._registry: Registry | None = None
        self._read_at = 0.0

    def registry(self) -> Registry:
        """The registry. Raises Unavailable where no worker has published one yet."""
        registry = self._registry
        if registry is not None and time.monotonic() - self._read_at < self._kept_s:
            return registry
        registry = self._store.read()
        if registry is None:
            raise Unavailable(
                "No worker with this run config has reported what its providers serve. Try again when one is up.",
                code="no_workers",
                retry_after=2,
            )
        self._registry, self._read_at = registry, time.monotonic()
        return registry
