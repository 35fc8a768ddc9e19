"""Embeddings without a model, for trying and for tests: texts are near each other that share words and parts of words.

Character trigrams of each word are hashed into so many dimensions (feature hashing: Weinberger et al., 2009,
arXiv:0902.2206). The same text always gives the same vector, whichever process makes it.
"""

import math
import re
from zlib import crc32

DIMENSIONS = 256
_WORD = re.compile(r"\w+")
_SIGN = 1 << 31


def scripted_embedding(text: str, dimensions: int = DIMENSIONS) -> list[float]:
    """A vector of length 1 (all zero for a text without words)."""
    vector = [0.0] * dimensions
    for word in _WORD.findall(text.lower()):
        for part in _parts(word):
            number = crc32(part.encode())
            vector[number % dimensions] += 1.0 if number & _SIGN else -1.0
    length = math.sqrt(sum(value * value for value in vector))
    return [value / length for value in vector] if length else vector


def _parts(word: str) -> list[str]:
    """The word itself, and three letters at a time with marks for its ends."""
    marked = f"<{word}>"
    return [word, *(marked[at : at + 3] for at in range(len(marked) - 2))]
