"""`inline::sqlite`: memory banks in one SQLite file, which all worker processes of a machine share.

A bank's words and vectors lie in tables of its own, so that BM25 counts its words alone and its vectors have one
dimension. Vectors are searched exactly, by sqlite-vec; filters are applied before the nearest are taken.
"""

import re
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import orjson
from pydantic import Field

from shared.runconfig.model import Seconds, Section
from worker.providers.memory import Bank, BankKind, Document, Found, Search
from worker.providers.memory_base import (
    MOST_WORDS,
    SearchedMemory,
    distances,
    found_in,
    has_words,
    links_of,
    scored_by_distance,
)
from worker.providers.memory_sqlite_file import SqliteFile

if TYPE_CHECKING:
    import apsw

_WORD = re.compile(r"\w+")
_COMMON = 0.5
"""BM25 gives a word nothing that stands in more than this part of the chunks (FTS5: a millionth)."""
_COLUMNS = "d.document_id, c.position, c.content, c.token_count, c.metadata"
_FROM = "chunks c JOIN documents d ON d.id = c.document"
_HAS = (
    " AND EXISTS (SELECT 1 FROM json_each(c.metadata) has, json_each(?) wanted WHERE has.key = ?"
    " AND (has.type = wanted.type AND has.value IS wanted.value OR has.type IN ('integer', 'real')"
    " AND wanted.type IN ('integer', 'real') AND has.value = wanted.value))"
)
"""Metadata have a value under a key. Both sides are read by the same reader, as JSON: so true is not 1, and 1 is 1.0. A
path would find no key that has a quotation mark in it."""


class SqliteMemoryConfig(Section):
    """The file, and how long a write waits for those of other processes."""

    path: str = Field(".turnstone/memory.sqlite3", min_length=1)
    busy_timeout_s: Seconds = 30


