"""Whether retrieval is right: against brute force, against a reference BM25, and what both ways together can find.

The collection is made from a seed: topics with words of their own, sentences of them, and for each topic a query of
words that no sentence has in this order. Half of the queries have typing errors, which words do not survive; half name
a rare number, which an embedding by letters hardly sees.
"""

import math
import random
import re
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from postgreskit import own_schema
from pydantic import SecretStr

from worker.providers.memory import Bank, BankKind, Chunk, Document, Found, MemoryProvider, Mode, Search
from worker.providers.memory_pgvector import PgvectorMemory
from worker.providers.memory_pgvector_config import PgvectorConfig
from worker.providers.memory_sqlite import SqliteMemory, SqliteMemoryConfig
from worker.providers.scripted_embedding import DIMENSIONS, scripted_embedding

SEED = 20261128
TOPICS, SENTENCES, QUERIES = 120, 10, 120
SYLLABLES = (
    "ba be bi bo bu da de di do du ka ke ki ko ku la le li lo lu ma me mi mo mu ra re ri ro ru ta te ti to tu".split()
)
COMMON = "the of and to in is that it was for on are with as be at this have from or".split()
BANK = Bank(
    identifier="b", resource_id="b", kind=BankKind.VECTOR, embedding_model="e", embedding_dimension=DIMENSIONS
)  # fmt: skip


class Collection:
    """Documents by id, and queries with the topic that they are about."""

    def __init__(self) -> None:
        chance = random.Random(SEED)
        self.texts: dict[str, str] = {}
        self.queries: list[tuple[str, str]] = []
        for topic in range(TOPICS):
            own = ["".join(chance.choices(SYLLABLES, k=3)) for _ in range(8)]
            number = f"{topic:03d}{chance.randrange(10_000):04d}"
            for sentence in range(SENTENCES):
                self.texts[f"{topic}-{sentence}"] = self._sentence(chance, own, number if sentence < 2 else "")
            if topic % 2:
                self.queries.append((f"{topic}", self._mistyped(chance, chance.sample(own, 4))))
            else:
                other = "".join(chance.choices(SYLLABLES, k=3))
                self.queries.append((f"{topic}", f"{other} {number}"))

    def _sentence(self, chance: random.Random, own: list[str], number: str) -> str:
        words = chance.sample(own, 4) + chance.choices(COMMON, k=4) + ([number] if number else [])
        chance.shuffle(words)
        return " ".join(words)

    def _mistyped(self, chance: random.Random, words: list[str]) -> str:
        """Two letters of each word change places."""
        places = [chance.randrange(len(word) - 1) for word in words]
        return " ".join(
            word[:at] + word[at + 1] + word[at] + word[at + 2 :] for word, at in zip(words, places, strict=True)
        )


COLLECTION = Collection()


@pytest.fixture(scope="module", params=["sqlite", "pgvector"])
def provider(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MemoryProvider]:
    with ExitStack() as stack:
        provider: MemoryProvider
        if request.param == "sqlite":
            path = tmp_path_factory.mktemp("quality") / "memory.sqlite3"
            provider = SqliteMemory(provider_id="it", config=SqliteMemoryConfig(path=str(path)))
        else:
            url = request.getfixturevalue("postgres_url")
            schema = stack.enter_context(own_schema(url))
            config = PgvectorConfig(url=SecretStr(url), schema=schema)
            provider = PgvectorMemory(provider_id="it", config=config)
        stack.callback(provider.close)
        provider.register_memory_bank(BANK)
        provider.put(BANK, [
            Document(document_id=name, chunks=[
                Chunk(content=text, token_count=12, embedding=scripted_embedding(text))
            ])
            for name, text in COLLECTION.texts.items()
        ], writer=provider.begin(BANK))  # fmt: skip
        yield provider


def search(provider: MemoryProvider, text: str, mode: Mode, limit: int = 5) -> list[Found]:
    return provider.search(BANK, Search(text=text, embedding=scripted_embedding(text), mode=mode, limit=limit))


def cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def reference_bm25(query: str) -> dict[str, float]:
    """By Robertson and Zaragoza (2009), k1 = 1.2, b = 0.75, with the inverse document frequency that FTS5 documents."""
    texts = {name: re.findall(r"\w+", text.lower()) for name, text in COLLECTION.texts.items()}
    average = sum(map(len, texts.values())) / len(texts)
    scores: dict[str, float] = {}
    for word in dict.fromkeys(re.findall(r"\w+", query.lower())):
        having = sum(word in words for words in texts.values())
        weight = max(math.log((len(texts) - having + 0.5) / (having + 0.5)), 1e-6)
        for name, words in texts.items():
            count = Counter(words)[word]
            if count:
                length = 1.2 * (1 - 0.75 + 0.75 * len(words) / average)
                scores[name] = scores.get(name, 0.0) + weight * count * 2.2 / (count + length)
    return scores


def test_vector_search_finds_what_brute_force_finds(provider: MemoryProvider) -> None:
    vectors = {name: scripted_embedding(text) for name, text in COLLECTION.texts.items()}
    hits = 0
    for _, query in COLLECTION.queries:
        wanted = scripted_embedding(query)
        best = sorted(-cosine(vector, wanted) for vector in vectors.values())[:5]
        scores = [one.score for one in search(provider, query, "vector")]
        hits += sum(abs(score + true) < 1e-4 for score, true in zip(scores, best, strict=True))
    recall = hits / (5 * len(COLLECTION.queries))
    sys.stdout.write(f"recall@5 of vector search against brute force: {recall:.4f}\n")
    assert recall == 1.0


def test_words_are_ranked_as_by_a_reference_bm25(provider: MemoryProvider) -> None:
    for _, query in COLLECTION.queries[::6]:
        reference = reference_bm25(query)
        found = search(provider, query, "keyword", limit=20)
        assert [one.score for one in found] == pytest.approx(sorted(reference.values(), reverse=True)[:20], rel=1e-6)
        assert all(one.score == pytest.approx(reference[one.document_id], rel=1e-6) for one in found)


def test_both_together_can_find_what_each_alone_misses(provider: MemoryProvider) -> None:
    recall = {
        mode: sum(
            any(one.document_id.split("-")[0] == topic for one in search(provider, query, mode))
            for topic, query in COLLECTION.queries
        )
        / len(COLLECTION.queries)
        for mode in ("vector", "keyword", "hybrid")
    }
    sys.stdout.write(f"queries with their topic among the first five: {recall}\n")
    assert recall["hybrid"] > max(recall["vector"], recall["keyword"])
