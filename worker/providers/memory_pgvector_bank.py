"""A bank's own tables in PostgreSQL, by its number: made, dropped, written to.

Each bank has tables of its own, so that dropping one is quick whatever is in it, and its vectors have one dimension.
Whoever writes to a bank holds its row in `banks` until the end of its transaction: writers of one bank go one after the
other, and wait for nothing else while they do.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from worker.providers import memory_pgvector_words as words
from worker.providers.memory import Bank, BankKind, Document
from worker.providers.memory_base import has_words, links_of
from worker.providers.memory_pgvector_config import HnswConfig
from worker.providers.memory_pgvector_copy import Field, bigint, clean, copied, double, integer, jsonb, text, vector
from worker.providers.memory_pgvector_server import Session

MOST_INDEXED = 2000
"""Dimensions that pgvector's HNSW takes."""
_PURGED = 1000
"""Expired documents that a put takes away: it must not take long."""

_DOCUMENTS = """
CREATE TABLE documents_{n}(
  id bigint PRIMARY KEY, document_id text COLLATE "C" NOT NULL UNIQUE, writer bigint NOT NULL,
  expires_at double precision);
CREATE INDEX documents_{n}_by_expiry ON documents_{n}(expires_at) WHERE expires_at IS NOT NULL;
CREATE TABLE chunks_{n}(
  id bigint PRIMARY KEY, document bigint NOT NULL, position integer NOT NULL, segment bigint NOT NULL,
  length integer NOT NULL, content text NOT NULL, token_count integer NOT NULL, metadata jsonb NOT NULL);
CREATE INDEX chunks_{n}_by_document ON chunks_{n}(document);
CREATE INDEX chunks_{n}_by_segment ON chunks_{n}(segment);
"""
# A vector that fits into a page stays in its row: searched exactly, each is read.
_VECTORS = """
CREATE TABLE vectors_{n}(chunk bigint PRIMARY KEY, embedding vector({dimension}) NOT NULL);
ALTER TABLE vectors_{n} ALTER COLUMN embedding SET STORAGE {storage};
"""
_GRAPH = """
CREATE TABLE entities_{n}(entity text NOT NULL, document bigint NOT NULL);
CREATE INDEX entities_{n}_by_entity ON entities_{n} USING hash (entity);
CREATE INDEX entities_{n}_by_document ON entities_{n}(document);
CREATE TABLE relations_{n}(entity text NOT NULL, other text NOT NULL, document bigint NOT NULL);
CREATE INDEX relations_{n}_by_entity ON relations_{n} USING hash (entity);
CREATE INDEX relations_{n}_by_document ON relations_{n}(document);
"""
_TABLES = ("documents", "chunks", "words", "vectors", "entities", "relations")


def make_tables(session: Session, number: int, bank: Bank, *, hnsw: HnswConfig | None) -> None:
    """The tables of a new bank."""
    made = _DOCUMENTS
    if has_words(bank):
        made += words.TABLE
    if bank.kind is BankKind.VECTOR:
        dimension = bank.embedding_dimension or 0
        made += _VECTORS.format(n=number, dimension=dimension, storage="PLAIN" if dimension <= 2000 else "EXTERNAL")
        if hnsw is not None and dimension <= MOST_INDEXED:
            made += (
                f"CREATE INDEX vectors_{number}_hnsw ON vectors_{number} USING hnsw (embedding vector_cosine_ops)"
                f" WITH (m = {hnsw.m}, ef_construction = {hnsw.ef_construction});"
            )
    if bank.kind is BankKind.GRAPH:
        made += _GRAPH
    session.rows(made.replace("{n}", str(number)))


def drop_tables(session: Session, number: int) -> None:
    session.rows("DROP TABLE IF EXISTS " + ", ".join(f"{table}_{number}" for table in _TABLES))


@dataclass(frozen=True, slots=True)
class Prepared:
    """Documents in the shapes of the tables; all that costs time of it is done before a transaction begins."""

    documents: Sequence[Document]
    words: Sequence[Sequence[Sequence[str]]]
    """Of each chunk of each document."""


def prepare(bank: Bank, documents: Sequence[Document]) -> Prepared:
    split = words.words_of if has_words(bank) else lambda content: []
    return Prepared(documents, [[split(chunk.content) for chunk in document.chunks] for document in documents])


