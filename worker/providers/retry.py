"""When to ask a provider again, and how long to wait before."""

import random
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from shared.errors import ProviderError

MAX_WAIT_S = 60.0
# A first token that did not come in time is not asked for again: the wait would be paid once more.
_RETRIED_CODES = frozenset({"provider_unreachable", "provider_interrupted", "provider_rate_limited", "provider_error"})


def is_worth_a_retry(error: ProviderError) -> bool:
    """Whether the same instance may be asked the same again."""
    return error.retryable and error.code in _RETRIED_CODES


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Exponential backoff with full jitter in its upper half. Times are in seconds."""

    max_retries: int
    first_s: float = 0.5
    longest_s: float = 8.0

    def wait_s(self, attempt: int, retry_after: float | None = None) -> float:
        """How long to wait after the failed attempt number `attempt`, counted from 0.

        What the server asked for comes first, up to a minute: a worker slot is held meanwhile.
        """
        if retry_after is not None:
            return min(max(retry_after, 0.0), MAX_WAIT_S)
        full = min(self.longest_s, self.first_s * 2.0**attempt)
        return full * random.uniform(0.5, 1.0)


def parse_retry_after(value: str | None, now: datetime) -> float | None:
    """The seconds of a `Retry-After` header, which holds seconds or an HTTP date (RFC 9110, 10.2.3)."""
    if not value:
        return None
    try:
        return max(0.0, float(value)) if float(value) < float("inf") else None
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    # A date without zone is taken as GMT, the only one that HTTP knows.
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - now).total_seconds())