class SqliteMemory(SearchedMemory):
    """Banks in a file. `now` is in seconds since the epoch."""

    provider_type = "inline::sqlite"

    def __init__(self, *, provider_id: str, config: SqliteMemoryConfig, now: Callable[[], float] = time.time) -> None:
        super().__init__(provider_id=provider_id)
        self._file = SqliteFile(path=config.path, busy_timeout_s=config.busy_timeout_s, provider_id=provider_id)
        self._now = now

    def list_memory_banks(self) -> list[Bank]:
        self._file.read(lambda connection: None)  # whether it can be used at all
        return []

    def register_memory_bank(self, bank: Bank) -> Bank:
        self._check_bank(bank)
        self._file.write(lambda connection: self._register(connection, bank))
        return bank

    def unregister_memory_bank(self, resource_id: str) -> None:
        self._file.write(lambda connection: _drop(connection, resource_id))

    def begin(self, bank: Bank) -> int:
        def change(connection: "apsw.Connection") -> int:
            connection.execute("INSERT INTO writers(bank) VALUES (?)", (self._number(connection, bank),))
            return connection.last_insert_rowid()

        return self._file.write(change)

    def put(self, bank: Bank, documents: Sequence[Document], *, writer: int) -> None:
        whole = self._check_documents(bank, documents)
        self._file.write(lambda connection: self._put(connection, bank, whole, writer))

    def delete(self, bank: Bank, document_ids: Sequence[str]) -> None:
        def change(connection: "apsw.Connection") -> None:
            _remove(connection, bank, self._number(connection, bank), document_ids)

        self._file.write(change)

    def close(self) -> None:
        self._file.close()

    def _register(self, connection: "apsw.Connection", bank: Bank) -> None:
        wanted = (bank.kind.value, bank.embedding_model, bank.embedding_dimension)
        row = connection.execute(
            "SELECT kind, model, dimension FROM banks WHERE resource_id = ?", (bank.resource_id,)
        ).get
        if row is not None:
            if tuple(row) != wanted:
                raise self._taken(bank)
            return
        connection.execute(
            "INSERT INTO banks(resource_id, kind, model, dimension) VALUES (?, ?, ?, ?)", (bank.resource_id, *wanted)
        )
        number = connection.last_insert_rowid()
        if has_words(bank):
            connection.execute(
                f"CREATE VIRTUAL TABLE words_{number} USING fts5(content, content='', contentless_delete=1,"
                " tokenize='unicode61 remove_diacritics 2')"
            )
        if bank.kind is BankKind.VECTOR:
            connection.execute(
                f"CREATE VIRTUAL TABLE vectors_{number} USING"
                f" vec0(embedding float[{bank.embedding_dimension}] distance_metric=cosine)"
            )

    def _put(self, connection: "apsw.Connection", bank: Bank, documents: Sequence[Document], writer: int) -> None:
        number, now = self._number(connection, bank), self._now()
        if connection.execute("SELECT bank FROM writers WHERE id = ?", (writer,)).get != number:
            raise self._no_bank(bank)
        expired = connection.execute(
            "SELECT document_id FROM documents WHERE bank = ? AND expires_at <= ?", (number, now)
        ).fetchall()
        _remove(connection, bank, number, [str(row[0]) for row in expired])
        newer = connection.execute(
            "SELECT d.document_id FROM json_each(?) wanted JOIN documents d ON d.bank = ? AND"
            " d.document_id = wanted.value WHERE d.writer > ?",
            (_json([document.document_id for document in documents]), number, writer),
        ).fetchall()
        own = [document for document in documents if (document.document_id,) not in newer]
        _remove(connection, bank, number, [document.document_id for document in own])
        for document in own:
            _add(connection, bank, number, document, writer)

    def _number(self, connection: "apsw.Connection", bank: Bank) -> int:
        number = connection.execute("SELECT id FROM banks WHERE resource_id = ?", (bank.resource_id,)).get
        if number is None:
            raise self._no_bank(bank)
        return int(number)

    def _by_vector(self, bank: Bank, search: Search, limit: int) -> list[Found]:
        return self._best(
            bank,
            search,
            lambda number, only: (
                "SELECT rowid, 1 - coalesce(distance, 1) AS score"  # noqa: S608
                f" FROM vectors_{number} WHERE embedding MATCH ? AND k = {limit:d}{only}"
            ),
            _packed(search.embedding or ()),
        )

    def _by_words(self, bank: Bank, search: Search, limit: int) -> list[Found]:
        words = list(dict.fromkeys(_WORD.findall(search.text.lower())))[:MOST_WORDS]
        if not words:
            return []
        # Common words take nearly all of the time, and decide nothing where there are chunks enough without them.
        telling = self._file.read(lambda connection: _telling(connection, self._number(connection, bank), words))
        found = self._with_words(bank, search, limit, telling) if telling else []
        if len(found) < limit and len(telling) < len(words):
            return self._with_words(bank, search, limit, words)
        return found

    def _with_words(self, bank: Bank, search: Search, limit: int, words: Sequence[str]) -> list[Found]:
        return self._best(
            bank,
            search,
            lambda number, only: (
                f"SELECT rowid, -rank AS score FROM words_{number}"  # noqa: S608
                f" WHERE words_{number} MATCH ?{only} ORDER BY rank LIMIT {limit:d}"
            ),
            " OR ".join(f'"{word}"' for word in words),
        )

    def _best(self, bank: Bank, search: Search, hits: Callable[[int, str], str], wanted: str | bytes) -> list[Found]:
        """The chunks of what `hits` finds, a query for a bank's table that is narrowed down."""

        def look(connection: "apsw.Connection") -> list[Found]:
            number = self._number(connection, bank)
            only, values = self._only(connection, number, search)
            rows = connection.execute(
                f"WITH hits AS ({hits(number, only)}) SELECT {_COLUMNS}, hits.score FROM hits"  # noqa: S608
                " JOIN chunks c ON c.id = hits.rowid JOIN documents d ON d.id = c.document ORDER BY hits.score DESC",
                (wanted, *values),
            )
            return [found_in(row) for row in rows]

        return self._file.read(look)

    def _by_keys(self, bank: Bank, search: Search) -> list[Found]:
        return self._documents(bank, search, dict.fromkeys(search.keys, 1.0))

    def _by_entities(self, bank: Bank, search: Search) -> list[Found]:
        def look(connection: "apsw.Connection") -> dict[str, float]:
            number = self._number(connection, bank)
            away = distances(search, lambda entities: _related(connection, number, entities))
            rows = connection.execute(
                "SELECT d.document_id, e.entity FROM json_each(?) wanted"
                " JOIN entities e ON e.bank = ? AND e.entity = wanted.value JOIN documents d ON d.id = e.document",
                (_json(list(away)), number),
            )
            return scored_by_distance(rows, away)

        return self._documents(bank, search, self._file.read(look))

    def _documents(self, bank: Bank, search: Search, scores: dict[str, float]) -> list[Found]:
        """Chunks of these documents, in their order."""

        def look(connection: "apsw.Connection") -> list[Found]:
            number = self._number(connection, bank)
            conditions, values = _conditions(search)
            rows = connection.execute(
                f"SELECT {_COLUMNS}, 0 FROM json_each(?) wanted JOIN documents d ON d.bank = ? AND"  # noqa: S608
                " d.document_id = wanted.value JOIN chunks c ON c.document = d.id"
                f" WHERE (d.expires_at IS NULL OR d.expires_at > ?){conditions}"
                " ORDER BY wanted.key, c.position LIMIT ?",
                (_json(list(scores)), number, self._now(), *values, search.limit),
            )
            return [found_in((*row[:5], scores[row[0]])) for row in rows]

        return self._file.read(look)

    def _only(self, connection: "apsw.Connection", number: int, search: Search) -> tuple[str, list[Any]]:
        """What narrows a search down: filters, and what has expired and is still there. Empty where nothing does."""
        conditions, values = _conditions(search)
        now = self._now()
        expired = connection.execute(
            "SELECT EXISTS(SELECT 1 FROM documents WHERE bank = ? AND expires_at <= ?)", (number, now)
        ).get
        if not conditions and not expired:
            return "", []
        only = (
            f" AND rowid IN (SELECT c.id FROM {_FROM} WHERE d.bank = ?"  # noqa: S608
            f" AND (d.expires_at IS NULL OR d.expires_at > ?){conditions})"
        )
        return only, [number, now, *values]


