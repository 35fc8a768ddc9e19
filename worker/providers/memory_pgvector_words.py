"""BM25 in PostgreSQL: an inverted index in a bank's table `words_N`, since `ts_rank` knows no frequencies of a bank.

A row has a word and, for the chunks of one segment that hold it, their ids, how often they do, and their lengths in
words. A segment is what one put has stored; small ones are put together, so that a word's row is worth its place.
Writers hold the bank's row, so nothing here waits for another lock, and a search sees one state of all of it.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any

from worker.providers.memory_pgvector_copy import Field, bigint, bigints, integer, integers, text
from worker.providers.memory_pgvector_server import Session

_WORD = re.compile(r"[^\W_]+")
_ACCENT = re.compile("[\u0300-\u036f]")
_LONGEST = 200
_K1, _B = 1.2, 0.75
_LEAST_WEIGHT = 1e-6
"""Words that most chunks hold weigh next to nothing, and not less than that: as in SQLite's FTS5."""
_CHEAP = 20_000
"""So many places are scored without thinking about which words may be left out."""
_MOST_NEAR = 1000
"""So many chunks are completed by the frequent words; where more are near each other, all are scored by all words."""
SMALL, _MANY_SMALL = 64, 32
"""Segments of fewer chunks are put together when there are so many of them."""

TABLE = """
CREATE TABLE words_{n}(
  word text COLLATE "C" NOT NULL, segment bigint NOT NULL, held integer NOT NULL, chunks bigint[] NOT NULL,
  counts integer[] NOT NULL, lengths integer[] NOT NULL, PRIMARY KEY (word, segment));
CREATE INDEX words_{n}_by_segment ON words_{n}(segment);
"""
COLUMNS = "(word, segment, held, chunks, counts, lengths)"


def words_of(content: str) -> list[str]:
    """The words of a text, without case and accents. A very long one is cut, and told from others by its hash."""
    folded = _ACCENT.sub("", unicodedata.normalize("NFKD", content)).casefold()
    return [word if len(word) <= _LONGEST else _shortened(word) for word in _WORD.findall(folded)]


def rows_of(segment: int, chunks: Iterable[tuple[int, Sequence[str]]]) -> list[tuple[Field, ...]]:
    """The rows of a segment's chunks, ids with words, for COPY."""
    places: dict[str, tuple[list[int], list[int], list[int]]] = {}
    for chunk, words in chunks:
        for word, count in Counter(words).items():
            ids, counts, lengths = places.setdefault(word, ([], [], []))
            ids.append(chunk)
            counts.append(count)
            lengths.append(len(words))
    own = bigint(segment)
    return [
        (text(word), own, integer(len(ids)), bigints(ids), integers(counts), integers(lengths))
        for word, (ids, counts, lengths) in sorted(places.items())
    ]


def forget(session: Session, number: int, chunks: Sequence[int], segments: Sequence[int]) -> None:
    """Take chunks, which are out of their own table already, out of the index."""
    session.rows(
        f"DELETE FROM words_{number} WHERE segment = ANY(%(segments)s::bigint[]) AND segment NOT IN"  # noqa: S608
        f" (SELECT segment FROM chunks_{number} WHERE segment = ANY(%(segments)s::bigint[]))",
        {"segments": list(segments)},
    )
    session.rows(
        f"WITH less AS (SELECT w.word, w.segment, p.* FROM words_{number} w CROSS JOIN LATERAL"  # noqa: S608
        " (SELECT array_agg(c ORDER BY at) AS c, array_agg(n ORDER BY at) AS n, array_agg(l ORDER BY at) AS l"
        "  FROM unnest(w.chunks, w.counts, w.lengths) WITH ORDINALITY AS u(c, n, l, at)"
        "  WHERE c <> ALL(%(chunks)s::bigint[])) p"
        " WHERE w.segment = ANY(%(segments)s::bigint[]) AND w.chunks && %(chunks)s::bigint[]),"
        f" gone AS (DELETE FROM words_{number} w USING less WHERE w.word = less.word AND w.segment = less.segment"
        " AND less.c IS NULL)"
        f" UPDATE words_{number} w SET held = cardinality(less.c), chunks = less.c, counts = less.n,"
        " lengths = less.l FROM less"
        " WHERE w.word = less.word AND w.segment = less.segment AND less.c IS NOT NULL",
        {"chunks": list(chunks), "segments": list(segments)},
    )


def merged(session: Session, number: int, small: Sequence[int], segment: int) -> list[int]:
    """The small segments of a bank after one more put: many of them are made one, `segment`."""
    if len(small) < _MANY_SMALL:
        return list(small)
    values = {"small": list(small), "segment": segment}
    session.rows(
        f"WITH old AS (DELETE FROM words_{number} WHERE segment = ANY(%(small)s::bigint[]) RETURNING *),"  # noqa: S608
        " places AS (SELECT word, unnest(chunks) AS c, unnest(counts) AS n, unnest(lengths) AS l FROM old)"
        f" INSERT INTO words_{number} SELECT word, %(segment)s, count(*), array_agg(c ORDER BY c),"
        " array_agg(n ORDER BY c), array_agg(l ORDER BY c) FROM places GROUP BY word",
        values,
    )
    moved = session.rows(
        f"UPDATE chunks_{number} SET segment = %(segment)s WHERE segment = ANY(%(small)s::bigint[]) RETURNING 1",  # noqa: S608
        values,
    )
    return [segment] if 0 < len(moved) < SMALL else []