class BankTables:
    """The tables of one bank in a transaction of a writer, who holds its row."""

    def __init__(self, session: Session, bank: Bank, number: int) -> None:
        self._session = session
        self._bank = bank
        self._number = number

    def put(self, prepared: Prepared, *, writer: int, now: float) -> None:
        """Store documents in the place of what was there, but of what a later writer has put."""
        newer = self._newer(prepared.documents, writer)
        own = [
            (document, split)
            for document, split in zip(prepared.documents, prepared.words, strict=True)
            if clean(document.document_id) not in newer
        ]
        self._remove(
            f"document_id = ANY(%s::text[]) OR id IN (SELECT id FROM documents_{self._number}"  # noqa: S608
            " WHERE expires_at <= %s LIMIT %s)",
            ([clean(document.document_id) for document, _ in own], now, _PURGED),
        )
        if own:
            self._add(own, writer)

    def delete(self, document_ids: Sequence[str]) -> None:
        self._remove("document_id = ANY(%s::text[])", ([clean(name) for name in document_ids],))

    def _newer(self, documents: Sequence[Document], writer: int) -> set[str]:
        rows = self._session.rows(
            f"SELECT document_id FROM documents_{self._number} WHERE document_id = ANY(%s::text[]) AND writer > %s",  # noqa: S608
            ([clean(document.document_id) for document in documents], writer),
        )
        return {str(name) for (name,) in rows}

    def _remove(self, condition: str, values: Sequence[object]) -> None:
        number = self._number
        gone = [
            one
            for (one,) in self._session.rows(f"DELETE FROM documents_{number} WHERE {condition} RETURNING id", values)  # noqa: S608
        ]
        if not gone:
            return
        chunks = self._session.rows(
            f"DELETE FROM chunks_{number} WHERE document = ANY(%s::bigint[]) RETURNING id, segment, length",  # noqa: S608
            (gone,),
        )
        ids = [chunk for chunk, _, _ in chunks]
        if has_words(self._bank) and ids:
            words.forget(self._session, number, ids, sorted({segment for _, segment, _ in chunks}))
        if self._bank.kind is BankKind.VECTOR:
            self._session.rows(f"DELETE FROM vectors_{number} WHERE chunk = ANY(%s::bigint[])", (ids,))  # noqa: S608
        for table in ("entities", "relations") if self._bank.kind is BankKind.GRAPH else ():
            self._session.rows(f"DELETE FROM {table}_{number} WHERE document = ANY(%s::bigint[])", (gone,))  # noqa: S608
        self._count(-len(ids), -sum(length for _, _, length in chunks))

    def _add(self, own: Sequence[tuple[Document, Sequence[Sequence[str]]]], writer: int) -> None:
        counts = [len(document.chunks) for document, _ in own]
        rows = self._session.rows(
            "UPDATE banks SET next_id = next_id + %s WHERE id = %s RETURNING next_id - %s",
            (len(own) + sum(counts) + 1, self._number, len(own) + sum(counts) + 1),
        )
        first = int(rows[0][0])
        ids = range(first, first + len(own))
        chunk_ids = iter(range(first + len(own), first + len(own) + sum(counts)))
        places = [[(next(chunk_ids), each) for each in split] for _, split in own]
        for into, made in self._rows(own, ids, places, first, writer):
            self._session.copy(into, copied(made))
        self._count(sum(counts), sum(len(each) for _, split in own for each in split))
        if has_words(self._bank) and sum(counts) < words.SMALL:
            self._merge(first, spare=first + len(own) + sum(counts))

    def _rows(
        self,
        own: Sequence[tuple[Document, Sequence[Sequence[str]]]],
        ids: Sequence[int],
        places: Sequence[Sequence[tuple[int, Sequence[str]]]],
        segment: int,
        writer: int,
    ) -> Iterator[tuple[str, Iterable[Sequence[Field]]]]:
        """What is added, table by table."""
        number, documents = self._number, [document for document, _ in own]
        yield f"documents_{number}", _document_rows(documents, ids, writer)
        yield f"chunks_{number}", _chunk_rows(documents, ids, places, segment)
        if has_words(self._bank):
            yield f"words_{number}{words.COLUMNS}", words.rows_of(segment, chain.from_iterable(places))
        if self._bank.kind is BankKind.VECTOR:
            yield f"vectors_{number}", _vector_rows(documents, places)
        if self._bank.kind is BankKind.GRAPH:
            links = [links_of(document) for document in documents]
            yield (
                f"entities_{number}",
                [(text(e), bigint(own)) for own, (entities, _) in zip(ids, links, strict=True) for e in entities],
            )
            yield (
                f"relations_{number}",
                [(text(a), text(b), bigint(own)) for own, (_, pairs) in zip(ids, links, strict=True) for a, b in pairs],
            )

    def _count(self, chunks: int, length: int) -> None:
        self._session.rows(
            "UPDATE banks SET chunks = chunks + %s, words = words + %s WHERE id = %s", (chunks, length, self._number)
        )

    def _merge(self, segment: int, *, spare: int) -> None:
        row = self._session.one("SELECT small FROM banks WHERE id = %s", (self._number,))
        small = [*(row[0] if row else ()), segment]
        left = words.merged(self._session, self._number, small, spare)
        self._session.rows("UPDATE banks SET small = %s WHERE id = %s", (left, self._number))


def _document_rows(documents: Sequence[Document], ids: Sequence[int], writer: int) -> Iterator[Sequence[Field]]:
    for document, own in zip(documents, ids, strict=True):
        expires = None if document.expires_at is None else double(document.expires_at)
        yield bigint(own), text(document.document_id), bigint(writer), expires


def _chunk_rows(
    documents: Sequence[Document],
    ids: Sequence[int],
    places: Sequence[Sequence[tuple[int, Sequence[str]]]],
    segment: int,
) -> Iterator[Sequence[Field]]:
    for document, own, chunks in zip(documents, ids, places, strict=True):
        for position, (chunk, (number, split)) in enumerate(zip(document.chunks, chunks, strict=True)):
            yield (
                bigint(number),
                bigint(own),
                integer(position),
                bigint(segment),
                integer(len(split)),
                text(chunk.content),
                integer(chunk.token_count),
                jsonb(chunk.metadata),
            )


def _vector_rows(
    documents: Sequence[Document], places: Sequence[Sequence[tuple[int, Sequence[str]]]]
) -> Iterator[Sequence[Field]]:
    for document, chunks in zip(documents, places, strict=True):
        for chunk, (number, _) in zip(document.chunks, chunks, strict=True):
            yield bigint(number), vector(chunk.embedding or ())
