"""Hints as Celery hands them to the worker's pool."""

from celery import Celery
from celery.worker.request import Request

from shared.queues import TURNS_QUEUE


class ForgottenHint(Request):  # type: ignore[misc]
    """A hint that the broker forgot when it delivered it: kombu would still tell Redis, before the turn's claim."""

    def acknowledge(self) -> None:
        self.acknowledged = True


def request_class(app: Celery) -> type[Request]:
    """How the worker treats hints from this application's broker."""
    return ForgottenHint if app.amqp.queues[TURNS_QUEUE].no_ack else Request
