"""What clients send to memory that it cannot do: refused by the name of the field, with the fix, before any worker."""

from dataclasses import replace
from typing import Any

import pytest
from apikit import REGISTRY, Api, Json, assert_problem

from shared.registry import RegisteredMemoryBank

DOCUMENT: Json = {"document_id": "d", "content": "words"}
SIZES = {"chunk_size_in_tokens": 512, "overlap_size_in_tokens": 64}


def registered(kind: str) -> RegisteredMemoryBank:
    vectors: Json = {"embedding_model": "e", "embedding_dimension": 3} if kind == "vector" else {}
    return RegisteredMemoryBank(identifier=kind, provider_id="it", resource_id=kind, kind=kind, **SIZES, **vectors)


@pytest.fixture
def api(redis_url: str, key_prefix: str) -> Api:
    banks = [registered(kind) for kind in ("vector", "keyword", "keyvalue", "graph")]
    return Api.on(redis_url, key_prefix, registry=replace(REGISTRY, memory_banks=banks))


def chunk(**more: Any) -> Json:
    return {"vector_db_id": "vector", "chunks": [{"content": "fine"}, {"content": "words", **more}]}


def agent(**memory: Any) -> Json:
    return {"agent_config": {"model": "m", "memory": memory}}


MEMORY, FIRST = "agent_config.memory", "agent_config.memory.memory_bank_configs.0"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        *(
            ("memory-banks", {"memory_bank_id": name, "type": "keyword"}, "memory_bank_id")
            for name in ("", "..", ".", "/", "a//b", "a/../b", "/a", "a/", "a\nb", "a\x7f", "x" * 256, 5)
        ),
        ("vector-dbs", {"vector_db_id": "a/..", "embedding_model": "e"}, "vector_db_id"),
        ("memory-banks", {"memory_bank_id": "b", "type": "vector", "chunk_size_in_tokens": 100,
                          "overlap_size_in_tokens": 51}, "overlap_size_in_tokens"),
        ("memory-banks", {"memory_bank_id": "b", "type": "vector", "embedding_dimension": 0}, "embedding_dimension"),
        ("memory/insert", {"bank_id": "keyword", "documents": [DOCUMENT], "ttl_seconds": 0}, "ttl_seconds"),
        ("memory/insert", {"bank_id": "keyword", "documents": [{**DOCUMENT, "metadata": []}]}, "documents.0.metadata"),
        ("vector-io/insert", chunk(embedding=[1, 2]), "chunks.1.embedding"),
        ("vector-io/insert", chunk(embedding=[1, 2, 1e39]), "chunks.1.embedding.2"),
        ("vector-io/insert", chunk(embedding=[1, 2, "3"]), "chunks.1.embedding.2"),
        ("vector-io/insert", chunk(embedding=[]), "chunks.1.embedding"),
        ("vector-io/insert", chunk(content=" "), "chunks.1.content"),
        ("vector-io/insert", chunk(metadata={"document_id": 5}), "chunks.1.metadata.document_id"),
        *(("memory/query", {"bank_id": kind, "query": text}, "query")
          for kind in ("vector", "keyword", "keyvalue", "graph") for text in ("", " \n", [])),
        ("vector-io/query", {"vector_db_id": "vector", "query": ""}, "query"),
        ("tool-runtime/rag-tool/query", {"vector_db_ids": ["vector"], "content": " "}, "content"),
        *(("memory/query", {"bank_id": kind, "query": "x", "params": {"mode": mode}}, "params.mode")
          for kind in ("keyword", "keyvalue", "graph") for mode in ("vector", "hybrid")),
        ("memory/query", {"bank_id": "keyvalue", "query": "x", "params": {"mode": "keyword"}}, "params.mode"),
        ("memory/query", {"bank_id": "graph", "query": "x", "params": {"keys": ["a"]}}, "params.keys"),
        ("memory/query", {"bank_id": "keyvalue", "query": "x", "params": {"entities": ["a"]}}, "params.entities"),
        *(("memory/query", {"bank_id": "vector", "query": "x", "params": {"max_chunks": most}}, "params.max_chunks")
          for most in (0, -1, 1001, 10_000, 1.5, "5", True)),
        ("memory/query", {"bank_id": "vector", "query": "x", "params": {"filters": {"a": {"b": 1}}}}, "params.filters"),
        ("memory/query", {"bank_id": "vector", "query": "x", "params": {"filters": {"a": [[1]]}}}, "params.filters"),
        ("agents", agent(memory_bank_configs=[{"bank_id": "keyword", "mode": "vector"}]), f"{FIRST}.mode"),
        ("agents", agent(memory_bank_configs=[{"bank_id": "vector", "keys": ["a"]}]), f"{FIRST}.keys"),
        ("agents", agent(memory_bank_configs=[{"bank_id": "keyvalue", "entities": ["a"]}]), f"{FIRST}.entities"),
        ("agents", agent(memory_bank_configs=[{"bank_id": "vector", "type": "graph"}]), f"{FIRST}.type"),
        ("agents", agent(memory_bank_configs=[]), f"{MEMORY}.memory_bank_configs"),
        ("agents", agent(memory_bank_configs=[{"bank_id": "vector"}], max_tokens_in_context=0),
         f"{MEMORY}.max_tokens_in_context"),
        *(("agents", agent(memory_bank_configs=[{"bank_id": "vector"}], query_generator_config=given),
           f"{MEMORY}.query_generator_config{field}")
          for given, field in (({"type": "llm"}, ".model"), ({"type": "llm", "model": "none"}, ".model"),
                               ({"type": "llm", "model": "e"}, ".model"), ({"type": "custom"}, ".query"),
                               ({"type": "custom", "query": ""}, ".query"), ({"type": "guess"}, ""))),
    ],
)  # fmt: skip
def test_bad_input_is_refused_by_the_name_of_its_field(api: Api, path: str, body: Json, param: str) -> None:
    answer = api.post(f"/v1/{path}", body)

    assert answer.status_code in (400, 422), answer.text
    problem = assert_problem(answer, answer.status_code)
    assert problem["error"]["param"] == param


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none_are_refused(api: Api, number: str) -> None:
    body = f'{{"vector_db_id": "vector", "chunks": [{{"content": "c", "embedding": [0, 0, {number}]}}]}}'
    answer = api.client.post("/v1/vector-io/insert", data=body, content_type="application/json")
    assert_problem(answer, 400, "malformed_json")


def test_null_is_absent_in_optional_fields(api: Api) -> None:
    body = {"bank_id": "vector", "documents": [{**DOCUMENT, "mime_type": None, "metadata": None}], "ttl_seconds": None}
    assert api.post("/v1/memory/insert", body).status_code == 202
    memory = {"memory_bank_configs": [{"bank_id": "vector", "type": None, "keys": None, "mode": None, "filters": None}],
              "query_generator_config": None, "max_chunks": None, "max_tokens_in_context": None}  # fmt: skip
    assert api.post("/v1/agents", agent(**memory)).status_code == 200


def test_a_vector_database_is_none_of_another_kind(api: Api) -> None:
    for method in (api.client.get, api.client.delete):
        assert_problem(method("/v1/vector-dbs/keyvalue"), 404)
