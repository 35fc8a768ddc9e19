"""The `memory_retrieval` step of a turn: its documents are read, and what the turn may draw on is searched."""

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import partial

import gevent
import orjson
from gevent.pool import Pool

from shared.errors import ProviderError, StoreError
from shared.events import Json
from shared.fold import TurnState
from shared.hints import Hints
from shared.ids import SessionRef, TurnRef
from shared.insert_jobs import Insertion
from shared.log.reader import LogReader
from shared.log.sessions import SessionStore
from shared.log.turn_log import PLAIN, TurnLog
from shared.status import TERMINAL, TurnStatus
from worker.documents.errors import UnreadableDocument
from worker.interrupts import CancelAsked, Interrupts
from worker.memory.chunking import count_tokens, first_tokens
from worker.memory.context import context_of, whole_documents
from worker.memory.kept_documents import MARK, KeptDocuments
from worker.memory.preparing import Failure, ReadOfTenant
from worker.memory.query import MAX_CHUNKS, MAX_TOKENS_IN_CONTEXT
from worker.memory.rag_tools import RagTools
from worker.memory.retrieving import Retriever
from worker.memory.service import Asked, Hit
from worker.memory.session_banks import SessionBanks
from worker.memory.turn_documents import bank_name, kept_in, name_in, to_read
from worker.providers.memory import Chunk, Found
from worker.stored import until_stored
from worker.toolbox import BoundTool

_READING = 4
_PAUSES_S = (0.5, 2.0)
"""Before an address is tried again that may answer a moment later."""
_OPENING_TOKENS = 256
"""Of a long document in which nothing was found for the question: what it begins with."""
_LETTERS = 8
"""A token has at most about so many letters: what is longer by letters alone need not be counted."""
_FIRST_LOOK_S, _LONGEST_LOOK_S = 0.05, 1.0


@dataclass(frozen=True, slots=True)
class ReadDocument:
    """A document of a turn, read."""

    name: str
    text: str
    metadata: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Looking:
    """What looking takes; one set per worker process. `read` is None where no library for it is installed."""

    retriever: Retriever
    banks: SessionBanks
    read: ReadOfTenant | None
    context_tokens: int
    sessions: SessionStore
    log: TurnLog
    reader: LogReader
    hints: Hints
    job_ttl_s: float

    def step(
        self, state: TurnState, earlier: Sequence[Json], interrupts: Interrupts, *, ref: TurnRef, step_id: str
    ) -> Json:
        """What the step's details have beside those of every step. `earlier` are the session's turns so far.

        Raises ProviderError, and interrupts. Documents that cannot be read are told of, and the others go in.
        """
        return _Look(self, state, interrupts, ref, step_id).run(kept_in(earlier))

    def in_session(
        self, tools: dict[str, BoundTool], session: SessionRef, names: Callable[[], dict[str, str]]
    ) -> dict[str, BoundTool]:
        """A turn's tools, of which those that search memory look into the session's documents too."""
        kept = KeptDocuments(self.banks, session, names)
        return {
            name: replace(bound, provider=bound.provider.in_session(kept))
            if isinstance(bound.provider, RagTools)
            else bound
            for name, bound in tools.items()
        }


