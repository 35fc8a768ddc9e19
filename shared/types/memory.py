"""Memory: banks, what is put into them, and what is asked of them."""

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from shared.status import TurnStatus
from shared.types.base import Items, Json, Metadata, Name, PathName, Wire
from shared.types.content import Content, DocumentContent
from shared.types.registering import ProviderId
from shared.types.retrieval import BankType, Depth, Entities, Filters, Keys, MaxChunks, MaxTokens, Mode
from shared.types.turns import MOST_SECONDS, TurnError

_LARGEST = 3.4028234e38
"""About the largest number of single precision (IEEE 754)."""
Tokens = Annotated[int, Field(ge=16, le=8192)]
Single = Annotated[float, Field(ge=-_LARGEST, le=_LARGEST, description="Kept with single precision.")]
Dimension = Annotated[int, Field(ge=1, le=8192)]
Ttl = Annotated[int | None, Field(ge=1, le=MOST_SECONDS, description="The documents are gone after so many seconds.")]


class RegisterMemoryBank(Wire):
    """A memory bank to register. What is said of embeddings and chunks holds for the kinds that have them.

    `embedding_model` may be left out where one embedding model is served, its dimension always.
    """

    memory_bank_id: PathName
    type: BankType
    provider_id: ProviderId = None
    provider_memory_bank_id: Name | None = None
    embedding_model: Name | None = None
    embedding_dimension: Dimension | None = None
    chunk_size_in_tokens: Tokens = 512
    overlap_size_in_tokens: Annotated[
        int | None, Field(ge=0, le=4096, description="An eighth of the chunk size where it is left out.")
    ] = None

    @field_validator("overlap_size_in_tokens")
    @classmethod
    def _overlap_is_less(cls, value: int | None, info: ValidationInfo) -> int | None:
        size = info.data.get("chunk_size_in_tokens")
        if value is not None and size is not None and value * 2 > size:
            raise ValueError(f"should be at most half of chunk_size_in_tokens, which is {size}")
        return value


class RegisterVectorDB(Wire):
    """A vector bank by the names of Llama Stack's client."""

    vector_db_id: PathName
    embedding_model: Name
    embedding_dimension: Dimension | None = None
    provider_id: ProviderId = None
    provider_vector_db_id: Name | None = None


class MemoryBankEntry(Wire):
    """A memory bank, and the instance that keeps it."""

    identifier: str
    provider_resource_id: str
    provider_id: str
    type: Literal["memory_bank"]
    memory_bank_type: BankType
    embedding_model: str | None = None
    embedding_dimension: int | None = None
    chunk_size_in_tokens: int
    overlap_size_in_tokens: int


class MemoryBankList(Wire):
    """All memory banks."""

    data: list[MemoryBankEntry]


class VectorDBEntry(Wire):
    """A vector bank by the names of Llama Stack's client."""

    identifier: str
    provider_resource_id: str
    provider_id: str
    type: Literal["vector_db"]
    embedding_model: str
    embedding_dimension: int


class VectorDBList(Wire):
    """All vector banks."""

    data: list[VectorDBEntry]


class MemoryDocument(Wire):
    """A document to insert. One with the same id replaces it.

    In a keyvalue bank the id is the key. In a graph bank `metadata` has `{entities: [name], relations: [[entity,
    relation, entity]]}`.
    """

    document_id: Name
    content: DocumentContent
    mime_type: Annotated[str | None, Field(max_length=255)] = None
    metadata: Metadata = Field(default_factory=dict)


Documents = Annotated[Items[MemoryDocument], Field(min_length=1, max_length=100_000)]


class InsertDocuments(Wire):
    """Documents for a bank."""

    bank_id: Name
    documents: Documents
    ttl_seconds: Ttl = None


class InsertForRag(Wire):
    """Documents for a bank, by the names of Llama Stack's RAG tool."""

    vector_db_id: Name
    documents: Documents
    chunk_size_in_tokens: Tokens | None = None


class VectorChunk(Wire):
    """A chunk of a document. `metadata.document_id` says of which; without it the chunk is one by itself."""

    content: Content
    metadata: Metadata = Field(default_factory=dict)
    embedding: Annotated[Items[Single] | None, Field(min_length=1, max_length=8192)] = None


class InsertChunks(Wire):
    """Chunks for a bank. All that come of one document replace what was there of it."""

    vector_db_id: Name
    chunks: Annotated[Items[VectorChunk], Field(min_length=1, max_length=100_000)]
    ttl_seconds: Ttl = None


class QueryParams(Wire):
    """How to search."""

    max_chunks: MaxChunks = 10
    mode: Mode | None = None
    score_threshold: Annotated[float | None, Field(description="Only chunks with at least this score.")] = None
    filters: Filters = Field(default_factory=dict)
    keys: Keys = Field(default_factory=list)
    entities: Entities = Field(default_factory=list)
    depth: Depth = 1


class QueryMemory(Wire):
    """A question to a bank."""

    bank_id: Name
    query: Content
    params: QueryParams = Field(default_factory=QueryParams)


class QueryVectorDB(Wire):
    """A question to a bank, by the names of Llama Stack's client."""

    vector_db_id: Name
    query: Content
    params: QueryParams = Field(default_factory=QueryParams)


class RagQueryConfig(Wire):
    """How the RAG tool searches. Queries are taken as they are."""

    max_chunks: MaxChunks = 10
    max_tokens_in_context: MaxTokens = 4096
    mode: Mode | None = None


class QueryForRag(Wire):
    """A question to banks, for an answer as a model reads it."""

    content: Content
    vector_db_ids: Annotated[Items[Name], Field(min_length=1, max_length=100)]
    query_config: RagQueryConfig = Field(default_factory=RagQueryConfig)


class FoundChunk(Wire):
    """A chunk that was found."""

    content: str
    token_count: int
    document_id: str
    metadata: Json


class FoundChunks(Wire):
    """What was found, best first, and how well each fits."""

    chunks: list[FoundChunk]
    scores: list[float]


class RagResult(Wire):
    """What was found, as a model reads it; `metadata` names the documents."""

    content: str | None = None
    metadata: Json


class FailedDocument(Wire):
    """A document that could not be inserted."""

    document_id: str
    code: str
    message: str


class Job(Wire):
    """An insert job as it is now. Documents that could not be read are counted in `failed`, and the first of them
    listed in `failures`; the others go in."""

    job_id: str
    type: Literal["memory_insert"]
    bank_id: str
    status: Annotated[TurnStatus, Field(strict=False)]
    attempts: Annotated[int, Field(description="How many workers have taken it up.")]
    documents: Annotated[int | None, Field(description="How many there are; null until a worker has taken it up.")] = (
        None
    )
    done: Annotated[int, Field(description="Documents that are done with, failed ones included.")]
    chunks: int
    failed: int
    failures: Items[FailedDocument]
    created_at: str
    started_at: str
    completed_at: str | None = None
    error: TurnError | None = None
    retry_of: Annotated[str | None, Field(description="The job that an operator had run again as this one.")] = None


class ListedJob(Wire):
    """An insert job in a list."""

    job_id: str
    bank_id: str
    status: Annotated[TurnStatus, Field(strict=False)]
    attempts: int
    created_at: str
    worker: Annotated[str | None, Field(description="The process that runs it, while one does.")] = None
    error: TurnError | None = None
    retry_of: str | None = None
    url: str


class JobList(Wire):
    """Insert jobs, newest first."""

    data: Items[ListedJob]
    has_more: bool
    after: str | None = None