def _telling(connection: "apsw.Connection", number: int, words: Sequence[str]) -> list[str]:
    """The words that are not in most of a bank's chunks."""
    most = int(_COMMON * connection.execute(f"SELECT count(*) FROM words_{number}_docsize").get)  # noqa: S608
    one = f"SELECT count(*) FROM (SELECT 1 FROM words_{number} WHERE words_{number} MATCH ? LIMIT {most + 1})"  # noqa: S608
    return [word for word in words if connection.execute(one, (f'"{word}"',)).get <= most]


def _drop(connection: "apsw.Connection", resource_id: str) -> None:
    number = connection.execute("SELECT id FROM banks WHERE resource_id = ?", (resource_id,)).get
    if number is None:
        return
    connection.execute(f"DROP TABLE IF EXISTS words_{number}; DROP TABLE IF EXISTS vectors_{number}")
    for table in ("entities", "relations", "writers"):
        connection.execute(f"DELETE FROM {table} WHERE bank = ?", (number,))  # noqa: S608
    connection.execute("DELETE FROM chunks WHERE document IN (SELECT id FROM documents WHERE bank = ?)", (number,))
    connection.execute("DELETE FROM documents WHERE bank = ?", (number,))
    connection.execute("DELETE FROM banks WHERE id = ?", (number,))


def _remove(connection: "apsw.Connection", bank: Bank, number: int, document_ids: Sequence[str]) -> None:
    for name in document_ids:
        document = connection.execute("SELECT id FROM documents WHERE bank = ? AND document_id = ?", (number, name)).get
        if document is None:
            continue
        chunks = "SELECT id FROM chunks WHERE document = ?"
        if has_words(bank):
            connection.execute(f"DELETE FROM words_{number} WHERE rowid IN ({chunks})", (document,))  # noqa: S608
        if bank.kind is BankKind.VECTOR:
            connection.execute(f"DELETE FROM vectors_{number} WHERE rowid IN ({chunks})", (document,))  # noqa: S608
        for table in ("chunks", "entities", "relations"):
            connection.execute(f"DELETE FROM {table} WHERE document = ?", (document,))  # noqa: S608
        connection.execute("DELETE FROM documents WHERE id = ?", (document,))


def _add(connection: "apsw.Connection", bank: Bank, number: int, document: Document, writer: int) -> None:
    connection.execute(
        "INSERT INTO documents(bank, document_id, writer, expires_at) VALUES (?, ?, ?, ?)",
        (number, document.document_id, writer, document.expires_at),
    )
    own = connection.last_insert_rowid()
    for position, chunk in enumerate(document.chunks):
        connection.execute(
            "INSERT INTO chunks(document, position, content, token_count, metadata) VALUES (?, ?, ?, ?, ?)",
            (own, position, chunk.content, chunk.token_count, _json(chunk.metadata)),
        )
        rowid = connection.last_insert_rowid()
        if has_words(bank):
            connection.execute(f"INSERT INTO words_{number}(rowid, content) VALUES (?, ?)", (rowid, chunk.content))  # noqa: S608
        if bank.kind is BankKind.VECTOR:
            connection.execute(
                f"INSERT INTO vectors_{number}(rowid, embedding) VALUES (?, ?)",  # noqa: S608
                (rowid, _packed(chunk.embedding or ())),
            )
    entities, pairs = links_of(document)
    connection.executemany("INSERT INTO entities VALUES (?, ?, ?)", [(number, entity, own) for entity in entities])
    connection.executemany("INSERT INTO relations VALUES (?, ?, ?, ?)", [(number, *pair, own) for pair in pairs])


def _related(connection: "apsw.Connection", number: int, entities: Sequence[str]) -> list[str]:
    rows = connection.execute(
        "SELECT DISTINCT r.other FROM json_each(?) edge JOIN relations r ON r.bank = ? AND r.entity = edge.value",
        (_json(entities), number),
    )
    return [other for (other,) in rows]


def _conditions(search: Search) -> tuple[str, list[Any]]:
    """`filters` in SQL, whatever their keys hold."""
    values: list[Any] = []
    for name, wanted in search.filters.items():
        values += [_json(wanted if isinstance(wanted, list) else [wanted]), name]
    return _HAS * len(search.filters), values


def _packed(vector: Sequence[float]) -> bytes:
    import sqlite_vec

    packed: bytes = sqlite_vec.serialize_float32(list(vector))
    return packed


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
