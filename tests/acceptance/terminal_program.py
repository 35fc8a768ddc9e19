"""A program in a terminal of 80 columns, as its user sees it."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from waiting import wait_for

from shared.cli.wrap import columns

ROWS, COLUMNS = 24, 80
CTRL_C = b"\x03"


class TerminalProgram:
    """A started program whose standard input, output and error are one terminal; `written` grows as it writes."""

    def __init__(self, command: Sequence[str], *, environ: dict[str, str], folder: Path) -> None:
        self.written = b""
        self._terminal, side = pty.openpty()
        fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self.process = subprocess.Popen(
            command,
            stdin=side,
            stdout=side,
            stderr=side,
            env={**environ, "TERM": "xterm"},
            cwd=folder,
            start_new_session=True,
            # Only a controlling terminal turns Ctrl-C into a signal.
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(side)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def screen(self) -> str:
        """What is to be read: colours are left out, and lines that were erased since."""
        text = re.sub(r"\x1b\[\d*m", "", self.written.decode(errors="replace")).replace("\r\n", "\n")
        return re.sub(r"[^\n]*\r\x1b\[K", "", text)

    def widest(self) -> int:
        """The columns of the widest line that was ever shown."""
        text = re.sub(r"\x1b\[\d*[mK]", "", self.written.decode(errors="replace"))
        return max(map(columns, re.split(r"[\r\n]+", text)))

    def type(self, keys: bytes) -> None:
        os.write(self._terminal, keys)

    def wait_for(self, words: str, *, seconds: float = 30.0) -> None:
        """Return when `words` are on the screen, or have been on a line that moves."""
        wait_for(
            lambda: words in self.screen or words.encode() in self.written,
            f"the terminal shows {words!r} (it shows:\n{self.screen})",
            seconds=seconds,
        )

    def ended(self, *, seconds: float = 30.0) -> int:
        """The exit code, once the program has ended and all that it wrote is here."""
        code = self.process.wait(seconds)
        self._reader.join(seconds)
        return code

    def end(self) -> None:
        """Leave nothing behind."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join(5)
        os.close(self._terminal)

    def _read(self) -> None:
        while True:
            try:
                piece = os.read(self._terminal, 65536)
            except OSError:  # Linux: no process has the other side any more
                return
            if not piece:
                return
            self.written += piece


@contextmanager
def in_terminal(command: Sequence[str], *, environ: dict[str, str], folder: Path) -> Iterator[TerminalProgram]:
    """A program in a terminal; it is ended with the block."""
    program = TerminalProgram(command, environ=environ, folder=folder)
    try:
        yield program
    finally:
        program.end()
