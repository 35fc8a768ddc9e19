"""Lays text out for a terminal: safe to show, and broken between words."""

import re
import unicodedata

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_FENCE = "```"
_TAB = 4
ELLIPSIS = "…"


def harmless(text: str) -> str:
    """`text` without what would steer a terminal instead of being shown: a model's words are not commands."""
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r", "").expandtabs(_TAB))


def one_line(text: str) -> str:
    """`text` on one line, harmless."""
    return " ".join(harmless(text).split())


def columns(text: str) -> int:
    """How many columns a terminal needs for `text`."""
    return sum(map(_columns_of, text))


def shortened(text: str, width: int) -> str:
    """`text` in at most `width` columns."""
    if columns(text) <= width:
        return text
    kept = ""
    for sign in text:
        if columns(kept) + _columns_of(sign) >= width:
            break
        kept += sign
    return f"{kept}{ELLIPSIS}"


class Wrapper:
    """Breaks streamed text between words at `width`. Code keeps its lines: a terminal breaks those itself.

    A word is passed on once it has ended, so that it never has to be moved.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._line = ""  # what is on the current line
        self._space = ""
        self._word = ""
        self._fenced = False

    def feed(self, text: str) -> str:
        """What can be shown of the text so far."""
        shown = ""
        for sign in text:
            if sign == "\n":
                shown += self.flush() + self._newline()
            elif sign == " ":
                shown += self._take_word()
                self._space += sign
            elif _columns_of(sign) == 2:
                # Scripts that write without spaces break anywhere.
                shown += self._take_word()
                self._word = sign
                shown += self._take_word()
            else:
                self._word += sign
        return shown

    def flush(self) -> str:
        """What was held back, spaces included: nothing more is known to follow."""
        shown = self._take_word() + self._space
        self._line += self._space
        self._space = ""
        return shown

    @property
    def inside_line(self) -> bool:
        """Whether the cursor stands behind something."""
        return bool(self._line)

    def _take_word(self) -> str:
        if not self._word:
            return ""
        word, space = self._word, self._space
        self._word = self._space = ""
        room = columns(self._line) + len(space) + columns(word) <= self._width
        if room or not self._line or self._is_code():
            self._line += space + word
            return space + word
        self._line = word
        return f"\n{word}"

    def _newline(self) -> str:
        if self._line.lstrip().startswith(_FENCE):
            self._fenced = not self._fenced
        self._line = ""
        return "\n"

    def _is_code(self) -> bool:
        return self._fenced or self._line.startswith(("    ", "|", _FENCE))


def _columns_of(sign: str) -> int:
    if unicodedata.combining(sign) or unicodedata.category(sign) in ("Cf", "Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(sign) in "WF" else 1
