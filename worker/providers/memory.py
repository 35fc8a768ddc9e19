"""The port of memory providers: what inserting and retrieving ask of a store of documents."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

Json = dict[str, Any]
Relation = tuple[str, str, str]
"""One entity, how it relates to another, and that other entity."""
Mode = Literal["vector", "keyword", "hybrid"]


class BankKind(StrEnum):
    """What a memory bank is searched by."""

    VECTOR = "vector"
    """Meaning: chunks with embeddings. Words as well (`Mode`)."""
    KEYWORD = "keyword"
    """Words: BM25."""
    KEYVALUE = "keyvalue"
    """Exact keys: a document's id is its key."""
    GRAPH = "graph"
    """Entities and their relations, up to a distance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bank:
    """A memory bank. `resource_id` is its name within the provider, where tenants meet: it alone tells banks apart.

    `embedding_dimension` is that of `embedding_model`; both are None but for vector banks.
    """

    identifier: str
    resource_id: str
    kind: BankKind
    embedding_model: str | None = None
    embedding_dimension: int | None = None
    chunk_size_in_tokens: int = 512
    overlap_size_in_tokens: int = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A piece of a document. `metadata` is what the client gave with the document or the chunk."""

    content: str
    token_count: int
    metadata: Json = field(default_factory=dict)
    embedding: Sequence[float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A document as it is stored: whole, in its chunks, in order. `expires_at` is in seconds since the epoch.

    `entities` and `relations` are for graph banks; the entities of its relations are its own too.
    """

    document_id: str
    chunks: Sequence[Chunk]
    expires_at: float | None = None
    entities: Sequence[str] = ()
    relations: Sequence[Relation] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What to find. `embedding` is that of `text`, for the modes that need one.

    `keys` are for keyvalue banks, `entities` and `depth` (how many relations away) for graph banks. `filters` hold
    only for chunks whose metadata have every one of these values, or one of those in a list.
    """

    text: str = ""
    embedding: Sequence[float] | None = None
    mode: Mode = "keyword"
    limit: int = 10
    filters: Mapping[str, Any] = field(default_factory=dict)
    keys: Sequence[str] = ()
    entities: Sequence[str] = ()
    depth: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A chunk that was found. `position` is its place in the document, from 0; a higher score is a better one.

    Scores by mode: cosine similarity; BM25; both together, 0 or more (`memory_base.fused`); 1 for a key;
    1 / (1 + distance) in a graph.
    """

    document_id: str
    position: int
    chunk: Chunk
    score: float


class MemoryProvider(ABC):
    """A provider instance that keeps memory banks.

    Instances are made once per worker process and used by many greenlets at once, and by several processes on one
    store. Methods may wait and never block the process's other greenlets. Every method raises
    `shared.errors.ProviderError` (and nothing else) for a fault, with a message that names the instance, says what to
    do and holds no secret and no content; `memory_bank_not_found` for a bank that is not (or not any more) there.
    """

    provider_id: str
    provider_type: str

    @abstractmethod
    def list_memory_banks(self) -> list[Bank]:
        """The banks that the provider has by itself. Those that were registered are not among them."""

    @abstractmethod
    def register_memory_bank(self, bank: Bank) -> Bank:
        """Accept a bank, or raise with the provider's reason. Repeating it is harmless, and keeps what is in it;
        another bank under the same `resource_id` (kind, model, dimension) is refused as `memory_bank_taken`."""

    @abstractmethod
    def unregister_memory_bank(self, resource_id: str) -> None:
        """Delete a bank with all that is in it. Repeating it is harmless."""

    @abstractmethod
    def begin(self, bank: Bank) -> int:
        """A place among the bank's writers, higher than those of all who began before, also of a bank that was deleted
        meanwhile. It outlives a crash."""

    @abstractmethod
    def put(self, bank: Bank, documents: Sequence[Document], *, writer: int) -> None:
        """Store documents, all of them or none: each replaces whatever was there under its id, unless a later writer
        (`begin`) has put that. Once this returns they outlive a crash. Repeating it changes nothing; ids that stand
        twice: the last one counts. A writer that began before the bank was deleted finds it gone."""

    @abstractmethod
    def delete(self, bank: Bank, document_ids: Sequence[str]) -> None:
        """Delete documents. Ones that are not there are none."""

    @abstractmethod
    def search(self, bank: Bank, search: Search) -> list[Found]:
        """The best `search.limit` chunks, best first; none of a document that has expired."""

    @abstractmethod
    def close(self) -> None:
        """Release what is open. The instance is not used afterwards."""
