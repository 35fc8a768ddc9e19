"""An insert job: documents, in batches, from what the client sent into a bank.

A job is a turn to the log: claimed, fenced, taken over and canceled like one. What it has done stands in the log as its
step's progress, written after the bank has stored the batch. So a taker-over begins with the first batch that may not
be stored, and storing a document twice leaves it there once.
"""

import time
from collections.abc import Sequence
from contextvars import copy_context
from dataclasses import replace
from functools import partial

import gevent
from gevent.pool import Pool

from shared.events import Json, StepProgress
from shared.fold import INSERT_WRITER, OpenStep
from shared.ids import SessionRef
from worker.interrupts import Interrupts
from worker.journal import TurnWriter
from worker.memory.embedding import Embedder
from worker.memory.preparing import Failure, ReadOfTenant, prepared
from worker.memory.service import FindBank
from worker.memory.session_banks import SessionBanks
from worker.observer import Observer
from worker.providers.memory import Bank, BankKind, Document, MemoryProvider
from worker.stored import until_stored

_BATCH = 50
_BATCH_BYTES = 500_000
_READING = 8
"""Documents of a batch that are fetched and read at once."""


class Inserter:
    """Runs insert jobs. One per worker process."""

    def __init__(
        self,
        *,
        find: FindBank,
        sessions: SessionBanks,
        embedder: Embedder,
        read: ReadOfTenant,
        observer: Observer | None = None,
    ) -> None:
        self._find = find
        self._sessions = sessions
        self._observer = observer or Observer()
        self._embedder = embedder
        self._read = read

    def run(self, writer: TurnWriter, interrupts: Interrupts, *, step: OpenStep, job: Json) -> None:
        """Store what is not stored yet; `step.progress` tells how far it is.

        Raises ProviderError, and interrupts between and within batches.
        """
        documents: list[Json] = job["documents"]
        provider, bank = self._bank(writer.ref.tenant, interrupts, job)
        number = self._place(provider, bank, writer, interrupts, step)
        bank = replace(bank, chunk_size_in_tokens=job.get("chunk_size_in_tokens") or bank.chunk_size_in_tokens)
        while step.progress["done"] < len(documents):
            interrupts.boundary()
            batch, begun = _next_batch(documents, step.progress["done"]), time.monotonic()
            with interrupts.open():
                outcomes = self._prepared(bank, batch, job.get("expires_at"), tenant=writer.ref.tenant)
                stored = [outcome for outcome in outcomes if isinstance(outcome, Document)]
                self._store(provider, bank, stored, tenant=writer.ref.tenant, number=number)
            failures = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
            chunks = sum(len(document.chunks) for document in stored)
            delta = {
                "type": "progress",
                "done": step.progress["done"] + len(batch),
                "chunks": step.progress["chunks"] + chunks,
                "failures": [failure.as_json() for failure in failures],
            }
            writer.emit(StepProgress(step_type=step.step_type, step_id=step.step_id, delta=delta))
            self._observer.inserted(
                documents=len(stored),
                chunks=chunks,
                failures=[failure.code for failure in failures],
                seconds=time.monotonic() - begun,
            )

    def _bank(self, tenant: str, interrupts: Interrupts, job: Json) -> tuple[MemoryProvider, Bank]:
        if "session_id" in job:
            find = partial(self._sessions.find, SessionRef(tenant, job["session_id"]))
            return until_stored(find, interrupts)
        with interrupts.open():
            return self._find(tenant, job["bank_id"])

    def _place(
        self, provider: MemoryProvider, bank: Bank, writer: TurnWriter, interrupts: Interrupts, step: OpenStep
    ) -> int:
        """The job's place among the bank's writers: taken once, by a worker that still had the job when it was noted.

        A worker that was stopped for so long that others went on cannot undo what later jobs have put: they began
        behind it.
        """
        if step.writer is not None:
            return step.writer
        with interrupts.open():
            number = provider.begin(bank)
        writer.note(INSERT_WRITER, {"step_id": step.step_id, "writer": number})
        writer.settle()
        return number

    def _prepared(
        self, bank: Bank, batch: Sequence[Json], expires_at: float | None, *, tenant: str
    ) -> list[Document | Failure]:
        read = partial(self._read, tenant=tenant)
        one = partial(prepared, bank=bank, read=read, expires_at=expires_at)
        pool = Pool(_READING)
        try:
            reads = [pool.spawn(copy_context().run, one, sent) for sent in batch]
            gevent.joinall(reads, raise_error=True)
        finally:
            pool.kill()
        return [read.get() for read in reads]

    def _store(
        self, provider: MemoryProvider, bank: Bank, documents: Sequence[Document], *, tenant: str, number: int
    ) -> None:
        if bank.kind is BankKind.VECTOR and bank.embedding_model is not None:
            documents = self._embedded(bank.embedding_model, documents, tenant)
        if documents:
            provider.put(bank, documents, writer=number)

    def _embedded(self, model: str, documents: Sequence[Document], tenant: str) -> list[Document]:
        """With an embedding for each chunk that came without one."""
        bare = [chunk for document in documents for chunk in document.chunks if chunk.embedding is None]
        vectors = iter(self._embedder.many(model, [chunk.content for chunk in bare], tenant=tenant))
        return [
            replace(
                document,
                chunks=[
                    chunk if chunk.embedding is not None else replace(chunk, embedding=next(vectors))
                    for chunk in document.chunks
                ],
            )
            for document in documents
        ]


def _size(document: Json) -> int:
    """About how much text there is. What lies elsewhere may be much: a few of such are enough for a batch."""
    content = document.get("content") or document.get("chunks")
    return _BATCH_BYTES // _READING if isinstance(content, dict) else len(str(content))


def _next_batch(documents: Sequence[Json], done: int) -> list[Json]:
    """The next documents: few enough to be stored, and told of, every second or so."""
    batch: list[Json] = []
    size = 0
    for document in documents[done : done + _BATCH]:
        size += _size(document)
        if batch and size > _BATCH_BYTES:
            break
        batch.append(document)
    return batch
