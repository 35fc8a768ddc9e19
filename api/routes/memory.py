"""Memory: insert into banks, and ask them; also by the names of Llama Stack's client."""

import time
from collections import defaultdict
from hashlib import sha256
from typing import cast

from flask import Response

from api.answers import answer
from api.idempotency import digest_of
from api.jobs import accept_job
from api.memory_checks import require_fitting, require_question
from api.routes.parts import CreationHeaders
from api.routes.turns import SubmitHeaders
from api.routing import Routes, body_as_sent, services, tenant
from api.turn_answers import job_url
from api.waiting import at_rest, current, preferred, preferred_wait_s
from shared.errors import Conflict, InvalidRequest, ProviderError
from shared.events import Json
from shared.ids import TurnRef
from shared.insert_jobs import Insertion
from shared.registry import RegisteredMemoryBank, Registry
from shared.status import TurnStatus
from shared.types import memory as types
from shared.types.content import ImageItem, TextItem

routes = Routes("memory", about="What is put into memory banks, as jobs, and what is found there.")

_ACCEPTS = (404, 409, 413, 415, 422, 503)
_ASKS = (413, 415, 422, 500, 502, 503)


@routes.on("POST", "/v1/memory/insert", answers={202: types.Job, 200: types.Job}, problems=_ACCEPTS)
def insert(body: types.InsertDocuments, header: SubmitHeaders) -> Response:
    """Insert documents into a bank, as a job.

    202 at once: poll or tail the job at its `Location`. With `Prefer: wait=N` 200 once it has ended. A document that
    cannot be read is listed in the job, and the others go in; one with the id of an earlier one replaces it.
    """
    insertion = Insertion(
        bank_id=body.bank_id,
        documents=[document.model_dump(exclude_none=True) for document in body.documents],
        digest=digest_of(body_as_sent()),
        idempotency_key=header.idempotency_key,
        expires_at=_ends(body.ttl_seconds),
    )
    ref, headers = _accepted(insertion)
    wait_s = preferred_wait_s(header.prefer)
    if wait_s is not None:
        return preferred(services(), ref, wait_s, headers)
    return answer(current(services(), ref), 202, {**headers, "Retry-After": "1"})


@routes.on("POST", "/v1/tool-runtime/rag-tool/insert", answers={200: types.Job}, problems=_ACCEPTS)
def insert_for_rag(body: types.InsertForRag, header: CreationHeaders) -> Response:
    """Insert documents into a bank, and wait for it. A client that goes away changes nothing: the job goes on."""
    insertion = Insertion(
        bank_id=body.vector_db_id,
        documents=[document.model_dump(exclude_none=True) for document in body.documents],
        digest=digest_of(body_as_sent()),
        idempotency_key=header.idempotency_key,
        chunk_size_in_tokens=body.chunk_size_in_tokens,
    )
    return _at_rest(insertion)


@routes.on("POST", "/v1/vector-io/insert", answers={200: types.Job}, problems=_ACCEPTS)
def insert_chunks(body: types.InsertChunks, header: CreationHeaders) -> Response:
    """Insert chunks that the client has cut, and wait for it."""
    _check_chunks(body.chunks, _bank(body.vector_db_id, "vector_db_id"))
    insertion = Insertion(
        bank_id=body.vector_db_id,
        documents=_by_document(body.chunks),
        digest=digest_of(body_as_sent()),
        idempotency_key=header.idempotency_key,
        expires_at=_ends(body.ttl_seconds),
    )
    return _at_rest(insertion)


@routes.on("POST", "/v1/memory/query", answers={200: types.FoundChunks}, problems=_ASKS)
def query(body: types.QueryMemory) -> Response:
    """Find chunks in a bank, best first."""
    return _found(body.bank_id, "bank_id", body)


@routes.on("POST", "/v1/vector-io/query", answers={200: types.FoundChunks}, problems=_ASKS)
def query_vector_db(body: types.QueryVectorDB) -> Response:
    """Find chunks in a bank, best first."""
    return _found(body.vector_db_id, "vector_db_id", body)


@routes.on("POST", "/v1/tool-runtime/rag-tool/query", answers={200: types.RagResult}, problems=_ASKS)
def query_for_rag(body: types.QueryForRag) -> Response:
    """Find chunks in banks, as a text that a model can read."""
    banks = body.vector_db_ids
    services().served.look(tenant(), lambda known: known.require_memory_banks(banks, param="vector_db_ids"))
    config, text = body.query_config, _text(body.content, "content")
    if not text.strip():
        raise InvalidRequest("The query is empty. Say what to look for.", param="content", code="invalid_fields")
    payload = {
        "tenant": tenant(),
        "bank_ids": banks,
        "query": text,
        "params": {"max_chunks": config.max_chunks, "mode": config.mode},
        "max_tokens": config.max_tokens_in_context,
    }
    return answer(services().calls.call("query_memory_as_context", payload))


