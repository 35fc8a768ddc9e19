"""Logs of the time that the store is away: one line when it begins, one when it is over."""

import logging

logger = logging.getLogger(__name__)


class Outage:
    """What waits for the store. Its user reports each try; said is only what changes."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._on = False

    def failed(self, error: Exception) -> None:
        """A try has failed."""
        if not self._on:
            logger.warning("%s for the store: %s", self._what, error)
        self._on = True

    def passed(self) -> None:
        """A try has gone well."""
        if self._on:
            logger.info("the store is back: %s no more", self._what)
        self._on = False
