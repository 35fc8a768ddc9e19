"""What memory providers share: the way of a search by kind and mode, the checks of a bank, the words of errors."""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

import orjson

from shared.errors import ProviderError
from worker.providers.memory import Bank, BankKind, Chunk, Document, Found, MemoryProvider, Search

MOST_DIMENSIONS = 8192
_CANDIDATES = 50
"""So many of each list are fused at least: what is second in both may be better than what is first in one."""
_MEANING = 0.4
"""The weight of meaning; that of words is the rest. Both numbers were chosen on the first half of the texts that the
tests of retrieval quality ask about, and are reported on the second: docs/memory.md has the figures."""
MOST_WORDS = 200
"""Of a query: what is more is a document, and searched by its first words."""


class SearchedMemory(MemoryProvider):
    """A provider whose implementations supply one search for each way. All of them raise ProviderError."""

    def __init__(self, *, provider_id: str) -> None:
        self.provider_id = provider_id

    def search(self, bank: Bank, search: Search) -> list[Found]:
        if bank.kind is BankKind.KEYVALUE:
            return self._by_keys(bank, search)
        if bank.kind is BankKind.GRAPH:
            return self._by_entities(bank, search)
        if bank.kind is BankKind.KEYWORD or search.mode == "keyword":
            return self._by_words(bank, search, search.limit)
        self._check_vector(bank, search.embedding)
        if search.mode == "vector":
            return self._by_vector(bank, search, search.limit)
        deep = max(search.limit, _CANDIDATES)
        return fused([self._by_vector(bank, search, deep), self._by_words(bank, search, deep)])[: search.limit]

    @abstractmethod
    def _by_vector(self, bank: Bank, search: Search, limit: int) -> list[Found]:
        """The nearest chunks."""

    @abstractmethod
    def _by_words(self, bank: Bank, search: Search, limit: int) -> list[Found]:
        """The chunks that have most of the words."""

    @abstractmethod
    def _by_keys(self, bank: Bank, search: Search) -> list[Found]:
        """The documents with these ids, in the order of the keys."""

    @abstractmethod
    def _by_entities(self, bank: Bank, search: Search) -> list[Found]:
        """The documents about entities that are at most so many relations away."""

    def _check_bank(self, bank: Bank) -> None:
        """Raises `memory_bank_refused`."""
        if bank.kind is not BankKind.VECTOR:
            return
        if bank.embedding_model is None or not 1 <= (bank.embedding_dimension or 0) <= MOST_DIMENSIONS:
            problem = f"takes vector banks with a model and 1 to {MOST_DIMENSIONS} dimensions only."
            raise self._error("memory_bank_refused", problem)

    def _check_documents(self, bank: Bank, documents: Sequence[Document]) -> list[Document]:
        """Each id once, the last one. Raises `embedding_dimension_mismatch`."""
        for document in documents if bank.kind is BankKind.VECTOR else ():
            for chunk in document.chunks:
                self._check_vector(bank, chunk.embedding)
        return list({document.document_id: document for document in documents}.values())

    def _check_vector(self, bank: Bank, embedding: Sequence[float] | None) -> None:
        given, wanted = len(embedding or ()), bank.embedding_dimension
        if given != wanted:
            problem = (
                f"keeps embeddings of {wanted} dimensions in the bank '{bank.identifier}', and got one of {given}."
                " Was another model put in the place of the bank's?"
            )
            raise self._error("embedding_dimension_mismatch", problem)

    def _no_bank(self, bank: Bank) -> ProviderError:
        problem = f"has no memory bank '{bank.identifier}' (any more). Register it again."
        return self._error("memory_bank_not_found", problem)

    def _taken(self, bank: Bank) -> ProviderError:
        problem = (
            f"keeps a memory bank '{bank.resource_id}' already, of another kind, model or dimension. Delete that first,"
            " or choose another name for this one (memory_bank_id, or provider_memory_bank_id)."
        )
        return self._error("memory_bank_taken", problem)

    def _error(self, code: str, problem: str, **facts: Any) -> ProviderError:
        """`problem` continues the sentence that begins with the provider's name."""
        message = f"Provider '{self.provider_id}' {problem}"
        return ProviderError(message, provider_id=self.provider_id, code=code, **facts)


