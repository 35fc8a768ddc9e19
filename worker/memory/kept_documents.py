"""What a session's bank holds for a turn: asked by the names that the documents came with."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from shared.ids import SessionRef
from worker.memory.query import Query
from worker.memory.service import Asked, Hit
from worker.memory.session_banks import SessionBanks
from worker.memory.turn_documents import name_in
from worker.providers.memory import BankKind, Mode

MARK = "turn_document"
"""The metadata by which the session's bank is asked for those documents that count."""


@dataclass(frozen=True, slots=True)
class KeptDocuments:
    """Of one session. `names` has what counts now, as `kept_in`."""

    banks: SessionBanks
    session: SessionRef
    names: Callable[[], dict[str, str]]

    def asked(self, text: str, *, max_chunks: int) -> list[Asked]:
        """The question to the session's bank; none where nothing counts. Raises ProviderError `memory_bank_not_found`,
        and StoreError."""
        names = self.names()
        if not names:
            return []
        where = self.banks.find(self.session)
        mode: Mode | None = "hybrid" if where[1].kind is BankKind.VECTOR else None
        query = Query(text=text, max_chunks=max_chunks, mode=mode, filters={MARK: list(names.values())})
        return [Asked(self.session.session_id, query, where)]

    def named(self, hits: list[Hit]) -> list[Hit]:
        """What was found there by the names that its documents came with; what was found elsewhere as it is."""
        return [_named(hit) if hit.bank_id == self.session.session_id else hit for hit in hits]


def _named(hit: Hit) -> Hit:
    found = hit.found
    metadata = {name: value for name, value in found.chunk.metadata.items() if name != MARK}
    chunk = replace(found.chunk, metadata=metadata)
    return Hit(hit.bank_id, replace(found, document_id=name_in(found.document_id), chunk=chunk))