def _accepted(insertion: Insertion) -> tuple[TurnRef, Json]:
    """The job, and the headers of its answer."""
    ref, replayed = accept_job(services(), tenant(), insertion)
    headers = {"Location": job_url(ref)}
    return ref, headers | ({"Idempotent-Replayed": "true"} if replayed else {})


def _ends(ttl_s: int | None) -> float | None:
    return None if ttl_s is None else time.time() + ttl_s


def _at_rest(insertion: Insertion) -> Response:
    """The job once it has ended. Raises where nothing came of it: the clients of these routes do not look into it.

    After 15 s of silence the status has been sent: then the job alone says how it ended.
    """
    return at_rest(services(), *_accepted(insertion), require=_require_inserted)


def _require_inserted(job: Json) -> None:
    if job["status"] == TurnStatus.CANCELED:
        raise Conflict(f"The insert job '{job['job_id']}' was canceled.", code="canceled")
    if job["status"] == TurnStatus.FAILED:
        error = job["error"]
        said = f"The insert job '{job['job_id']}' failed. {error['message']}"
        raise ProviderError(said, provider_id=error.get("provider_id") or "", code=error["code"])
    if job["failed"] == job["documents"]:
        first = job["failures"][0]
        said = f"None of the documents could be read. {first['document_id']}: {first['message']}"
        raise InvalidRequest(said, param="documents", code=first["code"])


def _check_chunks(chunks: list[types.VectorChunk], bank: RegisteredMemoryBank) -> None:
    for index, chunk in enumerate(chunks):
        at, given = f"chunks.{index}", len(chunk.embedding or ())
        if bank.kind == "vector" and chunk.embedding is not None and given != bank.embedding_dimension:
            problem = f"The bank '{bank.identifier}' keeps embeddings of {bank.embedding_dimension} dimensions."
            raise InvalidRequest(f"{problem} This one has {given}.", param=f"{at}.embedding", code="invalid_fields")
        if not _text(chunk.content, f"{at}.content").strip():
            raise InvalidRequest("A chunk needs a text.", param=f"{at}.content", code="invalid_fields")


def _found(bank_id: str, param: str, body: types.QueryMemory | types.QueryVectorDB) -> Response:
    text, params = _text(body.query, "query"), body.params.model_dump(exclude_none=True)
    bank = _bank(bank_id, param)
    require_fitting(bank, params, at="params.")
    require_question(bank, text, params, param="query")
    payload = {"tenant": tenant(), "bank_id": bank_id, "query": text, "params": params}
    return answer(services().calls.call("query_memory", payload))


def _bank(bank_id: str, param: str) -> RegisteredMemoryBank:
    """The bank. Raises InvalidRequest."""

    def find(known: Registry) -> RegisteredMemoryBank | None:
        known.require_memory_banks([bank_id], param=param)
        return known.memory_bank(bank_id)

    return cast(RegisteredMemoryBank, services().served.look(tenant(), find))


def _text(content: object, param: str) -> str:
    """The text of a question. Raises InvalidRequest for one with images."""
    if isinstance(content, str):
        return content
    items = content if isinstance(content, list) else [content]
    if any(isinstance(item, ImageItem) for item in items):
        raise InvalidRequest("Memory is searched by text, not by images.", param=param, code="not_supported")
    return "\n".join(item.text for item in items if isinstance(item, TextItem))


def _by_document(chunks: list[types.VectorChunk]) -> list[Json]:
    """Chunks as documents of chunks, in the order of their first ones. One that names none has the name of its text."""
    documents: dict[str, list[Json]] = defaultdict(list)
    for index, chunk in enumerate(chunks):
        text = _text(chunk.content, f"chunks.{index}.content")
        name = chunk.metadata.get("document_id")
        if name is None:
            name = f"chunk-{sha256(text.encode()).hexdigest()[:24]}"
        elif not isinstance(name, str) or not 1 <= len(name) <= 255:
            problem = "A document_id is a text of 1 to 255 characters."
            raise InvalidRequest(problem, param=f"chunks.{index}.metadata.document_id", code="invalid_fields")
        given: Json = {"content": text, "metadata": chunk.metadata}
        documents[name].append(given if chunk.embedding is None else given | {"embedding": chunk.embedding})
    return [{"document_id": name, "chunks": its} for name, its in documents.items()]