def best(
    session: Session,
    number: int,
    totals: tuple[int, int],
    words: Sequence[str],
    limit: int,
    only: tuple[str, list[Any]],
) -> dict[int, float]:
    """The chunks with the highest BM25, with their scores. `totals` are the bank's chunks and their words; `only`
    narrows `chunk` down.

    What a word can add to a score is bounded, so that frequent words, whose places are most of the work, are looked up
    for the best chunks only: wherever no chunk that has none but frequent words could be among the best.
    """
    counted = session.rows(
        f"SELECT word, sum(held) FROM words_{number} WHERE word = ANY(%s::text[]) GROUP BY word",  # noqa: S608
        (list(words),),
    )
    if not counted:
        return {}
    weights = {word: _weight(totals[0], places) for word, places in counted}
    rare = _rare({word: int(places) for word, places in counted})
    frequent = {word: weight for word, weight in weights.items() if word not in rare}
    index = _Index(session, number, totals[1] / max(totals[0], 1))
    if not frequent:
        return index.best(weights, limit, only)
    bound = sum(frequent.values()) * (_K1 + 1)
    least, scores = index.near({word: weights[word] for word in rare}, limit, bound, only)
    if bound >= least or len(scores) > _MOST_NEAR:
        return index.best(weights, limit, only)
    for chunk, more in index.of(frequent, list(scores)).items():
        scores[chunk] += more
    ranked = sorted(scores, key=lambda chunk: (-scores[chunk], chunk))[:limit]
    return {chunk: scores[chunk] for chunk in ranked}


class _Index:
    def __init__(self, session: Session, number: int, average: float) -> None:
        self._session = session
        self._number = number
        self._average = average

    def best(self, weights: Mapping[str, float], limit: int, only: tuple[str, list[Any]]) -> dict[int, float]:
        """The chunks with the best scores by these words."""
        condition, values = only
        rows = self._session.rows(
            f"WITH {self._scored(only=condition)} SELECT chunk, score FROM scored"  # noqa: S608
            " ORDER BY score DESC, chunk LIMIT %s",
            (list(weights), list(weights.values()), self._average, *values, limit),
        )
        return {int(chunk): float(score) for chunk, score in rows}

    def near(
        self, weights: Mapping[str, float], limit: int, margin: float, only: tuple[str, list[Any]]
    ) -> tuple[float, dict[int, float]]:
        """The lowest of the `limit` best scores by these words (0 where there are fewer), and the chunks whose scores
        are at most `margin` below it, or more than `_MOST_NEAR` of them."""
        condition, values = only
        rows = self._session.rows(
            f"WITH {self._scored(only=condition)},"  # noqa: S608
            " least AS (SELECT coalesce((SELECT score FROM scored ORDER BY score DESC OFFSET %s LIMIT 1), 0) AS score)"
            " SELECT scored.chunk, scored.score, least.score FROM scored, least WHERE scored.score >= least.score - %s"
            " LIMIT %s",
            (list(weights), list(weights.values()), self._average, *values, limit - 1, margin, _MOST_NEAR + 1),
        )
        return (float(rows[0][2]) if rows else 0.0), {int(chunk): float(score) for chunk, score, _ in rows}

    def of(self, weights: Mapping[str, float], chunks: list[int]) -> dict[int, float]:
        """What these words add to the scores of these chunks."""
        among = f" AND w.segment IN (SELECT segment FROM chunks_{self._number} WHERE id = ANY(%s::bigint[]))"  # noqa: S608
        rows = self._session.rows(
            f"WITH {self._scored(among=among, only=' AND chunk = ANY(%s::bigint[])')} SELECT chunk, score FROM scored",  # noqa: S608
            (list(weights), list(weights.values()), chunks, self._average, chunks),
        )
        return {int(chunk): float(score) for chunk, score in rows}

    def _scored(self, *, among: str = "", only: str = "") -> str:
        return (
            "places AS (SELECT o.weight, unnest(w.chunks) AS chunk, unnest(w.counts) AS count,"  # noqa: S608
            " unnest(w.lengths) AS length FROM unnest(%s::text[], %s::float8[]) AS o(word, weight)"
            # OFFSET 0: by the index, also where the planner knows nothing about the table yet.
            f" CROSS JOIN LATERAL (SELECT * FROM words_{self._number} w WHERE w.word = o.word{among} OFFSET 0) w),"
            # Numbers without a type are decimals here, and ten times as slow.
            f" scored AS (SELECT chunk, sum(weight * count * float8 '{_K1 + 1}' / (count + float8 '{_K1 * (1 - _B)}'"
            f" + float8 '{_K1 * _B}' * length / %s::float8)) AS score FROM places WHERE TRUE{only} GROUP BY chunk)"
        )


def _weight(chunks: int, holding: int) -> float:
    """The inverse document frequency of Robertson and Spärck Jones, never below `_LEAST_WEIGHT`."""
    return max(math.log((chunks - holding + 0.5) / (holding + 0.5)), _LEAST_WEIGHT)


def _rare(places: Mapping[str, int]) -> list[str]:
    """The rarest words, at least one, that have few places together."""
    rare: list[str] = []
    total = 0
    for word, count in sorted(places.items(), key=lambda item: item[1]):
        total += count
        if rare and total > _CHEAP:
            break
        rare.append(word)
    return rare


def _shortened(word: str) -> str:
    return word[:_LONGEST] + sha256(word.encode()).hexdigest()
