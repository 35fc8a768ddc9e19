"""A PostgreSQL server that many worker processes share: connections, transactions, the schema's versions.

psycopg waits for its sockets by `select.poll`, which gevent has patched by the time that it is imported here: who waits
for the server lets the process's other greenlets go on.
"""

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

import gevent
from gevent.lock import BoundedSemaphore

from shared.errors import ConfigError
from worker.providers.memory_pgvector_config import PgvectorConfig
from worker.providers.memory_pgvector_errors import NoAnswer, ServerErrors

if TYPE_CHECKING:
    import psycopg

T = TypeVar("T")

ADVISORY = 0x7475726E
"""The first number of our advisory locks ("turn"); the second is a bank's, or 0 for the schema."""
_PATIENCE_S = 5
"""How much longer than its timeout a statement is waited for: a server that hangs, or is cut off, says nothing."""
_VERSION = 1
_SCHEMA = """
CREATE TABLE banks(
  id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, resource_id text NOT NULL UNIQUE, kind text NOT NULL,
  model text, dimension integer, next_id bigint NOT NULL DEFAULT 1, chunks bigint NOT NULL DEFAULT 0,
  words bigint NOT NULL DEFAULT 0, small bigint[] NOT NULL DEFAULT '{}');
CREATE TABLE writers(
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  bank integer NOT NULL REFERENCES banks(id) ON DELETE CASCADE);
CREATE INDEX writers_by_bank ON writers(bank);
"""
_ALIVE: dict[str, Any] = {"keepalives": 1, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}


