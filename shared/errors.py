"""Every error that Turnstone raises on purpose.

TurnstoneError
├── ConfigError                 the run config or the environment is wrong; names the key and the fix
├── RequestError                a client asked for something that cannot be done
│   ├── InvalidRequest          a field is wrong
│   ├── Unauthorized            it carries no key that opens anything
│   ├── NotFound                no such thing; says which call lists what exists
│   ├── Conflict                it clashes with what is there already
│   ├── QueueFull               as many turns wait as may
│   ├── FileTooLarge            a file is larger than files may be
│   └── FilesFull               a tenant keeps as many bytes of files as it may
├── Unavailable                 the service cannot do it yet, or not any more; says when to try again
├── StoreError                  the store cannot be reached or refuses to write
├── LogError                    a write to a turn's log was refused
│   ├── Fenced                  somebody else owns the turn now, or nobody does
│   ├── TailMismatch            the log does not end where the writer left it
│   └── Unwritable              the store refuses it for a reason that does not pass
├── SchemaTooNew                the log was written by a newer release
├── ApiError                    a request of the command line to the API came to nothing
│   ├── ApiRefused              the API answered with a problem
│   └── ApiUnreachable          there was no answer, or it is not ready
└── ProviderError               a provider failed; says which one, how, and what to do
"""

from collections.abc import Mapping
from typing import Any


class TurnstoneError(Exception):
    """Base of all errors raised on purpose. `message` is fit for users: it holds no secret."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class ConfigError(TurnstoneError):
    """The run config or the environment is wrong. The message names the key and the fix."""


class RequestError(TurnstoneError):
    """A client asked for something that cannot be done."""


class InvalidRequest(RequestError):
    """A field of a request is wrong. `param` is its dotted path, or None for the request as a whole."""

    def __init__(self, message: str, *, param: str | None = None, code: str = "invalid_request") -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class Unauthorized(RequestError):
    """A request carries no valid API key. `given`: it carries another one."""

    def __init__(self, message: str, *, given: bool) -> None:
        super().__init__(message)
        self.given = given


class NotFound(RequestError):
    """There is no such thing. `listing` is the call that lists what exists."""

    def __init__(self, kind: str, identifier: str, *, listing: str) -> None:
        super().__init__(f"There is no {kind} '{identifier}'. {listing} lists what exists.")
        self.kind = kind
        self.identifier = identifier
        self.listing = listing


class Conflict(RequestError):
    """The request clashes with the state that is there. `lasting` tells a client not to try again."""

    def __init__(self, message: str, *, code: str = "conflict", lasting: bool = True) -> None:
        super().__init__(message)
        self.code = code
        self.lasting = lasting


class QueueFull(RequestError):
    """As many turns wait as may wait. The message names the bound."""


class FileTooLarge(RequestError):
    """A file is larger than one may be. The message names the bound."""


class FilesFull(RequestError):
    """A tenant keeps as many bytes of files as it may. The message names the bound, and what makes room."""


class Unavailable(TurnstoneError):
    """The service cannot do it yet, or not any more. `retry_after` is in seconds, `facts` are for programs."""

    def __init__(
        self, message: str, *, code: str, retry_after: int = 1, facts: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after = retry_after
        self.facts = facts or {}


class StoreError(TurnstoneError):
    """The store cannot be reached, or refuses to write (memory, disk). Worth trying again."""


class LogError(TurnstoneError):
    """A write to a turn's log was refused."""


class Fenced(LogError):
    """The writer's token is no longer the owner's: another worker took over, or the turn has ended."""


class TailMismatch(LogError):
    """The log does not end where the writer left it: an own retry landed, or the store lost data."""

    def __init__(self, message: str, *, last: int, private_last: int) -> None:
        super().__init__(message)
        self.last = last
        self.private_last = private_last


class Unwritable(LogError):
    """The store refuses a write again and again, and not for want of memory, disk or replicas."""


class SchemaTooNew(TurnstoneError):
    """The turn was written by a newer release than this process."""


class ApiError(TurnstoneError):
    """A request of the command line to the API came to nothing."""


class ApiRefused(ApiError):
    """The API answered with a problem. `status` is HTTP's, `code` the problem's own where it has one."""

    def __init__(self, message: str, *, status: int, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class ApiUnreachable(ApiError):
    """There was no answer, or the API is not ready to serve. Worth trying again."""


class ProviderError(TurnstoneError):
    """A provider failed.

    `code` is stable and machine-readable; `status` is the provider's HTTP status where there was one;
    `retryable` says whether the same request may succeed later; `retry_after` is in seconds.
    """

    def __init__(
        self,
        message: str,
        *,
        provider_id: str,
        code: str = "provider_error",
        status: int | None = None,
        retryable: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.provider_id = provider_id
        self.code = code
        self.status = status
        self.retryable = retryable
        self.retry_after = retry_after

    def as_json(self) -> dict[str, Any]:
        """The `error` member of a failed turn."""
        return {"code": self.code, "message": self.message, "provider_id": self.provider_id}
