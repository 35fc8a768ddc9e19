"""Times as clients see them: UTC, microseconds, ISO 8601."""

from datetime import UTC, datetime, timedelta

_MICROSECOND = timedelta(microseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def iso_of(micros: int) -> str:
    """A time of the store: microseconds since 1970."""
    return iso(_EPOCH + timedelta(microseconds=micros))


def seconds_of(time: str) -> float:
    """The inverse of `iso`, in seconds since 1970."""
    return datetime.fromisoformat(time).timestamp()


def now_iso() -> str:
    return iso(datetime.now(UTC))


class Stamps:
    """Issues times that always rise, also where the clock does not: a step's order shows in its times."""

    def __init__(self, *, after: str | None = None) -> None:
        self._last = datetime.fromisoformat(after) if after else datetime.min.replace(tzinfo=UTC)

    def next(self) -> str:
        self._last = max(datetime.now(UTC), self._last + _MICROSECOND)
        return iso(self._last)
