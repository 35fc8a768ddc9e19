"""Questions whose answers are known: of each passage a sentence is held out, and half of its words are asked for.

The rules were written down before anything was measured by them, and are not changed to please a result:

- A passage is a paragraph of a file in tests/data/texts. Of each, one sentence of 8 to 60 words is taken away, drawn by
  the seed; what is left is indexed. A passage without such a sentence is indexed whole, and nothing asks for it.
- The query is a random half of the words of that sentence, in their order. The one right answer is its passage.
- Whatever has a choice is chosen on the first half of each text (`Half.DEVELOPMENT`), and reported on the second.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

TEXTS = Path(__file__).parent / "data" / "texts"
NAMES = ("jargon", "genesis")
_FEWEST, _MOST = 8, 60


class Half(Enum):
    """Of a text, by passages."""

    DEVELOPMENT = 0
    HELD_OUT = 1


@dataclass(frozen=True, slots=True)
class Collection:
    """Passages by id, and queries with the id that is right."""

    passages: dict[str, str]
    queries: tuple[tuple[str, str], ...]


def collection(name: str, half: Half, seed: int) -> Collection:
    """What the rules make of a text. The same arguments give the same on every machine."""
    paragraphs = _paragraphs(name)
    middle = len(paragraphs) // 2
    chance = random.Random(f"{name}-{half.name}-{seed}")
    passages: dict[str, str] = {}
    queries: list[tuple[str, str]] = []
    for title, *sentences in paragraphs[:middle] if half is Half.DEVELOPMENT else paragraphs[middle:]:
        able = [at for at, sentence in enumerate(sentences) if _FEWEST <= len(sentence.split()) <= _MOST]
        if able:
            words = sentences.pop(chance.choice(able)).split()
            places = sorted(chance.sample(range(len(words)), (len(words) + 1) // 2))
            queries.append((title, " ".join(words[place] for place in places)))
        passages[title] = " ".join(sentences)
    return Collection(passages, tuple(queries))


def recall(ranks: Sequence[int | None], within: int = 5) -> float:
    """The part of the queries whose passage is among the first `within`. Ranks begin with 1; None: not found."""
    return sum(rank is not None and rank <= within for rank in ranks) / len(ranks)


def mean_reciprocal_rank(ranks: Sequence[int | None]) -> float:
    """The mean of 1 / rank, 0 for what was not found."""
    return sum(1 / rank for rank in ranks if rank) / len(ranks)


def _paragraphs(name: str) -> list[list[str]]:
    text = (TEXTS / f"{name}.txt").read_text(encoding="utf-8")
    blocks = [block.splitlines() for block in text.split("\n\n")]
    return [block for block in blocks if not block[0].startswith("#")]
