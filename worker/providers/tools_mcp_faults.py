"""What can go wrong in the MCP process, as it is told to the worker."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Json = dict[str, Any]

Kind = Literal[
    "unreachable",  # no connection: nothing was sent
    "auth",  # 401 or 403
    "rate_limited",  # 429
    "timeout",
    "interrupted",  # the connection or the server went away
    "failed",  # another status, or an error of the protocol
    "bad_response",  # not MCP
    "session_lost",  # the server has forgotten the session, and so has not run what came with it
    "too_large",  # the result is longer than may be read
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A failed request. `said` is what the server or the network said, with whatever credentials it may repeat.

    `sent` is false where the request itself was never sent: no session could be had.
    """

    kind: Kind
    said: str = ""
    status: int | None = None
    retry_after: str | None = None
    retryable: bool = True
    sent: bool = True

    def as_json(self) -> Json:
        return asdict(self)


class RequestFailed(Exception):
    """A request came to nothing."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.kind)
        self.fault = fault
