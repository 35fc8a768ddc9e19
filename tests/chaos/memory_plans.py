"""What is put into memory during a campaign: banks, and jobs whose every document says who wrote it.

Documents are written so that it is known beforehand how they are cut: paragraphs of more than half a chunk, of which no
two fit into one.
"""

import random
from dataclasses import asdict, dataclass
from typing import Any

Json = dict[str, Any]

MEANINGS, WORDS, PASSING = "meanings", "words", "passing"
"""Two banks that stay, which agents look into, and one that is deleted and made anew."""
EMBEDDING = "embedding-planned"
DIMENSIONS = 16
PROVIDER = "memory"
QUERY = "the chronicle of the voyage"

_CHUNK_TOKENS = 64
_WORDS = 30
"""In a paragraph, besides its name and what is asked for: 33 to 63 tokens fill more than half a chunk, and those of two
paragraphs more than one."""
_VOCABULARY = ("voyage", "storm", "sail", "harbor", "island", "anchor", "captain", "whale")
_IDS = 30
BATCH = 50
"""Documents that a worker stores in one go: of what was in hand when a job was canceled, so many may be there."""

UNREADABLE: dict[str, Json] = {
    "malformed_document": {"content": {"uri": "data:application/pdf;base64,JVBERi0xLjcgYnJva2Vu"}},
    "unsupported_type": {"content": "no picture", "mime_type": "image/png"},
    "empty_document": {"content": " \n "},
    "url_not_allowed": {"content": {"uri": "http://127.0.0.1:9/none"}},
}
"""Documents that cannot be read, by the code of their failure."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A document. `write` is unique in a run; `fails` is the code of its failure, None where it can be read."""

    document_id: str
    write: str
    chunks: list[str]
    fails: str | None = None

    def as_sent(self) -> Json:
        sent = {"document_id": self.document_id, "metadata": {"write": self.write}}
        return {**sent, **(UNREADABLE[self.fails] if self.fails else {"content": "\n\n".join(self.chunks)})}

    def as_json(self) -> Json:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class JobPlan:
    """An insert job."""

    key: str
    bank_id: str
    documents: list[Planned]

    def body(self) -> Json:
        return {"bank_id": self.bank_id, "documents": [document.as_sent() for document in self.documents]}


def bank(name: str) -> Json:
    """What registers a bank."""
    vector = {"embedding_model": EMBEDDING} if name != WORDS else {}
    sizes = {"chunk_size_in_tokens": _CHUNK_TOKENS, "overlap_size_in_tokens": 0}
    return {"memory_bank_id": name, "type": "vector" if vector else "keyword", **vector, **sizes}


def random_burst(chance: random.Random, key: str, most: int) -> list[JobPlan]:
    """One to four jobs that are sent together, to one bank and with many of the same documents."""
    name = chance.choices((MEANINGS, WORDS, PASSING), (5, 3, 3))[0]
    number = min(most, chance.choice((1, 2, 3, 4)))
    return [_job(chance, f"{key}{'abcd'[place]}", name) for place in range(number)]


def _job(chance: random.Random, key: str, bank_id: str) -> JobPlan:
    if chance.random() < 0.15:  # of several batches
        ids = [f"big{number}" for number in range(chance.randint(BATCH + 10, 2 * BATCH + 20))]
    else:
        ids = [f"doc{number}" for number in chance.sample(range(_IDS), chance.randint(2, 8))]
    if chance.random() < 0.1:
        ids.append(ids[0])  # the last one counts
    documents = [_document(chance, name, f"{key}.{place}", big=len(ids) > BATCH) for place, name in enumerate(ids)]
    return JobPlan(key=key, bank_id=bank_id, documents=documents)


def _document(chance: random.Random, document_id: str, write: str, *, big: bool) -> Planned:
    fails = chance.choice(list(UNREADABLE)) if chance.random() < (0.03 if big else 0.12) else None
    count = 0 if fails else 1 if big else chance.choice((1, 1, 2, 3))
    chunks = [" ".join([f"{write}p{number}", QUERY, *chance.choices(_VOCABULARY, k=_WORDS)]) for number in range(count)]
    return Planned(document_id=document_id, write=write, chunks=chunks, fails=fails)