class _Look:
    """One step."""

    def __init__(self, tools: Looking, state: TurnState, interrupts: Interrupts, ref: TurnRef, step_id: str) -> None:
        self._tools = tools
        self._state = state
        self._interrupts = interrupts
        self._ref = ref
        self._step_id = step_id
        self._failures: list[Failure] = []

    def run(self, kept: dict[str, str]) -> Json:
        whole, long = self._divided(self._read())
        if long:
            self._keep(long)
            kept = kept | {one.name: bank_name(self._step_id, one.name) for one in long}
        config: Json = self._state.config.get("memory") or {}
        most = config.get("max_chunks") or MAX_CHUNKS
        query = self._question(config) if kept or config.get("memory_bank_configs") else ""
        asked = self._tools.retriever.asked(config, query)
        session = KeptDocuments(self._tools.banks, self._ref.session, lambda: kept)
        own = self._own(session, query, most)
        hits = session.named(self._searched(asked, own, kept))
        hits += [_opening(self._ref.session_id, one) for one in long if one.name not in _found(hits)]
        found = context_of(hits, max_tokens=config.get("max_tokens_in_context") or MAX_TOKENS_IN_CONTEXT)
        shown = whole_documents([(one.name, one.text, one.metadata) for one in whole], self._failures)
        return {
            "vector_db_ids": ",".join(one.bank_id for one in (*asked, *own)),
            "inserted_context": "\n\n".join(filter(None, (shown.text, found.text))),
            "query": query,
            "citations": shown.citations + found.citations,
            "documents": [one.name for one in long],
            "failures": [failure.as_json() for failure in self._failures],
        }

    def _question(self, config: Json) -> str:
        with self._interrupts.open():
            return self._tools.retriever.question(config, self._state.input_messages, tenant=self._ref.tenant)

    def _searched(self, asked: list[Asked], own: list[Asked], kept: Collection[str]) -> list[Hit]:
        try:
            with self._interrupts.open():
                return self._tools.retriever.search([*asked, *own], tenant=self._ref.tenant)
        except ProviderError as error:
            if not own or error.code != "memory_bank_not_found":
                raise
            # The provider has lost the session's bank. It is said, and the session goes on.
            self._failures += [Failure(name, error.code, error.message) for name in kept]
            return self._searched(asked, [], ())

    def _read(self) -> list[ReadDocument]:
        waiting = to_read(self._state.documents)
        with self._interrupts.open():
            pool = Pool(_READING)
            try:
                reads = [pool.spawn(copy_context().run, self._read_one, name, one) for name, one in waiting]
                gevent.joinall(reads, raise_error=True)
            finally:
                pool.kill()
        outcomes = [read.get() for read in reads]
        self._failures += [outcome for outcome in outcomes if isinstance(outcome, Failure)]
        return [outcome for outcome in outcomes if isinstance(outcome, ReadDocument)]

    def _read_one(self, name: str, document: Json) -> ReadDocument | Failure:
        if self._tools.read is None:
            problem = "Documents are not read here: install the extra 'memory' (pip install 'turnstone[memory]')."
            return Failure(name, "reader_unavailable", problem)
        for pause in (*_PAUSES_S, None):
            try:
                text = self._tools.read(document["content"], document.get("mime_type"), tenant=self._ref.tenant)
            except UnreadableDocument as error:
                if pause is None or not error.retryable:
                    return Failure(name, error.code, error.message)
                gevent.sleep(pause)
            else:
                return ReadDocument(name, text, document.get("metadata") or {})
        raise AssertionError("unreachable")

    def _divided(self, documents: list[ReadDocument]) -> tuple[list[ReadDocument], list[ReadDocument]]:
        """Those that the model reads whole, and those that are too long for that, where a provider can keep them."""
        if not self._tools.banks.can_keep:
            return documents, []
        room = self._tools.context_tokens
        whole: list[ReadDocument] = []
        long: list[ReadDocument] = []
        for document in documents:
            size = room + 1 if len(document.text) > room * _LETTERS else count_tokens(document.text)
            if size > room:
                long.append(document)
            else:
                whole.append(document)
                room -= size
        return whole, long

    def _keep(self, documents: list[ReadDocument]) -> None:
        """Put documents into the session's bank, by an insert job: cutting and embedding them would hold up other
        turns here. Waits for it."""
        self._bank()
        insertion = Insertion(
            bank_id=self._ref.session_id,
            session_id=self._ref.session_id,
            documents=[
                {
                    "document_id": bank_name(self._step_id, one.name),
                    "content": [{"type": "text", "text": one.text}],
                    "metadata": {**one.metadata, MARK: bank_name(self._step_id, one.name)},
                }
                for one in documents
            ],
            digest=self._ref.member,
            idempotency_key=self._step_id,
        )
        job = insertion.ref(self._ref.tenant)
        until_stored(partial(self._accept, job, insertion), self._interrupts)
        try:
            self._failures += self._waited_for(job)
        except CancelAsked:
            # Where the store is away the job ends by itself: nobody will ask for what it put there.
            with suppress(StoreError):
                self._tools.log.cancel(job, reason="Its turn was canceled.")
            raise

    def _bank(self) -> None:
        """Have the session's bank made, unless it is there."""
        banks, session = self._tools.banks, self._ref.session
        noted = until_stored(partial(banks.known, session), self._interrupts)
        if noted is None:
            with self._interrupts.open():
                planned = banks.planned(session)
            noted = until_stored(partial(banks.note, session, planned), self._interrupts)
        with self._interrupts.open():
            banks.make(noted)

    def _accept(self, job: TurnRef, insertion: Insertion) -> None:
        self._tools.sessions.create(job.session, insertion.session(job, idle_ttl_s=self._tools.job_ttl_s))
        self._tools.log.accept(
            job,
            event=insertion.created(job),
            config=insertion.config(),
            digest=insertion.digest,
            terms=PLAIN,
        )
        self._tools.hints.send(job)

    def _waited_for(self, job: TurnRef) -> list[Failure]:
        """The job's failures once it has ended. Raises ProviderError where it has not completed."""
        pause = _FIRST_LOOK_S
        while True:
            row = until_stored(partial(self._tools.reader.row, job), self._interrupts)
            if row is None or row.status in TERMINAL:
                break
            with self._interrupts.open():
                gevent.sleep(pause)
            pause = min(2 * pause, _LONGEST_LOOK_S)
        turn: Json = orjson.loads(row.snapshot) if row is not None and row.snapshot is not None else {}
        if row is None or row.status is not TurnStatus.COMPLETED:
            how = "is gone" if row is None else f"ended as {row.status}"
            error = turn.get("error") or {"code": "insert_not_completed", "message": "send them again."}
            problem = f"The job {job.turn_id}, which put the turn's documents into memory, {how}: {error['message']}"
            raise ProviderError(problem, provider_id=error.get("provider_id") or "", code=error["code"])
        return [Failure(**{**one, "document_id": name_in(one["document_id"])}) for one in turn["steps"][-1]["failures"]]

    def _own(self, kept: KeptDocuments, query: str, most: int) -> list[Asked]:
        """The question to the session's bank, for what counts of it."""
        try:
            return until_stored(partial(kept.asked, query, max_chunks=most), self._interrupts)
        except ProviderError as error:
            self._failures += [Failure(name, error.code, error.message) for name in kept.names()]
            return []


def _found(hits: Sequence[Hit]) -> set[str]:
    return {hit.found.document_id for hit in hits}


def _opening(bank_id: str, document: ReadDocument) -> Hit:
    text = first_tokens(document.text, _OPENING_TOKENS)
    chunk = Chunk(content=text, token_count=count_tokens(text), metadata=document.metadata)
    return Hit(bank_id, Found(document_id=document.name, position=0, chunk=chunk, score=0.0))
