"""What a person sees: the answer on standard output, all that is about it on standard error."""

import io
import os
from collections.abc import Sequence
from typing import TextIO

import orjson

from shared.cli.wrap import Wrapper, columns, harmless, one_line, shortened
from shared.events import Json

NARROWEST, USUAL = 40, 80
DIM, RED, YELLOW, BOLD = 2, 31, 33, 1
GAP = "  "
_ERASE = "\r\x1b[K"
_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_ASCII_FRAMES = "|/-\\"


class Terminal:
    """Writes to `out` and `err`, which may be the same terminal, other ones, files or pipes.

    `plain`: no colours and no moving line.
    """

    def __init__(self, *, out: TextIO, err: TextIO, plain: bool) -> None:
        for stream in (out, err):
            # What a terminal cannot show is no reason to end.
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")
        self._out, self._err = out, err
        self._coloured = err.isatty() and not plain
        self._moves = err.isatty() and not plain
        self._frames = _FRAMES if "utf" in (err.encoding or "").lower() else _ASCII_FRAMES
        self._ticks = 0
        self._spinning = False
        self._wrapper = Wrapper(self.width)

    @property
    def is_live(self) -> bool:
        """Whether a person reads the answer as it comes."""
        return self._out.isatty()

    @property
    def has_reader(self) -> bool:
        """Whether a person reads the notes."""
        return self._err.isatty()

    @property
    def width(self) -> int:
        """Columns of the terminal; the usual 80 where there is none."""
        for stream in (self._out, self._err):
            if stream.isatty():
                return max(NARROWEST, os.get_terminal_size(stream.fileno()).columns or USUAL)
        return USUAL

    def say(self, text: str) -> None:
        """A piece of the answer, as it comes. Raw where no person reads it."""
        self._erase()
        self._write(self._out, self._wrapper.feed(harmless(text)) if self.is_live else text)

    def end_line(self) -> None:
        """Begin a new line of the answer, unless it stands at the beginning of one."""
        if self.is_live:
            rest = self._wrapper.flush()
            self._write(self._out, rest + ("\n" if self._wrapper.inside_line else ""))
            self._wrapper = Wrapper(self.width)

    def note(self, text: str, *, style: int = DIM) -> None:
        """Something about the answer, in lines of its own."""
        self._erase()
        self.end_line()
        for line in self._folded(text).split("\n"):
            self._write(self._err, f"\x1b[{style}m{line}\x1b[0m\n" if self._coloured else f"{line}\n")

    def brief(self, text: str, *, style: int = DIM) -> None:
        """A note that is cut to one line."""
        self.note(shortened(one_line_keeping_indent(text), self.width - 1), style=style)

    def prompt(self, text: str) -> None:
        """A question; the cursor stays behind it."""
        self._erase()
        self.end_line()
        self._write(self._err, text)

    def spin(self, label: str, seconds: float) -> None:
        """Show on a moving line what is waited for, and for how long. Call it some times a second.

        Nothing is shown within a line of the answer, or where nobody looks.
        """
        if not self._moves or (self.is_live and self._wrapper.inside_line):
            return
        sign = self._frames[self._ticks % len(self._frames)]
        self._ticks += 1
        text = shortened(f"{sign} {one_line(label)} ({_duration(seconds)})", self.width - 1)
        self._write(self._err, f"{_ERASE}\x1b[{DIM}m{text}\x1b[0m")
        self._spinning = True

    def json(self, document: Json) -> None:
        """One JSON document on one line."""
        self._erase()
        self._write(self._out, f"{orjson.dumps(document).decode()}\n")

    def lines(self, text: str) -> None:
        """Whole lines on standard output, as they are."""
        self._erase()
        self._write(self._out, f"{text}\n")

    def table(self, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Rows under heads. On a terminal the last column is cut to fit; elsewhere nothing is."""
        cells = [[one_line(cell) for cell in row] for row in rows]
        widths = [max(map(columns, column)) for column in zip(heads, *cells, strict=True)]
        for row in (heads, *cells):
            padded = [cell + " " * (width - columns(cell)) for cell, width in zip(row, widths, strict=True)]
            line = GAP.join(padded).rstrip()
            self._write(self._out, f"{shortened(line, self.width) if self.is_live else line}\n")

    def _folded(self, text: str) -> str:
        """`text` broken between words where a person reads the notes."""
        if not self.has_reader:
            return text
        wrapper = Wrapper(self.width)
        return wrapper.feed(text) + wrapper.flush()

    def _erase(self) -> None:
        if self._spinning:
            self._spinning = False
            self._write(self._err, _ERASE)

    def _write(self, stream: TextIO, text: str) -> None:
        if text:
            stream.write(text)
            stream.flush()


def one_line_keeping_indent(text: str) -> str:
    """`text` on one line, with the spaces that it begins with."""
    return " " * (len(text) - len(text.lstrip(" "))) + one_line(text)


def _duration(seconds: float) -> str:
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60:02d} s" if whole < 3600 else f"{whole // 3600} h {whole // 60 % 60:02d} min"
