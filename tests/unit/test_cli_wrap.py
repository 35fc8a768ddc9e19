"""Text on its way to a terminal: harmless, and broken between words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.cli.wrap import Wrapper, columns, harmless, one_line, shortened


def wrapped(*pieces: str, width: int = 20) -> str:
    wrapper = Wrapper(width)
    return "".join([wrapper.feed(piece) for piece in pieces]) + wrapper.flush()


def test_words_go_to_the_next_line_where_they_do_not_fit() -> None:
    assert wrapped("the quick brown fox jumps over") == "the quick brown fox\njumps over"


def test_where_the_pieces_are_cut_changes_nothing() -> None:
    assert wrapped("the qu", "ick brown f", "ox ju", "mps over") == wrapped("the quick brown fox jumps over")


def test_a_word_longer_than_a_line_is_left_whole() -> None:
    assert wrapped("see https://example.org/a/long/address there") == "see\nhttps://example.org/a/long/address\nthere"


def test_code_keeps_its_lines() -> None:
    code = "```\nmake run   # as long a line as one likes\n```\n"

    assert wrapped(code) == code
    assert wrapped(f"{code}the quick brown fox jumps") == f"{code}the quick brown fox\njumps"
    assert wrapped("    indented code of some length") == "    indented code of some length"


def test_scripts_without_spaces_break_between_signs() -> None:
    assert wrapped("日本語の文章には空白がない") == "日本語の文章には空白\nがない"


@given(st.lists(st.text(alphabet="ab \n`日", max_size=12)))
def test_wrapping_only_ever_turns_spaces_into_line_ends_or_adds_these_between_wide_signs(pieces: list[str]) -> None:
    def bare(text: str) -> str:
        return "".join(text.split())

    assert bare(wrapped(*pieces)) == bare("".join(pieces))


@given(st.text(alphabet="abc ", max_size=200))
def test_no_line_of_short_words_is_longer_than_the_terminal(text: str) -> None:
    words = " ".join(word[:10] for word in text.split())

    assert all(columns(line) <= 20 for line in wrapped(words).split("\n"))


def test_what_would_steer_the_terminal_is_shown_instead() -> None:
    assert (
        harmless("red \x1b[31m, title \x1b]0;x\x07, c1 \x9b2J") == "red \ufffd[31m, title \ufffd]0;x\ufffd, c1 \ufffd2J"
    )
    assert harmless("abc\u202edef\u200e") == "abc\ufffddef\ufffd"
    assert harmless("a\r\nb\tc\n") == "a\nb   c\n"


def test_a_text_on_one_line_has_single_spaces() -> None:
    assert one_line("a\n\n  b\t c") == "a b c"


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [("abcdef", 6, "abcdef"), ("abcdef", 5, "abcd…"), ("日本語", 5, "日本…"), ("日本語", 6, "日本語"), ("", 3, "")],
)
def test_a_text_is_cut_to_the_columns_that_there_are(text: str, width: int, shown: str) -> None:
    assert shortened(text, width) == shown
    assert columns(shown) <= width