class Session:
    """A transaction that is open. Statements raise psycopg's errors."""

    def __init__(self, connection: "psycopg.Connection", *, patience_s: float) -> None:
        self.connection = connection
        self._patience_s = patience_s

    def rows(self, statement: str, values: Sequence[Any] | dict[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """What a statement returns; [] for one that returns nothing."""
        with gevent.Timeout(self._patience_s, NoAnswer), self.connection.cursor() as cursor:
            cursor.execute(statement, values)
            return cursor.fetchall() if cursor.description is not None else []

    def one(self, statement: str, values: Sequence[Any] | None = None) -> tuple[Any, ...] | None:
        """The first row, if there is any."""
        rows = self.rows(statement, values)
        return rows[0] if rows else None

    def copy(self, into: str, pieces: Iterable[bytes]) -> None:
        """Adds rows in COPY's binary format, `into` being `table(columns)`."""
        statement = f"COPY {into} FROM STDIN (FORMAT binary)"
        with (
            gevent.Timeout(self._patience_s, NoAnswer),
            self.connection.cursor() as cursor,
            cursor.copy(statement) as copy,
        ):
            for piece in pieces:
                copy.write(piece)


class PostgresServer:
    """Runs functions in transactions. Raises ProviderError for what the server says, and ConfigError where the driver
    is missing."""

    def __init__(self, *, config: PgvectorConfig, provider_id: str) -> None:
        if find_spec("psycopg") is None:
            raise ConfigError(
                f"Provider '{provider_id}' needs psycopg. Install it with pip install 'turnstone[pgvector]'."
            )
        self._config = config
        self._errors = ServerErrors(provider_id=provider_id, config=config)
        self._path = ""
        self._forget()

    def read(self, look: Callable[[Session], T]) -> T:
        """What `look` returns, of one state of the database."""
        return self._transaction("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY", look)

    def write(self, change: Callable[[Session], T]) -> T:
        """All that `change` does, or nothing; outlives a crash of the server when this returns."""
        # A server that does not wait for its disk by default does for us; stricter settings stay as they are.
        begin = (
            "BEGIN ISOLATION LEVEL READ COMMITTED; SELECT set_config('synchronous_commit', 'on', true)"
            " WHERE current_setting('synchronous_commit') = 'off'"
        )
        return self._transaction(begin, change)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def _transaction(self, begin: str, work: Callable[[Session], T]) -> T:
        if self._pid != os.getpid():  # a fork must not share connections
            self._forget()
        with self._place(), self._errors.told():
            if not self._path:
                self._prepare()
            connection = self._begun(f"{begin}; SET LOCAL search_path = {self._path}; {self._limits()}")
            with self._kept(connection):
                return self._work(connection, work)

    def _work(self, connection: "psycopg.Connection", work: Callable[[Session], T]) -> T:
        session = Session(connection, patience_s=self._config.statement_timeout_s + _PATIENCE_S)
        result = work(session)
        session.rows("COMMIT")
        return result

    @contextmanager
    def _kept(self, connection: "psycopg.Connection") -> Iterator[None]:
        """The connection goes back to the others, rolled back where something went wrong, or is closed."""
        import psycopg
        from psycopg import pq

        try:
            yield
        except Exception:
            with suppress(psycopg.Error, NoAnswer):
                if connection.info.transaction_status != pq.TransactionStatus.ACTIVE:
                    self._rows(connection, "ROLLBACK")
            self._give_back(connection)
            raise
        except BaseException:  # killed, perhaps in the midst of a statement
            connection.close()
            raise
        self._give_back(connection)

    def _give_back(self, connection: "psycopg.Connection") -> None:
        from psycopg import pq

        if connection.closed or connection.info.transaction_status != pq.TransactionStatus.IDLE:
            connection.close()
        else:
            self._idle.append(connection)

    @contextmanager
    def _place(self) -> Iterator[None]:
        if not self._places.acquire(timeout=self._config.statement_timeout_s):
            raise self._errors.no_place()
        try:
            yield
        finally:
            self._places.release()

    def _begun(self, begin: str) -> "psycopg.Connection":
        """A connection with a transaction. One that broke while nobody used it is not missed."""
        import psycopg

        while self._idle:
            with suppress(psycopg.OperationalError, NoAnswer):
                return self._opened(self._idle.pop(), begin)
        return self._opened(self._connected(), begin)

    def _opened(self, connection: "psycopg.Connection", begin: str) -> "psycopg.Connection":
        try:
            self._rows(connection, begin)
        except BaseException:
            connection.close()
            raise
        return connection

    def _connected(self) -> "psycopg.Connection":
        import psycopg

        with self._errors.connecting():
            return psycopg.connect(
                self._config.url.get_secret_value(),
                autocommit=True,
                prepare_threshold=None,  # a pooler between may give each transaction another connection
                connect_timeout=math.ceil(self._config.connect_timeout_s),
                fallback_application_name="turnstone",
                **_ALIVE,
            )

    def _rows(self, connection: "psycopg.Connection", statement: str) -> list[tuple[Any, ...]]:
        return Session(connection, patience_s=self._config.statement_timeout_s + _PATIENCE_S).rows(statement)

    def _limits(self) -> str:
        # Compiling a statement takes longer than any of ours.
        limit = f"SET LOCAL jit = off; SET LOCAL statement_timeout = {int(self._config.statement_timeout_s * 1000)}"
        if self._checks_clients:  # who is killed in the midst of a statement leaves none running for nobody
            limit += "; SET LOCAL client_connection_check_interval = '1s'"
        return limit

    def _prepare(self) -> None:
        """Finds or makes schema and tables, once per process."""
        schema = self._config.schema_name
        connection = self._begun("BEGIN")
        with self._kept(connection):
            self._checks_clients = connection.info.server_version >= 140_000
            session = Session(connection, patience_s=self._config.statement_timeout_s + _PATIENCE_S)
            session.rows(f"{self._limits()}; SELECT pg_advisory_xact_lock({ADVISORY}, 0)")
            extension = self._extension(session)
            if session.one("SELECT 1 FROM pg_namespace WHERE nspname = %s", (schema,)) is None:
                session.rows(f'CREATE SCHEMA "{schema}"')
            path = f'"{schema}", {extension}' if extension != f'"{schema}"' else extension
            session.rows(f"SET LOCAL search_path = {path}")
            self._migrate(session, schema)
            session.rows("COMMIT")
        self._path = path

    def _extension(self, session: Session) -> str:
        """The schema that has pgvector, quoted."""
        import psycopg

        look = "SELECT quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace"
        found = session.one(f"{look} WHERE e.extname = 'vector'")
        if found is None:
            try:
                session.rows("CREATE EXTENSION vector")
            except (psycopg.errors.FeatureNotSupported, psycopg.errors.UndefinedFile):
                raise self._errors.no_extension(installed=False) from None
            except psycopg.errors.InsufficientPrivilege:
                raise self._errors.no_extension(installed=True) from None
            found = session.one(f"{look} WHERE e.extname = 'vector'")
        return str(found[0]) if found else "public"

    def _migrate(self, session: Session, schema: str) -> None:
        if session.one("SELECT to_regclass(%s)", (f"{schema}.versions",)) == (None,):
            session.rows("CREATE TABLE versions(version integer NOT NULL)")
            session.rows("INSERT INTO versions VALUES (0)")
        version = int((session.one("SELECT max(version) FROM versions") or (0,))[0] or 0)
        if version > _VERSION:
            raise self._errors.newer()
        if version < 1:
            session.rows(_SCHEMA)
        if version < _VERSION:
            session.rows("UPDATE versions SET version = %s", (_VERSION,))

    def _forget(self) -> None:
        self._idle: deque[psycopg.Connection] = deque()
        self._places = BoundedSemaphore(self._config.max_connections)
        self._checks_clients = False
        self._pid = os.getpid()
