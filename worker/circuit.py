"""Whether a provider instance is asked, or left alone for a while after it has failed."""

FIRST_S = 5.0
LONGEST_S = 60.0


class Circuit:
    """Closed while the instance answers; open for some seconds after a fault; then half-open: one request tries.

    The pause doubles with each try that fails, up to a minute, and is at least what the instance itself asked for
    (`Retry-After`), up to a minute too. Times are those of any steady clock, in seconds. It only advises: where no
    other instance is left, the one that is set aside is asked all the same.
    """

    def __init__(self) -> None:
        self._until: float | None = None
        self._pause_s = 0.0
        self._trying = False
        self.fault = ""

    def admits(self, now: float) -> bool:
        """Whether a request may be sent there as to any other instance."""
        return self._until is None or (now >= self._until and not self._trying)

    def is_open(self, now: float) -> bool:
        """Whether the last fault is too recent for the next try."""
        return self._until is not None and now < self._until

    def due_in(self, now: float) -> float:
        """The seconds until the next try is allowed; 0 where nothing has to be waited for."""
        return 0.0 if self._until is None else max(0.0, self._until - now)

    def entered(self) -> bool:
        """A request is sent. Whether it is the one that tries, whose end has to be told by `left`."""
        tries = self._until is not None and not self._trying
        self._trying = self._trying or tries
        return tries

    def passed(self) -> None:
        """The instance has answered."""
        self._until, self._pause_s, self._trying, self.fault = None, 0.0, False, ""

    def failed(self, now: float, fault: str, *, retry_after: float | None = None) -> None:
        """The instance has failed. Faults of requests that were under way together count once."""
        if not self.is_open(now):
            self._pause_s = min(LONGEST_S, self._pause_s * 2 or FIRST_S)
        self._until = max(self._until or 0.0, now + max(self._pause_s, min(retry_after or 0.0, LONGEST_S)))
        self.fault = fault

    def left(self) -> None:
        """The request that tried has ended, however."""
        self._trying = False
