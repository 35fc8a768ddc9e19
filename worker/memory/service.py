"""Searches banks: each where it is kept, with an embedding of the question where it needs one."""

from collections.abc import Callable, Sequence
from contextvars import copy_context
from dataclasses import dataclass

import gevent

from worker.memory.embedding import Embedder
from worker.memory.query import Query
from worker.providers.memory import Bank, BankKind, Found, MemoryProvider

_BY_TEXT = (BankKind.VECTOR, BankKind.KEYWORD)
FindBank = Callable[[str, str], tuple[MemoryProvider, Bank]]
"""The bank that a tenant knows by a name, and who keeps it. Raises ProviderError."""


@dataclass(frozen=True, slots=True)
class Hit:
    """Something that was found, and in which bank."""

    bank_id: str
    found: Found


@dataclass(frozen=True, slots=True)
class Asked:
    """A question to one bank. `kept` is where that is, for a bank that no name of the tenant's leads to."""

    bank_id: str
    query: Query
    kept: tuple[MemoryProvider, Bank] | None = None


class Memory:
    """Searches. One per worker process; every method raises ProviderError."""

    def __init__(self, *, find: FindBank, embedder: Embedder) -> None:
        self._find = find
        self._embedder = embedder

    def search(self, asked: Sequence[Asked], *, tenant: str) -> list[Hit]:
        """The best of all banks, asked at once; at most as many as the question that wants the most.

        Banks that are searched the same way compare by score. Others have no common measure: then the first of each
        come first, then the second.
        """
        if len(asked) == 1:
            return self._one(asked[0], tenant)[1]
        looks = [gevent.spawn(copy_context().run, self._one, one, tenant) for one in asked]
        try:
            gevent.joinall(looks, raise_error=True)
        finally:
            gevent.killall(looks)
        ways, lists = zip(*(look.get() for look in looks), strict=True) if looks else ((), ())
        most = max((one.query.max_chunks for one in asked), default=0)
        return _merged(lists, same_way=len(set(ways)) == 1)[:most]

    def _one(self, asked: Asked, tenant: str) -> tuple[tuple[str, str], list[Hit]]:
        provider, bank = asked.kept or self._find(tenant, asked.bank_id)
        query, embedding = asked.query, None
        if bank.kind in _BY_TEXT and not query.text.strip():
            return (bank.kind, ""), []  # a message of images alone asks nothing; models refuse to embed it
        mode = query.mode_in(bank)
        if bank.embedding_model is not None and mode != "keyword":
            embedding = self._embedder.one(bank.embedding_model, query.text, tenant=tenant)
        found = provider.search(bank, query.search(bank, embedding))
        kept = [one for one in found if query.min_score is None or one.score >= query.min_score]
        return (bank.kind, mode), [Hit(asked.bank_id, one) for one in kept]


def _merged(lists: Sequence[list[Hit]], *, same_way: bool) -> list[Hit]:
    ranked = [(rank, hit) for hits in lists for rank, hit in enumerate(hits)]
    key = (lambda it: -it[1].found.score) if same_way else (lambda it: it[0])
    return [hit for _, hit in sorted(ranked, key=key)]
