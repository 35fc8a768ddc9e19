"""`remote::pgvector`: memory banks in a PostgreSQL database, which the workers of any number of machines share.

Vectors are searched exactly, or where nothing narrows a search down by an HNSW index; words by BM25 over an index of
our own.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from zlib import crc32

import gevent

from worker.providers import memory_pgvector_words as words
from worker.providers.memory import Bank, Document, Found, Search
from worker.providers.memory_base import (
    MOST_WORDS,
    SearchedMemory,
    distances,
    found_in,
    scored_by_distance,
)
from worker.providers.memory_pgvector_bank import MOST_INDEXED, BankTables, drop_tables, make_tables, prepare
from worker.providers.memory_pgvector_config import PgvectorConfig
from worker.providers.memory_pgvector_copy import clean, json_text
from worker.providers.memory_pgvector_server import ADVISORY, PostgresServer, Session

T = TypeVar("T")

_COLUMNS = "d.document_id, c.position, c.content, c.token_count, c.metadata::text"
_ITERATIVE = (0, 8)
"""The first pgvector that goes on in its index until it has found enough."""


class PgvectorMemory(SearchedMemory):
    """Banks in a database. `now` is in seconds since the epoch."""

    provider_type = "remote::pgvector"

    def __init__(self, *, provider_id: str, config: PgvectorConfig, now: Callable[[], float] = time.time) -> None:
        super().__init__(provider_id=provider_id)
        self._server = PostgresServer(config=config, provider_id=provider_id)
        self._hnsw = config.hnsw if config.index == "hnsw" else None
        self._now = now

    def list_memory_banks(self) -> list[Bank]:
        self._server.read(lambda session: session.one("SELECT count(*) FROM banks"))  # whether it can be used at all
        return []

    def register_memory_bank(self, bank: Bank) -> Bank:
        self._check_bank(bank)
        self._write(bank.resource_id, lambda session: self._register(session, bank), alone=True)
        return bank

    def unregister_memory_bank(self, resource_id: str) -> None:
        def change(session: Session) -> None:
            row = session.one("DELETE FROM banks WHERE resource_id = %s RETURNING id", (clean(resource_id),))
            if row is not None:
                drop_tables(session, row[0])

        self._write(resource_id, change, alone=True)

    def begin(self, bank: Bank) -> int:
        def change(session: Session) -> int:
            row = session.one(
                "INSERT INTO writers(bank) SELECT id FROM banks WHERE resource_id = %s RETURNING id",
                (clean(bank.resource_id),),
            )
            if row is None:
                raise self._no_bank(bank)
            return int(row[0])

        return self._write(bank.resource_id, change)

    def put(self, bank: Bank, documents: Sequence[Document], *, writer: int) -> None:
        whole = self._check_documents(bank, documents)
        # In a native thread: splitting some hundred chunks into words takes tens of milliseconds.
        prepared = gevent.get_hub().threadpool.apply(prepare, (bank, whole))

        def change(session: Session) -> None:
            number = self._held(session, bank)
            if session.one("SELECT 1 FROM writers WHERE id = %s AND bank = %s", (writer, number)) is None:
                raise self._no_bank(bank)
            BankTables(session, bank, number).put(prepared, writer=writer, now=self._now())

        self._write(bank.resource_id, change)

    def delete(self, bank: Bank, document_ids: Sequence[str]) -> None:
        def change(session: Session) -> None:
            BankTables(session, bank, self._held(session, bank)).delete(document_ids)

        self._write(bank.resource_id, change)

    def close(self) -> None:
        self._server.close()

    def _register(self, session: Session, bank: Bank) -> None:
        wanted = (bank.kind.value, bank.embedding_model, bank.embedding_dimension)
        name = clean(bank.resource_id)
        row = session.one("SELECT kind, model, dimension FROM banks WHERE resource_id = %s", (name,))
        if row is not None:
            if tuple(row) != wanted:
                raise self._taken(bank)
            return
        made = session.one(
            "INSERT INTO banks(resource_id, kind, model, dimension) VALUES (%s, %s, %s, %s) RETURNING id",
            (name, *wanted),
        )
        if made is not None:
            make_tables(session, made[0], bank, hnsw=self._hnsw)

    def _held(self, session: Session, bank: Bank) -> int:
        """The bank's number, with its row held until the transaction's end."""
        row = session.one("SELECT id FROM banks WHERE resource_id = %s FOR NO KEY UPDATE", (clean(bank.resource_id),))
        if row is None:
            raise self._no_bank(bank)
        return int(row[0])

    def _write(self, resource_id: str, change: Callable[[Session], T], *, alone: bool = False) -> T:
        """`change` with a lock on the bank's name: whoever makes or drops tables is alone with it, so that none waits
        for a table that it holds a part of."""
        function = "pg_advisory_xact_lock" if alone else "pg_advisory_xact_lock_shared"

        def locked(session: Session) -> T:
            session.rows(f"SELECT {function}({ADVISORY}, %s)", (_lock(resource_id),))
            return change(session)

        return self._server.write(locked)

    def _read(self, bank: Bank, look: Callable[[Session, int], T]) -> T:
        """What `look` says of the bank with its number. Raises `memory_bank_not_found`."""
        import psycopg

        def locked(session: Session) -> T:
            session.rows(f"SELECT pg_advisory_xact_lock_shared({ADVISORY}, %s)", (_lock(bank.resource_id),))
            row = session.one("SELECT id FROM banks WHERE resource_id = %s", (clean(bank.resource_id),))
            if row is None:
                raise self._no_bank(bank)
            try:
                return look(session, int(row[0]))
            except psycopg.errors.UndefinedTable:  # dropped between what this transaction sees and its first look
                raise self._no_bank(bank) from None

        return self._server.read(locked)

    def _by_vector(self, bank: Bank, search: Search, limit: int) -> list[Found]:
        wanted = "[" + ",".join(map(str, map(float, search.embedding or ()))) + "]"

        def look(session: Session, number: int) -> list[Found]:
            only, values = self._only(session, number, search)
            indexed = self._hnsw is not None and not only and (bank.embedding_dimension or 0) <= MOST_INDEXED
            if indexed and self._hnsw is not None:
                self._use_index(session, max(self._hnsw.ef_search, min(limit, 1000)))
            order = "embedding <=> %s::vector" if indexed else "(embedding <=> %s::vector) + 0"  # which no index has
            rows = session.rows(
                f"WITH hits AS MATERIALIZED (SELECT chunk, embedding <=> %s::vector AS away FROM vectors_{number}"  # noqa: S608
                f" WHERE TRUE{only} ORDER BY {order} LIMIT %s)"
                f" SELECT {_COLUMNS}, CASE WHEN away = 'NaN' THEN 0 ELSE 1 - away END FROM hits"
                f" JOIN chunks_{number} c ON c.id = hits.chunk JOIN documents_{number} d ON d.id = c.document"
                " ORDER BY away, c.id",
                (wanted, *values, wanted, limit),
            )
            return [found_in(row) for row in rows]

        return self._read(bank, look)

    def _use_index(self, session: Session, effort: int) -> None:
        session.rows(f"SET LOCAL hnsw.ef_search = {effort:d}")
        version = session.one("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
        if version is not None and tuple(int(part) for part in str(version[0]).split(".")[:2]) >= _ITERATIVE:
            session.rows("SET LOCAL hnsw.iterative_scan = strict_order")

    def _by_words(self, bank: Bank, search: Search, limit: int) -> list[Found]:
        wanted = list(dict.fromkeys(words.words_of(search.text)))[:MOST_WORDS]
        if not wanted:
            return []

        def look(session: Session, number: int) -> list[Found]:
            totals = session.one("SELECT chunks, words FROM banks WHERE id = %s", (number,)) or (0, 0)
            only = self._only(session, number, search)
            scores = words.best(session, number, (totals[0], totals[1]), wanted, limit, only)
            rows = session.rows(
                f"SELECT {_COLUMNS}, hits.score FROM unnest(%s::bigint[], %s::float8[]) AS hits(chunk, score)"  # noqa: S608
                f" JOIN chunks_{number} c ON c.id = hits.chunk JOIN documents_{number} d ON d.id = c.document"
                " ORDER BY hits.score DESC, c.id",
                (list(scores), list(scores.values())),
            )
            return [found_in(row) for row in rows]

        return self._read(bank, look)

    def _by_keys(self, bank: Bank, search: Search) -> list[Found]:
        scores = dict.fromkeys(map(clean, search.keys), 1.0)
        return self._read(bank, lambda session, number: self._documents(session, number, search, scores))

    def _by_entities(self, bank: Bank, search: Search) -> list[Found]:
        def look(session: Session, number: int) -> list[Found]:
            away = distances(search, lambda entities: _related(session, number, entities))
            pairs = session.rows(
                f"SELECT d.document_id, e.entity FROM entities_{number} e"  # noqa: S608
                f" JOIN documents_{number} d ON d.id = e.document WHERE e.entity = ANY(%s::text[])",
                ([clean(entity) for entity in away],),
            )
            return self._documents(session, number, search, scored_by_distance(pairs, away))

        return self._read(bank, look)

    def _documents(self, session: Session, number: int, search: Search, scores: dict[str, float]) -> list[Found]:
        """Chunks of these documents, in their order."""
        conditions, values = _conditions(search)
        rows = session.rows(
            f"SELECT {_COLUMNS}, 0 FROM unnest(%s::text[]) WITH ORDINALITY AS wanted(name, place)"  # noqa: S608
            f" JOIN documents_{number} d ON d.document_id = wanted.name JOIN chunks_{number} c ON c.document = d.id"
            f" WHERE (d.expires_at IS NULL OR d.expires_at > %s){conditions}"
            " ORDER BY wanted.place, c.position LIMIT %s",
            (list(scores), self._now(), *values, search.limit),
        )
        return [found_in((*row[:5], scores[row[0]])) for row in rows]

    def _only(self, session: Session, number: int, search: Search) -> tuple[str, list[Any]]:
        """What narrows `chunk` down: filters, and what has expired and is still there. Empty where nothing does."""
        conditions, values = _conditions(search)
        now = self._now()
        expired = session.one(
            f"SELECT 1 FROM documents_{number} WHERE expires_at <= %s LIMIT 1",  # noqa: S608
            (now,),
        )
        if not conditions and expired is None:
            return "", []
        only = (
            f" AND chunk IN (SELECT c.id FROM chunks_{number} c JOIN documents_{number} d ON d.id = c.document"  # noqa: S608
            f" WHERE (d.expires_at IS NULL OR d.expires_at > %s){conditions})"
        )
        return only, [now, *values]


def _related(session: Session, number: int, entities: Sequence[str]) -> list[str]:
    rows = session.rows(
        f"SELECT DISTINCT other FROM relations_{number} WHERE entity = ANY(%s::text[])",  # noqa: S608
        ([clean(entity) for entity in entities],),
    )
    return [str(other) for (other,) in rows]


def _conditions(search: Search) -> tuple[str, list[Any]]:
    """`filters` in SQL: JSON is compared as JSON, so that 1 is 1.0 and not true."""
    parts: list[str] = []
    values: list[Any] = []
    for name, wanted in search.filters.items():
        options = wanted if isinstance(wanted, list) else [wanted]
        parts.append(" AND c.metadata -> %s::text = ANY(%s::jsonb[])")
        values += [clean(name), [json_text(option) for option in options]]
    return "".join(parts), values


def _lock(resource_id: str) -> int:
    return crc32(resource_id.encode(errors="replace")) - (1 << 31)
