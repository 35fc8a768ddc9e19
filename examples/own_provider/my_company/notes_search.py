"""How notes are searched: through all of a bank's documents, best first, by the scores that the port names."""

import math
import re
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from worker.providers.memory import Chunk, Found, Search

Json = dict[str, Any]
Documents = dict[str, Json]
"""By id: the fields of `Document`, and `writer`."""


def without_expired(documents: Documents) -> Documents:
    now = time.time()
    return {name: one for name, one in documents.items() if one["expires_at"] is None or one["expires_at"] > now}


def by_vector(documents: Documents, search: Search) -> list[Found]:
    wanted = search.embedding or ()
    return _best(documents, search, lambda chunks: [_cosine(wanted, chunk["embedding"]) for chunk in chunks])


def by_words(documents: Documents, search: Search) -> list[Found]:
    wanted = set(_words(search.text))
    return _best(documents, search, lambda chunks: _bm25(wanted, [_words(chunk["content"]) for chunk in chunks]))


def by_keys(documents: Documents, search: Search) -> list[Found]:
    return _of_documents(documents, dict.fromkeys(search.keys, 1.0), search)


def by_entities(documents: Documents, search: Search) -> list[Found]:
    """Relations lead both ways. A document is as near as the nearest of its entities."""
    pairs = [(_key(one), _key(other)) for document in documents.values() for one, _, other in document["relations"]]
    distances = {_key(entity): 0 for entity in search.entities}
    for distance in range(1, search.depth + 1):
        reached = [there for pair in pairs for here, there in (pair, pair[::-1]) if here in distances]
        distances = {**dict.fromkeys(reached, distance), **distances}
    scores: dict[str, float] = {}
    for name, document in documents.items():
        entities = {*document["entities"], *(end for one, _, other in document["relations"] for end in (one, other))}
        near = [distances[key] for entity in entities if (key := _key(entity)) in distances]
        if near:
            scores[name] = 1 / (1 + min(near))
    return _of_documents(documents, dict(sorted(scores.items(), key=lambda item: -item[1])), search)


def _best(documents: Documents, search: Search, rate: Callable[[list[Json]], list[float | None]]) -> list[Found]:
    """The chunks with a score. All of them are rated, and those that `filters` leave out are then left out."""
    every = [(name, at, chunk) for name, one in documents.items() for at, chunk in enumerate(one["chunks"])]
    scores = rate([chunk for _, _, chunk in every])
    found = [
        _found(name, at, chunk, score)
        for (name, at, chunk), score in zip(every, scores, strict=True)
        if score is not None and _fits(chunk["metadata"], search.filters)
    ]
    return sorted(found, key=lambda one: -one.score)


def _of_documents(documents: Documents, scores: Mapping[str, float], search: Search) -> list[Found]:
    """All chunks of these documents, in this order."""
    return [
        _found(name, at, chunk, score)
        for name, score in scores.items()
        if name in documents
        for at, chunk in enumerate(documents[name]["chunks"])
        if _fits(chunk["metadata"], search.filters)
    ]


def _found(name: str, position: int, chunk: Json, score: float) -> Found:
    own = Chunk(content=chunk["content"], token_count=chunk["token_count"], metadata=chunk["metadata"])
    return Found(document_id=name, position=position, chunk=own, score=score)


def _fits(metadata: Json, filters: Mapping[str, Any]) -> bool:
    return all(
        name in metadata
        and any(_same(metadata[name], one) for one in (wanted if isinstance(wanted, list) else [wanted]))
        for name, wanted in filters.items()
    )


def _same(one: Any, other: Any) -> bool:
    """As JSON has it: 1 is 1.0, and is not true."""
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _cosine(one: Sequence[float], other: Sequence[float]) -> float:
    lengths = math.hypot(*one) * math.hypot(*other)
    return sum(a * b for a, b in zip(one, other, strict=True)) / lengths if lengths else 0.0


def _bm25(wanted: set[str], texts: Sequence[list[str]]) -> list[float | None]:
    """BM25 with its usual constants, 1.2 and 0.75; none for a text that has none of the words."""
    average = sum(map(len, texts)) / len(texts) if texts else 0
    counts = [Counter(word for word in text if word in wanted) for text in texts]
    having = Counter(word for count in counts for word in count)
    rarity = {word: math.log(1 + (len(texts) - number + 0.5) / (number + 0.5)) for word, number in having.items()}
    return [
        sum(
            rarity[word] * 2.2 * times / (times + 1.2 * (0.25 + 0.75 * len(text) / average))
            for word, times in count.items()
        )
        if count
        else None
        for text, count in zip(texts, counts, strict=True)
    ]


def _words(text: str) -> list[str]:
    """Whatever their case and accents."""
    plain = (mark for mark in unicodedata.normalize("NFKD", text) if not unicodedata.combining(mark))
    return re.findall(r"\w+", "".join(plain).casefold())


def _key(entity: str) -> str:
    return entity.strip().casefold()
