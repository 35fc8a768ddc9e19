"""WordprocessingML (ISO 29500) as lines of text."""

from collections.abc import Callable

_NAMESPACES = frozenset(
    {
        "http://schemas.openxmlformats.org/wordprocessingml/2006/main",
        "http://purl.oclc.org/ooxml/wordprocessingml/main",
        "http://schemas.openxmlformats.org/officeDocument/2006/math",
        "http://purl.oclc.org/ooxml/officeDocument/math",
        "http://schemas.openxmlformats.org/markup-compatibility/2006",
    }
)
# What is there a second time: for older programs, and where moved text was. Deleted text has an element of its own.
_SECOND = frozenset({"Fallback", "moveFrom"})
_CHARACTERS = {"tab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-"}


class Body:
    """Takes the elements of a part as they begin and end, and writes lines."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._paragraphs: list[list[str]] = []
        self._rows: list[list[str]] = []
        self._cells: list[list[str]] = []
        self._second = 0
        self._in_properties = 0

    def begin(self, tag: str) -> None:
        """A tag in lxml's spelling: `{namespace}name`."""
        name = _local(tag)
        self._second += name in _SECOND
        self._in_properties += name in ("pPr", "rPr")
        if self._second:
            return
        if name == "p":
            self._paragraphs.append([])
        elif name == "tr":
            self._rows.append([])
        elif name == "tc":
            self._cells.append([])

    def end(self, tag: str, content: str) -> None:
        """`content` is the text that stands in the element itself."""
        name = _local(tag)
        if not self._second:
            self._end(name, content)
        self._second -= name in _SECOND
        self._in_properties -= name in ("pPr", "rPr")

    def _end(self, name: str, content: str) -> None:
        if name == "t" or (name in _CHARACTERS and not self._in_properties):
            if self._paragraphs:
                self._paragraphs[-1].append(_CHARACTERS.get(name, content))
        elif name == "p" and self._paragraphs:
            self._emit("".join(self._paragraphs.pop()).strip())
        elif name == "tc" and self._cells:
            content = " ".join(part for part in self._cells.pop() if part)
            if self._rows:
                self._rows[-1].append(" ".join(content.split()))
        elif name == "tr" and self._rows:
            row = self._rows.pop()
            self._emit(" | ".join(row) if any(row) else "")

    def _emit(self, line: str) -> None:
        if self._cells:
            self._cells[-1].append(line)
        elif line:
            self._write(line)


def _local(tag: str) -> str:
    """The name of an element that is known here; empty for others."""
    namespace, _, name = tag[1:].partition("}")
    return name if namespace in _NAMESPACES else ""
