"""The terminal: whole lines, each with the name of the process that wrote it."""

import io
import threading
from typing import TextIO

SUPERVISOR = "turnstone"
WIDTH = len(SUPERVISOR)
COLOURS = (36, 32, 33, 35, 34, 96, 92, 93, 95, 94)
BOLD = 1


class Console:
    """Writes prefixed lines to `stream`, coloured where that is a terminal. Safe from any thread.

    Where nobody reads any more (a closed terminal, `| head`) it falls silent: the stack is stopped by
    signals, and never by its output.
    """

    def __init__(self, stream: TextIO) -> None:
        # What a terminal cannot show is no reason to end a line, let alone the relaying.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
        self._stream = stream
        self._coloured = stream.isatty()
        self._colours: dict[str, int] = {SUPERVISOR: BOLD}
        self._lock = threading.Lock()
        self._silent = False

    def say(self, text: str) -> None:
        """A line of the supervisor's own; several where `text` has several."""
        for line in text.splitlines():
            self.line(SUPERVISOR, line)

    def line(self, name: str, text: str) -> None:
        """A line that the process `name` wrote."""
        self.raw(f"{self._prefix(name)} {text}")

    def raw(self, text: str) -> None:
        """Text without a prefix, such as commands to copy."""
        with self._lock:
            if self._silent:
                return
            try:
                self._stream.write(f"{text}\n")
                self._stream.flush()
            except (OSError, ValueError):
                self._silent = True

    def _prefix(self, name: str) -> str:
        padded = f"{name:<{WIDTH}} |"
        if not self._coloured:
            return padded
        colour = self._colours.setdefault(name, COLOURS[len(self._colours) % len(COLOURS)])
        return f"\x1b[{colour}m{padded}\x1b[0m"
