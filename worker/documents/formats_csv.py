"""CSV: each row as a line that names its columns, so that it can be understood by itself."""

import csv
import io
from collections.abc import Iterator
from itertools import chain

from worker.documents.charsets import decoded
from worker.documents.source import Source, Text, malformed

_DELIMITERS = ",;\t|"
_LOOKED_AT = 20


def read(source: Source, text: Text) -> None:
    content = decoded(source.body, source.charset)
    csv.field_size_limit(source.limits.max_text_bytes)
    try:
        rows = _rows(content)
        first = next(rows, [])
        if source.parameters.get("header") == "absent":
            names = [f"column {number}" for number in range(1, len(first) + 1)]
            rows = chain([first], rows)
        else:
            names = first
        has_rows = False
        for row in rows:
            has_rows = True
            text.line(_line(names, row))
        if not has_rows:  # a header and nothing else is the content
            text.line(", ".join(names))
    except csv.Error:
        raise malformed("The document is no valid CSV.") from None


def _rows(content: str) -> Iterator[list[str]]:
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=_delimiter(content))
    for row in reader:
        fields = [" ".join(field.split()) for field in row]
        if any(fields):
            yield fields


def _line(names: list[str], row: list[str]) -> str:
    """`name: value; name: value`, without what is empty."""
    known = [f"{name}: {value}" if name else value for name, value in zip(names, row, strict=False) if value]
    return "; ".join(known + [value for value in row[len(names) :] if value])


def _delimiter(content: str) -> str:
    """What stands in all of the first lines, as often as possible."""
    lines = [line for line in content[:100_000].splitlines() if line.strip()][:_LOOKED_AT]
    return max(_DELIMITERS, key=lambda one: min((line.count(one) for line in lines), default=0))
