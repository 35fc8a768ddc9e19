"""From a document as a client sent it to the one that a bank stores: read, cut, and checked against the bank's kind."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from shared.events import Json
from worker.documents.errors import UnreadableDocument
from worker.memory.chunking import count_tokens, cut
from worker.memory.query import text_of
from worker.providers.memory import Bank, BankKind, Chunk, Document, Relation

ReadContent = Callable[[object, str | None], str]
"""The text of a document's content, of a mime type (None: not said). Raises UnreadableDocument."""


class ReadOfTenant(Protocol):
    """As `ReadContent`, for any tenant."""

    def __call__(self, content: object, mime_type: str | None, *, tenant: str) -> str:
        """The text. Raises UnreadableDocument."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A document that could not be read. The others go in."""

    document_id: str
    code: str
    message: str

    def as_json(self) -> Json:
        return {"document_id": self.document_id, "code": self.code, "message": self.message}


def prepared(sent: Json, bank: Bank, *, read: ReadContent, expires_at: float | None) -> Document | Failure:
    """The document for `bank`, still without embeddings but for those that the client sent."""
    name: str = sent["document_id"]
    try:
        chunks = [_given(one) for one in sent["chunks"]] if "chunks" in sent else _read(sent, bank, read)
        entities, relations = _graph(sent) if bank.kind is BankKind.GRAPH else ((), ())
    except UnreadableDocument as error:
        return Failure(name, error.code, error.message)
    return Document(document_id=name, chunks=chunks, expires_at=expires_at, entities=entities, relations=relations)


def _given(chunk: Json) -> Chunk:
    text = text_of(chunk["content"])
    return Chunk(
        content=text,
        token_count=count_tokens(text),
        metadata=chunk.get("metadata") or {},
        embedding=chunk.get("embedding"),
    )


def _read(sent: Json, bank: Bank, read: ReadContent) -> list[Chunk]:
    text = read(sent["content"], sent.get("mime_type"))
    metadata: Json = sent.get("metadata") or {}
    if bank.kind in (BankKind.KEYVALUE, BankKind.GRAPH):
        return [Chunk(content=text, token_count=count_tokens(text), metadata=metadata)]
    pieces = cut(text, size=bank.chunk_size_in_tokens, overlap=bank.overlap_size_in_tokens)
    if not pieces:
        raise UnreadableDocument("empty_document", "There is no text in the document.")
    return [Chunk(content=piece, token_count=count_tokens(piece), metadata=metadata) for piece in pieces]


def _graph(sent: Json) -> tuple[Sequence[str], Sequence[Relation]]:
    """`metadata: {entities, relations: [[a, r, b]]}`."""
    metadata: Json = sent.get("metadata") or {}
    entities, relations = metadata.get("entities") or [], metadata.get("relations") or []
    if not _texts(entities):
        raise UnreadableDocument("malformed_graph", "metadata.entities has to be a list of names.")
    if not isinstance(relations, list) or not all(_texts(one) and len(one) == 3 for one in relations):
        problem = "metadata.relations has to be a list of [entity, relation, entity], each of them a text."
        raise UnreadableDocument("malformed_graph", problem)
    if not entities and not relations:
        problem = "A document of a graph bank needs metadata.entities or metadata.relations."
        raise UnreadableDocument("malformed_graph", problem)
    return entities, [cast(Relation, tuple(one)) for one in relations]


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) and item for item in value)
