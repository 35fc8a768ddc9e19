"""What is asked of memory, in the words of clients: `params` of a query, `memory` of an agent. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from shared.events import Json
from worker.providers.memory import Bank, BankKind, Mode, Search

MAX_CHUNKS, MOST_CHUNKS = 10, 1000
"""How many chunks a question gets where it does not say, and at the most."""
MAX_TOKENS_IN_CONTEXT = 4096
_SEPARATOR = " "
_MESSAGES = ("{{ messages }}", "{{messages}}", "{messages}")
_HOW = (
    "Reply with one short query for a search in documents that would help to answer the last message of:\n\n{messages}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A question to banks of any kind. `mode` None: by meaning where the bank has embeddings, by words else."""

    text: str
    max_chunks: int = MAX_CHUNKS
    mode: Mode | None = None
    min_score: float | None = None
    filters: Json = field(default_factory=dict)
    keys: Sequence[str] = ()
    entities: Sequence[str] = ()
    depth: int = 1

    @classmethod
    def of(cls, text: str, params: Json) -> "Query":
        """A query with the `params` that a client gave, validated by the API."""
        return cls(
            text=text,
            max_chunks=params.get("max_chunks") or MAX_CHUNKS,
            mode=params.get("mode"),
            min_score=params.get("score_threshold"),
            filters=params.get("filters") or {},
            keys=params.get("keys") or (),
            entities=params.get("entities") or (),
            depth=params.get("depth") or 1,
        )

    def mode_in(self, bank: Bank) -> Mode:
        """How the bank is searched."""
        if bank.kind is BankKind.VECTOR:
            return self.mode or "vector"
        return "keyword"

    def search(self, bank: Bank, embedding: Sequence[float] | None) -> Search:
        """The question to one bank. In a keyvalue bank the text is a key where none is given."""
        return Search(
            text=self.text,
            embedding=embedding,
            mode=self.mode_in(bank),
            limit=self.max_chunks,
            filters=self.filters,
            keys=self.keys or ([self.text] if self.text else []),
            entities=self.entities or ([self.text] if self.text else []),
            depth=self.depth,
        )


def text_of(content: Any) -> str:
    """The text in a message's or document's content."""
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        return cast(str, content.get("text") or "")
    return "\n".join(filter(None, map(text_of, content or ())))


def default_text(messages: Iterable[Json], config: Json) -> str:
    """The query that a turn's messages make by themselves: their text, one after the other."""
    separator = config.get("separator") or config.get("sep") or _SEPARATOR
    return cast(str, separator).join(filter(None, (text_of(message["content"]) for message in messages)))


def prompt_for(messages: Iterable[Json], config: Json) -> str:
    """What a model is asked for a query: `template`, with `{messages}` replaced by what was said."""
    said = "\n".join(f"{message['role']}: {text_of(message['content'])}" for message in messages)
    template: str = config.get("template") or _HOW
    for place in _MESSAGES:
        if place in template:
            return template.replace(place, said)
    return f"{template}\n\n{said}"
