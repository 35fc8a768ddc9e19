"""Memory banks, also as vector databases, by the names of Llama Stack's client."""

from collections.abc import Callable

from flask import Response
from pydantic import BaseModel

from api.answers import answer, nothing
from api.idempotency import digest_of
from api.registering import one_of, register, unregister
from api.routes.parts import CreationHeaders
from api.routing import Routes, body_as_sent, services, tenant
from shared.events import Json
from shared.registrations import Kind
from shared.registry import RegisteredMemoryBank, Registry
from shared.types import memory as types

routes = Routes("memory-banks", about="Where documents are kept: by meaning, by words, by key, or as a graph.")

_REGISTERS = (409, 413, 415, 422, 500, 502, 503)


class BankPath(BaseModel):
    """A memory bank. Its name may hold slashes."""

    bank_id: str


@routes.on("GET", "/v1/memory-banks", answers={200: types.MemoryBankList}, problems=(503,))
def list_memory_banks() -> Response:
    """List the memory banks."""
    return answer({"data": [_entry(bank) for bank in services().served.registry(tenant()).memory_banks]})


@routes.on("POST", "/v1/memory-banks", answers={200: types.MemoryBankEntry}, problems=_REGISTERS)
def register_memory_bank(body: types.RegisterMemoryBank, header: CreationHeaders) -> Response:
    """Register a memory bank with its provider, which may refuse it. It stays until it is deleted."""
    return _register(body.memory_bank_id, body.model_dump(), header, _entry)


@routes.on("GET", "/v1/memory-banks/<path:bank_id>", answers={200: types.MemoryBankEntry}, problems=(404, 503))
def get_memory_bank(path: BankPath) -> Response:
    """Get a memory bank."""
    return answer(_entry(_bank(path.bank_id)))


@routes.on("DELETE", "/v1/memory-banks/<path:bank_id>", answers={204: None}, problems=(404, 409, 500, 502, 503))
def delete_memory_bank(path: BankPath) -> Response:
    """Delete a memory bank with all that is in it. 409 for one of the run config."""
    return _delete(path.bank_id)


@routes.on("GET", "/v1/vector-dbs", answers={200: types.VectorDBList}, problems=(503,))
def list_vector_dbs() -> Response:
    """List the vector banks."""
    banks = services().served.registry(tenant()).memory_banks
    return answer({"data": [_vector_db(bank) for bank in banks if bank.kind == "vector"]})


@routes.on("POST", "/v1/vector-dbs", answers={200: types.VectorDBEntry}, problems=_REGISTERS)
def register_vector_db(body: types.RegisterVectorDB, header: CreationHeaders) -> Response:
    """Register a vector bank."""
    payload = {
        "memory_bank_id": body.vector_db_id,
        "type": "vector",
        "provider_id": body.provider_id,
        "provider_memory_bank_id": body.provider_vector_db_id,
        "embedding_model": body.embedding_model,
        "embedding_dimension": body.embedding_dimension,
    }
    return _register(body.vector_db_id, payload, header, _vector_db)


@routes.on("GET", "/v1/vector-dbs/<path:bank_id>", answers={200: types.VectorDBEntry}, problems=(404, 503))
def get_vector_db(path: BankPath) -> Response:
    """Get a vector bank."""
    return answer(_vector_db(_bank(path.bank_id, kind="vector")))


@routes.on("DELETE", "/v1/vector-dbs/<path:bank_id>", answers={204: None}, problems=(404, 409, 500, 502, 503))
def delete_vector_db(path: BankPath) -> Response:
    """Delete a vector bank with all that is in it."""
    return _delete(path.bank_id, kind="vector")


def _register(
    name: str, payload: Json, header: CreationHeaders, shown: Callable[[RegisteredMemoryBank], Json]
) -> Response:
    def entry(registry: Registry) -> Json | None:
        found = registry.memory_bank(name)
        return None if found is None else shown(found)

    return register(
        services(),
        tenant(),
        Kind.MEMORY_BANK,
        payload,
        entry,
        idempotency_key=header.idempotency_key,
        digest=digest_of(body_as_sent()),
    )


def _bank(name: str, *, kind: str | None = None) -> RegisteredMemoryBank:
    def find(known: Registry) -> RegisteredMemoryBank | None:
        bank = known.memory_bank(name)
        return bank if bank is not None and kind in (None, bank.kind) else None

    return services().served.look(tenant(), lambda registry: one_of(registry, Kind.MEMORY_BANK, name, find))


def _delete(name: str, *, kind: str | None = None) -> Response:
    """Its content first: a registration that is left over can be deleted again."""
    _bank(name, kind=kind)
    services().calls.call("unregister_memory_bank", {"tenant": tenant(), "memory_bank_id": name})
    unregister(services(), tenant(), Kind.MEMORY_BANK, name, lambda registry: registry.memory_bank(name))
    return nothing()


def _entry(bank: RegisteredMemoryBank) -> Json:
    return {
        **_names(bank),
        "type": "memory_bank",
        "memory_bank_type": bank.kind,
        "embedding_model": bank.embedding_model,
        "embedding_dimension": bank.embedding_dimension,
        "chunk_size_in_tokens": bank.chunk_size_in_tokens,
        "overlap_size_in_tokens": bank.overlap_size_in_tokens,
    }


def _vector_db(bank: RegisteredMemoryBank) -> Json:
    return {
        **_names(bank),
        "type": "vector_db",
        "embedding_model": bank.embedding_model,
        "embedding_dimension": bank.embedding_dimension,
    }


def _names(bank: RegisteredMemoryBank) -> Json:
    return {
        "identifier": bank.identifier,
        "provider_resource_id": bank.resource_id,
        "provider_id": bank.provider_id,
    }
