"""HTML: the text that a reader came for, without scripts, styles and what surrounds it on every page of its site."""

import re
from collections.abc import Set
from typing import Any

from lxml import etree  # type: ignore[import-untyped]

from worker.documents.charsets import decoded
from worker.documents.source import Source, Text, malformed

_NEVER_SHOWN = frozenset(
    {"audio", "canvas", "datalist", "head", "iframe", "math", "noscript", "object", "script", "select", "style", "svg"}
    | {"template", "textarea", "video"}
)
_AROUND = frozenset({"aside", "dialog", "footer", "nav"})
_PARAGRAPHS = frozenset(
    {"article", "blockquote", "dl", "figure", "h1", "h2", "h3", "h4", "h5", "h6", "ol", "p", "pre", "section", "table"}
    | {"ul"}
)
_LINES = _PARAGRAPHS | frozenset(
    {"address", "aside", "body", "br", "caption", "dd", "details", "div", "dt", "fieldset", "figcaption", "footer"}
    | {"form", "header", "hr", "legend", "li", "main", "nav", "option", "summary", "tr"}
)
_CELLS = frozenset({"td", "th"})
_EVENTS = ("start", "end", "comment")
_CHARSET = re.compile(rb"<meta[^>]{0,300}charset\s*=\s*[\"']?\s*([\w:.-]+)", re.IGNORECASE)
_CHARSET_WITHIN = 4_096


def read(source: Source, text: Text) -> None:
    root = _parsed(source)
    title = " ".join(root.findtext(".//title", "").split())
    # A page whose main part, or whose body without what is around it, is empty is built in another way.
    lines = _Page(_NEVER_SHOWN | _AROUND).lines(_main(root)) or _Page(_NEVER_SHOWN).lines(root)
    if title and lines and lines[0] != title:
        lines = [title, "", *lines]
    for line in lines:
        text.line(line)


def _parsed(source: Source) -> Any:
    said = _CHARSET.search(source.body[:_CHARSET_WITHIN])
    charset = source.charset or (said[1].decode("ascii", "replace") if said else None)
    content = decoded(source.body, charset).encode("utf-8", "replace")
    # Its own limit on nesting (256 elements, 2048 if huge_tree) drops the rest of a page and goes on.
    parser = etree.HTMLParser(encoding="utf-8", huge_tree=True, remove_pis=True)
    root = etree.fromstring(content, parser) if content.strip() else None
    if any(entry.type_name == "ERR_RESOURCE_LIMIT" for entry in parser.error_log):
        raise malformed("The document's elements are nested too deeply.")
    return etree.Element("html") if root is None else root


def _main(root: Any) -> Any:
    """Where the page says that its content is, or all of it."""
    for path in (".//main", ".//*[@role='main']", ".//article"):
        found = root.findall(path)
        if len(found) == 1:
            return found[0]
    return root


class _Page:
    """Lays elements out in lines, about as a browser without styles does."""

    def __init__(self, skipped: Set[str]) -> None:
        self._skipped = skipped
        self._lines: list[str] = []
        self._words: list[str] = []
        self._verbatim = 0

    def lines(self, root: Any) -> list[str]:
        """Without empty ones at the beginning and at the end, and with one at most between two others."""
        walk = etree.iterwalk(root, events=_EVENTS)
        for event, element in walk:
            if event == "start":
                if element.tag in self._skipped or element.get("hidden") is not None:
                    walk.skip_subtree()
                    continue
                self._begin(element)
            elif event == "end" and element.tag not in self._skipped and element.get("hidden") is None:
                self._end(element)
            if event != "start" and element is not root:
                self._words.append(element.tail or "")
        self._break()
        while self._lines and not self._lines[-1]:
            self._lines.pop()
        return self._lines

    def _begin(self, element: Any) -> None:
        tag = element.tag
        self._between(tag)
        if tag == "li":
            self._words.append("- ")
        elif tag in _CELLS and "".join(self._words).strip():
            self._words.append(" | ")
        self._verbatim += tag == "pre"
        self._words.append(element.text or "")

    def _end(self, element: Any) -> None:
        self._between(element.tag)
        self._verbatim -= element.tag == "pre"

    def _between(self, tag: str) -> None:
        if tag in _LINES:
            self._break()
        if tag in _PARAGRAPHS and self._lines and self._lines[-1]:
            self._lines.append("")

    def _break(self) -> None:
        text = "".join(self._words)
        self._words.clear()
        if self._verbatim:
            self._lines.extend(text.strip("\n").split("\n"))
        elif line := " ".join(text.split()):
            self._lines.append(line)
