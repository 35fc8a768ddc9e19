"""What a PostgreSQL server says, in our words. The server's own name hosts, users and content: none are shown."""

from collections.abc import Iterator
from contextlib import contextmanager

from shared.errors import ProviderError
from worker.providers.memory_pgvector_config import PgvectorConfig

_REFUSED = "memory_access_refused"
_AWAY = "memory_unavailable"
_NO_DATABASE = "finds no such database on its server. Create it, or name another in `url`."
_CREDENTIALS = "is refused by its server. Check user, password and pg_hba.conf behind `url`."
_NO_CONNECTIONS = (
    "finds all connections of its server taken. Raise the server's max_connections, or lower `max_connections`, which"
    " each worker process has for itself."
)

_BY_STATE: dict[str, tuple[str, str, bool]] = {
    "28": (_REFUSED, _CREDENTIALS, False),
    "3D": (_AWAY, _NO_DATABASE, False),
    "40": ("memory_busy", "was in the way of another writer. Try again.", True),
    "55P03": ("memory_busy", "was in the way of another writer. Try again.", True),
    "42501": (
        _REFUSED,
        "may not do that in its database. Grant its user USAGE and CREATE on the schema that `schema` names.",
        False,
    ),
    "25006": (_AWAY, "finds its server read-only, as a standby is. Let `url` lead to the primary.", True),
    "53300": (_AWAY, _NO_CONNECTIONS, True),
    "53100": ("memory_full", "finds no space left on its server's disk.", True),
    "53": (_AWAY, "finds its server short of memory or of another resource. Try again.", True),
    "57P": (_AWAY, "finds its server stopping or starting. Try again.", True),
    "08": (_AWAY, "has lost the connection to its server. Try again.", True),
    "54": ("memory_refused", "was given more than PostgreSQL keeps in one value.", False),
    "22": ("memory_refused", "was given text or numbers that PostgreSQL does not keep.", False),
}
"""By SQLSTATE or the beginning of one: a code, the rest of a sentence, and whether waiting helps."""

_BY_WORDS: tuple[tuple[tuple[str, ...], tuple[str, str, bool]], ...] = (
    (("authentication failed", "no password supplied", "pg_hba.conf"), (_REFUSED, _CREDENTIALS, False)),
    (("too many clients", "connection slots", "too many connections"), (_AWAY, _NO_CONNECTIONS, True)),
    (("starting up", "shutting down", "recovery mode"), _BY_STATE["57P"]),
    (
        ("timeout expired", "timed out"),
        (_AWAY, "gets no answer from its server. Is it reachable, and `connect_timeout_s` long enough?", True),
    ),
    (
        ("refused", "No such file", "reset by peer", "closed the connection"),
        (_AWAY, "cannot reach its server: the connection is refused or cut. Is it running where `url` says?", True),
    ),
    (
        ("resolve", "translate host name", "not known", "name resolution"),
        (_AWAY, "does not find the host that `url` names.", True),
    ),
    (
        ("certificate", "SSL", "ssl"),
        (_AWAY, "cannot agree on TLS with its server. Check sslmode and sslrootcert in `url`.", False),
    ),
    (("role", "login"), (_REFUSED, _CREDENTIALS, False)),
    (("database",), (_AWAY, _NO_DATABASE, False)),
)
"""Faults of connecting carry no SQLSTATE. A server with messages in another language ends up with the general one."""


class NoAnswer(Exception):
    """The server has not answered within a statement's time and some more."""


class ServerErrors:
    """Makes ProviderErrors that name the instance and hold no secret."""

    def __init__(self, *, provider_id: str, config: PgvectorConfig) -> None:
        self._provider_id = provider_id
        self._config = config

    @contextmanager
    def told(self) -> Iterator[None]:
        """psycopg's errors in our words."""
        import psycopg

        try:
            yield
        except psycopg.errors.QueryCanceled:
            raise self._slow() from None
        except psycopg.Error as error:
            raise self._of(error) from None
        except NoAnswer:
            raise self._error(_AWAY, "gets no answer from its server any more. Try again.", retryable=True) from None

    @contextmanager
    def connecting(self) -> Iterator[None]:
        """The same for what goes wrong before there is a connection."""
        import psycopg

        try:
            yield
        except psycopg.Error as error:
            text = str(error)
            for words, (code, problem, retryable) in _BY_WORDS:
                if any(word in text for word in words):
                    raise self._error(code, problem, retryable=retryable) from None
            problem = "cannot connect to its server. Check `url`; psql with the same URL says more."
            raise self._error(_AWAY, problem, retryable=True) from None

    def no_place(self) -> ProviderError:
        problem = (
            f"had no free connection for {self._config.statement_timeout_s:g} s. Try again, or raise `max_connections`"
            f" ({self._config.max_connections})."
        )
        return self._error("memory_busy", problem, retryable=True)

    def no_extension(self, *, installed: bool) -> ProviderError:
        how = (
            "finds no extension `vector` in its database, and its user may not make it. Run CREATE EXTENSION vector"
            " there as a superuser."
            if installed
            else "finds no extension `vector` on its server. Install pgvector there (its package is named like"
            " postgresql-17-pgvector), then run CREATE EXTENSION vector in the database."
        )
        return self._error("memory_extension_missing", how)

    def newer(self) -> ProviderError:
        problem = "finds its schema written by a newer release. Upgrade this process first."
        return self._error("memory_newer", problem)

    def _slow(self) -> ProviderError:
        problem = (
            f"broke off what took longer than {self._config.statement_timeout_s:g} s. Its server is busy, or others"
            " write to the bank: try again, or raise `statement_timeout_s`."
        )
        return self._error("memory_timeout", problem, retryable=True)

    def _of(self, error: Exception) -> ProviderError:
        import psycopg

        state = getattr(error, "sqlstate", None) or ""
        for length in (5, 3, 2):
            if state and state[:length] in _BY_STATE:
                code, problem, retryable = _BY_STATE[state[:length]]
                return self._error(code, problem, retryable=retryable)
        if not state and isinstance(error, psycopg.OperationalError):
            code, problem, retryable = _BY_STATE["08"]
            return self._error(code, problem, retryable=retryable)
        if not state and isinstance(error, psycopg.DataError):
            code, problem, retryable = _BY_STATE["22"]
            return self._error(code, problem, retryable=retryable)
        problem = (
            f"cannot use its database ({type(error).__name__}, SQLSTATE {state or 'none'}). Its server's log says why."
        )
        return self._error(_AWAY, problem, retryable=True)

    def _error(self, code: str, problem: str, *, retryable: bool = False) -> ProviderError:
        message = f"Provider '{self._provider_id}' {problem}"
        return ProviderError(message, provider_id=self._provider_id, code=code, retryable=retryable)
