"""How texts are cut, and tokens estimated."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.memory.chunking import count_tokens, cut, first_tokens

TEXT = st.text(alphabet=st.sampled_from("abc déf. \n!?,-_日本語0123"), max_size=400)
SIZES = st.integers(min_value=2, max_value=40)


def words(text: str) -> list[str]:
    return re.findall(r"\S+", text)


@given(TEXT, SIZES)
def test_without_overlap_the_pieces_are_the_text(text: str, size: int) -> None:
    pieces = cut(text, size=size, overlap=0)
    joined = "".join("".join(words(piece)) for piece in pieces)
    assert joined == ("".join(words(text)) if pieces else "")


@given(TEXT, SIZES, st.integers(min_value=0, max_value=20))
def test_no_piece_is_longer_than_asked_nor_empty(text: str, size: int, overlap: int) -> None:
    for piece in cut(text, size=size, overlap=min(overlap, size // 2)):
        assert 0 < count_tokens(piece) <= size
        assert piece in text and piece == piece.strip()


@given(TEXT, SIZES, st.integers(min_value=0, max_value=20))
def test_with_overlap_no_word_is_lost_and_pieces_move_on(text: str, size: int, overlap: int) -> None:
    pieces = cut(text, size=size, overlap=min(overlap, size // 2))
    end = 0
    for piece in pieces:
        # A piece may stand in several places: the last that leaves out nothing but white space is as good as its own.
        starts = [at for at in range(len(text)) if text.startswith(piece, at) and not text[end:at].strip()]
        assert starts, "what lies between two pieces is white space"
        assert starts[-1] + len(piece) > end
        end = starts[-1] + len(piece)
    assert not pieces or not text[end:].strip()


def test_pieces_end_with_sentences_where_they_can() -> None:
    text = "One two three four. " * 20
    pieces = cut(text, size=18, overlap=0)
    assert all(piece.endswith(".") for piece in pieces)


def test_neighbours_share_words() -> None:
    text = " ".join(f"w{number}" for number in range(100))
    first, second, *_ = cut(text, size=20, overlap=5)
    assert len(set(words(first)) & set(words(second))) in range(3, 8)


def test_a_very_long_word_is_cut_too() -> None:
    pieces = cut("x" * 10_000, size=100, overlap=10)
    assert all(count_tokens(piece) <= 100 for piece in pieces)
    assert sum(len(piece) for piece in pieces) >= 10_000


@pytest.mark.parametrize("text", ["", "   \n "])
def test_nothing_has_no_pieces(text: str) -> None:
    assert cut(text, size=10, overlap=2) == []


@given(TEXT, st.integers(min_value=0, max_value=50))
def test_the_first_tokens_are_a_beginning_of_the_text(text: str, most: int) -> None:
    beginning = first_tokens(text, most)
    assert text.startswith(beginning)
    assert count_tokens(beginning) <= most or beginning == text


def test_english_is_about_four_letters_a_token() -> None:
    text = "The quick brown fox jumps over the lazy dog while internationalization continues unabated. " * 10
    assert 3.5 <= len(text) / count_tokens(text) <= 5.5
