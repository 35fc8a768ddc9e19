"""The one error of this package."""

from shared.errors import TurnstoneError


class UnreadableDocument(TurnstoneError):
    """A document could not be read or fetched; no other one is concerned.

    `code` is stable and machine-readable. The message says what is wrong and what can be done, and holds nothing of the
    document and of its URL. `retryable`: the same may succeed later.

    About documents: `unsupported_type`, `malformed_document`, `encrypted_document`, `empty_document`,
    `document_too_large`, `document_too_slow`, `reader_died` (the process that read it ended over it) and
    `reader_unavailable` (there is no such process now). About URLs: `malformed_url`, `url_not_allowed`,
    `url_unreachable`, `url_refused` (the server's status), `url_redirects` and `url_too_slow`.
    """

    def __init__(self, code: str, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.retryable = retryable
