"""Greenlets that the process cannot do without."""

import logging
import os
from collections.abc import Callable

import gevent

logger = logging.getLogger(__name__)


def spawn_vital(name: str, run: Callable[[], None]) -> gevent.Greenlet:
    """Run for the life of the process. A fault ends the process: half alive it would hold leases for nothing."""
    greenlet = gevent.spawn(run)
    greenlet.link_exception(lambda failed: _end(name, failed))
    return greenlet


def _end(name: str, failed: gevent.Greenlet) -> None:
    try:
        logger.critical("%s failed, this worker ends: %r", name, failed.exception)
    finally:
        os._exit(70)  # EX_SOFTWARE; nothing to clean up: every turn goes on from its log
