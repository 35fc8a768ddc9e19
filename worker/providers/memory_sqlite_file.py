"""One SQLite file that all worker processes of a machine share: connections, schema, errors."""

import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import gevent

from shared.errors import ConfigError, ProviderError
from worker.providers.in_order import InOrder

if TYPE_CHECKING:
    import apsw

T = TypeVar("T")

_VERSION = 1
_PAGE_BYTES = 16_384
"""Of a new file. A search by meaning reads every vector, and they lie in long rows: with SQLite's own pages of 4 KB a
third of its time went into finding the next page."""
_SCHEMA = """
CREATE TABLE banks(
  id INTEGER PRIMARY KEY, resource_id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, model TEXT, dimension INTEGER);
CREATE TABLE writers(id INTEGER PRIMARY KEY AUTOINCREMENT, bank INTEGER NOT NULL REFERENCES banks(id));
CREATE TABLE documents(
  id INTEGER PRIMARY KEY, bank INTEGER NOT NULL REFERENCES banks(id), document_id TEXT NOT NULL,
  writer INTEGER NOT NULL, expires_at REAL, UNIQUE (bank, document_id));
CREATE INDEX documents_by_expiry ON documents(bank, expires_at) WHERE expires_at IS NOT NULL;
CREATE TABLE chunks(
  id INTEGER PRIMARY KEY, document INTEGER NOT NULL REFERENCES documents(id), position INTEGER NOT NULL,
  content TEXT NOT NULL, token_count INTEGER NOT NULL, metadata TEXT NOT NULL);
CREATE INDEX chunks_by_document ON chunks(document);
CREATE TABLE entities(
  bank INTEGER NOT NULL, entity TEXT NOT NULL, document INTEGER NOT NULL REFERENCES documents(id),
  PRIMARY KEY (bank, entity, document)) WITHOUT ROWID;
CREATE INDEX entities_by_document ON entities(document);
CREATE TABLE relations(
  bank INTEGER NOT NULL, entity TEXT NOT NULL, other TEXT NOT NULL, document INTEGER NOT NULL REFERENCES documents(id),
  PRIMARY KEY (bank, entity, other, document)) WITHOUT ROWID;
CREATE INDEX relations_by_document ON relations(document);
"""


class SqliteFile:
    """Runs functions on connections to one file, in native threads: gevent's loop never waits for the disk.

    Raises ProviderError for what SQLite says, and ConfigError where a library is missing.
    """

    def __init__(self, *, path: str, busy_timeout_s: float, provider_id: str) -> None:
        missing = [name for name in ("apsw", "sqlite_vec") if find_spec(name) is None]
        if missing:
            raise ConfigError(
                f"Provider '{provider_id}' needs {' and '.join(missing)}. Install them with pip install"
                " 'turnstone[memory]'."
            )
        self._path = Path(path)
        self._busy_ms = int(busy_timeout_s * 1000)
        self._provider_id = provider_id
        # A search takes a whole core. Threads beyond the cores answer nobody sooner, and push away the one that every
        # turn of the process needs.
        self._reads = InOrder(os.cpu_count() or 1)
        self._idle: deque[apsw.Connection] = deque()
        self._pid = os.getpid()

    def read(self, look: "Callable[[apsw.Connection], T]") -> T:
        """What `look` returns, of one state of the file. At most as many at once as there are cores; others wait."""
        with self._reads.place():
            return self._in_a_thread("DEFERRED", look)

    def write(self, change: "Callable[[apsw.Connection], T]") -> T:
        """All that `change` does, or nothing; on the disk when this returns."""
        return self._in_a_thread("IMMEDIATE", change)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def _in_a_thread(self, kind: str, work: Callable[[Any], T]) -> T:
        # Who is killed while it waits leaves the thread at work: it ends its transaction and gives the connection back.
        result: T | Exception = gevent.get_hub().threadpool.apply(self._guarded, (kind, work))
        if isinstance(result, Exception):
            raise result
        return result

    def _guarded(self, kind: str, work: Callable[[Any], T]) -> T | Exception:
        """The error as a value: gevent would write each one that leaves a thread to standard error."""
        try:
            return self._transaction(kind, work)
        except Exception as error:
            return error

    def _transaction(self, kind: str, work: Callable[[Any], T]) -> T:
        with self._connection() as connection, self._told():
            connection.execute(f"BEGIN {kind}")
            try:
                result = work(connection)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            return result

    @contextmanager
    def _connection(self) -> "Iterator[apsw.Connection]":
        if self._pid != os.getpid():  # a fork must not share them
            self._idle, self._pid = deque(), os.getpid()
        try:
            connection = self._idle.pop()
        except IndexError:
            with self._told():
                connection = self._opened()
        try:
            yield connection
        finally:
            self._idle.append(connection)

    def _opened(self) -> "apsw.Connection":
        import apsw
        import sqlite_vec

        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self.error("memory_unavailable", f"cannot make the folder of its file: {error.strerror}.") from None
        connection = apsw.Connection(str(self._path))
        connection.set_busy_timeout(self._busy_ms)
        connection.enable_load_extension(True)
        connection.load_extension(sqlite_vec.loadable_path())
        connection.enable_load_extension(False)
        connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        connection.execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON")
        self._migrate(connection)
        return connection

    def _migrate(self, connection: "apsw.Connection") -> None:
        if self._version(connection) < _VERSION:
            connection.execute("BEGIN IMMEDIATE")
            if self._version(connection) < _VERSION:  # nobody else did it meanwhile
                connection.execute(_SCHEMA)
                connection.execute(f"PRAGMA user_version = {_VERSION}")
            connection.execute("COMMIT")
        if self._version(connection) > _VERSION:
            raise self.error("memory_newer", "finds its file written by a newer release. Upgrade this process first.")

    def _version(self, connection: "apsw.Connection") -> int:
        return int(connection.pragma("user_version"))

    @contextmanager
    def _told(self) -> Iterator[None]:
        """SQLite's errors in our words."""
        import apsw

        try:
            yield
        except apsw.BusyError:
            problem = f"waited {self._busy_ms / 1000:g} s for its file, to which others write. Try again."
            raise self.error("memory_busy", problem, retryable=True) from None
        except apsw.FullError:
            raise self.error("memory_full", "has no space left on the disk of its file.", retryable=True) from None
        except apsw.NotADBError:
            raise self.error(
                "memory_corrupt", "finds that its file is no SQLite database. Name another path."
            ) from None
        except apsw.CorruptError:
            raise self.error("memory_corrupt", "finds its file damaged. Bring it back from a backup.") from None
        except apsw.Error as error:
            raise self.error("memory_unavailable", f"cannot use its file: {error}.", retryable=True) from error

    def error(self, code: str, problem: str, *, retryable: bool = False) -> ProviderError:
        message = f"Provider '{self._provider_id}' {problem}"
        return ProviderError(message, provider_id=self._provider_id, code=code, retryable=retryable)
