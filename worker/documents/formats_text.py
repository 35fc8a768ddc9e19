"""Text as it is: plain, Markdown, programs, markup that is not undone."""

from worker.documents.charsets import decoded
from worker.documents.source import Source, Text


def read(source: Source, text: Text) -> None:
    text.add(decoded(source.body, source.charset))
