"""Texts and embeddings without a meaning, as many as one wants: words as often as in a language, vectors all different.

The same numbers give the same texts and vectors in every process.
"""

import random
from itertools import accumulate

DIMENSIONS = 384
_VECTORS = 1024
_WORDS = 20_000
_LETTERS = ("bdfghklmnprstvz", "aeiou")


class Words:
    """A vocabulary whose n-th word is an n-th as frequent as its first (Zipf): some stand in nearly every text."""

    def __init__(self, seed: int) -> None:
        chance = random.Random(0)
        self._words = list(dict.fromkeys(_word(chance) for _ in range(2 * _WORDS)))[:_WORDS]
        self._weights = list(accumulate(1 / rank for rank in range(1, len(self._words) + 1)))
        self._chance = random.Random(seed)

    def text(self, words: int) -> str:
        """The next text, of so many words."""
        return " ".join(self._chance.choices(self._words, cum_weights=self._weights, k=words))


class Vectors:
    """Vectors of `DIMENSIONS` numbers: some that were drawn, and those turned by a place or more."""

    def __init__(self) -> None:
        chance = random.Random(0)
        self._drawn = [[round(chance.gauss(0, 1), 4) for _ in range(DIMENSIONS)] for _ in range(_VECTORS)]

    def __getitem__(self, number: int) -> list[float]:
        turns, place = divmod(number, _VECTORS)
        drawn, at = self._drawn[place], turns % DIMENSIONS
        return drawn[at:] + drawn[:at]


def _word(chance: random.Random) -> str:
    return "".join(chance.choice(letters) for _ in range(chance.choice((1, 2, 2, 3, 3, 4))) for letters in _LETTERS)
