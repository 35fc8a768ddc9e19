"""JSON: checked, and kept as it is but for escaped characters, which mean nothing to a search."""

import json

from worker.documents.charsets import decoded
from worker.documents.source import Source, Text, malformed


def read(source: Source, text: Text) -> None:
    written = decoded(source.body, source.charset)
    try:
        value = json.loads(written)
    except RecursionError:
        raise malformed("The document's JSON is nested too deeply.") from None
    except json.JSONDecodeError as error:
        raise malformed(f"The document is no valid JSON (line {error.lineno}, column {error.colno}).") from None
    text.add(json.dumps(value, ensure_ascii=False) if "\\u" in written else written)
