"""Cuts texts into chunks, and estimates tokens. Pure.

No tokenizer is asked: the embedding models of a run config have different ones, and most come over the network. A token
is estimated as what is between spaces and punctuation, at most six letters of it (English words are four to five
letters long, and longer ones are cut by byte pair encodings), or one letter of a script that is written without spaces,
or one mark of punctuation.
"""

import re
from bisect import bisect_right

_TOKEN = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]{1,6}|[^\w\s]|_+"
)
_END = re.compile(r"\n\s*\n|[.!?。！？]+[\"')\]]*\s|\n|\s")  # noqa: RUF001 - ends of sentences in CJK
_PARAGRAPH, _SENTENCE, _SPACE = 2, 1, 0


def count_tokens(text: str) -> int:
    """About how many tokens a text is."""
    return sum(1 for _ in _TOKEN.finditer(text))


def first_tokens(text: str, most: int) -> str:
    """The beginning of a text, at most so many tokens of it."""
    for number, match in enumerate(_TOKEN.finditer(text), start=1):
        if number > most:
            return text[: match.start()].rstrip()
    return text


def cut(text: str, *, size: int, overlap: int) -> list[str]:
    """A text in pieces of at most `size` tokens, each beginning about `overlap` tokens before the end of the last.

    A piece ends behind a paragraph or a sentence where one ends in its second half, else between two words. Nothing but
    white space around the pieces is left out; a text without tokens has no pieces.
    """
    starts = [match.start() for match in _TOKEN.finditer(text)]
    ends = _ends(text)
    pieces: list[str] = []
    at = 0
    while at < len(starts):
        last = min(at + size, len(starts))
        to = len(text) if last == len(starts) else _best_end(text, ends, starts[at + max(1, size // 2)], starts[last])
        piece = text[starts[at] if pieces else 0 : to].strip()
        if piece:
            pieces.append(piece)
        if to >= len(text):
            break
        following = bisect_right(starts, to - 1)  # the first token behind the piece
        at = max(at + 1, _at_word(text, starts, following - overlap, following))
    return pieces


def _ends(text: str) -> tuple[list[int], list[int], list[int]]:
    """Where a piece may end: behind spaces, sentences and paragraphs."""
    found: tuple[list[int], list[int], list[int]] = ([], [], [])
    for match in _END.finditer(text):
        words = match.group()
        kind = (
            _PARAGRAPH if "\n" in words.strip(" ") and words.count("\n") > 1 else _SENTENCE if words.strip() else _SPACE
        )
        for lesser in range(kind + 1):
            found[lesser].append(match.end())
    return found


def _best_end(text: str, ends: tuple[list[int], list[int], list[int]], least: int, most: int) -> int:
    for kind in (_PARAGRAPH, _SENTENCE, _SPACE):
        place = bisect_right(ends[kind], most) - 1
        if place >= 0 and ends[kind][place] > least:
            return ends[kind][place]
    return most


def _at_word(text: str, starts: list[int], wanted: int, following: int) -> int:
    """A token near the wanted one that begins a word, before `following`."""
    for at in range(max(wanted, 0), following):
        if starts[at] == 0 or text[starts[at] - 1].isspace():
            return at
    return following
