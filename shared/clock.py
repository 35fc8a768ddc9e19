"""Times as clients see them: UTC, microseconds, ISO 8601."""

from datetime import UTC, datetime, timedelta

_MICROSECOND = timedelta(microseconds=1)


def iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def now_iso() -> str:
    return iso(datetime.now(UTC))


class Stamps:
    """Issues times that always rise, also where the clock does not: a step's order shows in its times."""

    def __init__(self, *, after: str | None = None) -> None:
        self._last = datetime.fromisoformat(after) if after else datetime.min.replace(tzinfo=UTC)

    def next(self) -> str:
        self._last = max(datetime.now(UTC), self._last + _MICROSECOND)
        return iso(self._last)