def fused(lists: Sequence[Sequence[Found]]) -> list[Found]:
    """Two lists, by meaning and by words, as one: the weighted sum of how far each found a chunk above its last.

    A convex combination of scores (Bruch, Gai and Ingber, 2023, arXiv:2210.11934), each counted in the standard
    deviations of its list, so that one in which something stands out says more than one in which all are alike. What
    one list lacks has nothing of it. Scores are 0 or more, and have no common measure with those of another search.
    """
    by_meaning, by_words = lists
    size = max(len(by_meaning), len(by_words))
    weighted = (
        (by_meaning, _MEANING, _heights([one.score for one in by_meaning])),
        # What has none of the words is not found, and has a score of 0: where few are found, they stand out.
        (by_words, 1 - _MEANING, _heights([one.score for one in by_words] + [0.0] * (size - len(by_words)))),
    )
    scores: dict[tuple[str, int], float] = {}
    chunks: dict[tuple[str, int], Found] = {}
    for found, weight, heights in weighted:
        for one, height in zip(found, heights, strict=False):
            place = (one.document_id, one.position)
            scores[place] = scores.get(place, 0.0) + weight * height
            chunks.setdefault(place, one)
    best = sorted(scores, key=lambda place: -scores[place])
    return [replace(chunks[place], score=scores[place]) for place in best]


def _heights(scores: Sequence[float]) -> list[float]:
    """How many standard deviations each is above the least; 0 where all are the same."""
    if not scores:
        return []
    least, mean = min(scores), fmean(scores)
    spread = math.sqrt(fmean([(score - mean) ** 2 for score in scores]))
    # What differs by rounding alone is the same.
    return [(score - least) / spread if spread > 1e-9 * (abs(mean) + 1) else 0.0 for score in scores]


def has_words(bank: Bank) -> bool:
    """Whether it is searched by words."""
    return bank.kind in (BankKind.VECTOR, BankKind.KEYWORD)


def entity_key(entity: str) -> str:
    """Entities are the same whatever their case, and whatever space is around them."""
    return entity.strip().casefold()


def links_of(document: Document) -> tuple[set[str], set[tuple[str, str]]]:
    """A document's entities, and which are related, both ways: keys."""
    pairs = {(entity_key(one), entity_key(other)) for one, _, other in document.relations}
    entities = {entity_key(entity) for entity in document.entities} | {entity for pair in pairs for entity in pair}
    return entities, {*pairs, *((other, one) for one, other in pairs)}


def distances(search: Search, related: Callable[[list[str]], Iterable[str]]) -> dict[str, int]:
    """Entities by how many relations they are away from those that are asked for, at most `search.depth`. `related`
    gives those that are one away from any of some."""
    found = {entity_key(entity): 0 for entity in search.entities}
    edge = list(found)
    for distance in range(1, search.depth + 1):
        edge = list(dict.fromkeys(other for other in related(edge) if other not in found))
        if not edge:
            break
        found |= dict.fromkeys(edge, distance)
    return found


def scored_by_distance(pairs: Iterable[tuple[str, str]], away: dict[str, int]) -> dict[str, float]:
    """Documents by the nearest of their entities, best first; `pairs` are a document's id and an entity."""
    scores: dict[str, float] = {}
    for name, entity in pairs:
        scores[name] = max(scores.get(name, 0.0), 1 / (1 + away[entity]))
    return dict(sorted(scores.items(), key=lambda item: -item[1]))


def found_in(row: Sequence[Any]) -> Found:
    """Of (document_id, position, content, token_count, metadata as JSON, score)."""
    name, position, content, tokens, metadata, score = row
    chunk = Chunk(content=content, token_count=tokens, metadata=orjson.loads(metadata))
    return Found(document_id=name, position=position, chunk=chunk, score=float(score))
