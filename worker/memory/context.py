"""What was found, as a model reads it, with its sources. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shared.events import Json
from worker.memory.chunking import count_tokens, first_tokens
from worker.memory.preparing import Failure
from worker.memory.service import Hit

_DOCUMENTS = "Documents that came with the message:"
_HEAD = "From memory, in case it helps with the answer. Name a source as [document_id] where you use it."


@dataclass(frozen=True, slots=True)
class Context:
    """Text for the model, empty where nothing was found, and what it was made of, in order:
    `{document_id, bank_id, position, score, metadata}`; `bank_id` is null of a document that came with the turn."""

    text: str
    citations: list[Json]


def context_of(hits: Iterable[Hit], *, max_tokens: int) -> Context:
    """The best hits that fit into `max_tokens`, the head included. The first is cut where it does not fit by itself."""
    left = max_tokens - count_tokens(_HEAD)
    parts: list[str] = []
    citations: list[Json] = []
    for hit in hits:
        part = f"[{hit.found.document_id}]\n{hit.found.chunk.content}"
        size = count_tokens(part)
        if size > left and parts:
            break
        parts.append(part if size <= left else first_tokens(part, max(left, 0)))
        citations.append(_citation(hit))
        left -= size
    return Context("\n\n".join([_HEAD, *parts]) if parts else "", citations)


def whole_documents(documents: Sequence[tuple[str, str, Json]], failures: Sequence[Failure]) -> Context:
    """Documents (name, text, metadata) that are shown whole, and what is told of those that cannot be read."""
    parts = [f"[{name}]\n{text}" for name, text, _ in documents]
    parts += [f"[{failure.document_id}] cannot be read: {failure.message}" for failure in failures]
    citations: list[Json] = [
        {"document_id": name, "bank_id": None, "position": 0, "score": 1.0, "metadata": metadata}
        for name, _, metadata in documents
    ]
    return Context("\n\n".join([_DOCUMENTS, *parts]) if parts else "", citations)


def _citation(hit: Hit) -> Json:
    return {
        "document_id": hit.found.document_id,
        "bank_id": hit.bank_id,
        "position": hit.found.position,
        "score": hit.found.score,
        "metadata": hit.found.chunk.metadata,
    }


def as_result(hits: Sequence[Hit]) -> Json:
    """`{chunks, scores}`, as Llama Stack's memory and vector APIs answer a query."""
    return {
        "chunks": [
            {
                "content": hit.found.chunk.content,
                "token_count": hit.found.chunk.token_count,
                "document_id": hit.found.document_id,
                "metadata": {**hit.found.chunk.metadata, "document_id": hit.found.document_id},
            }
            for hit in hits
        ],
        "scores": [hit.found.score for hit in hits],
    }
