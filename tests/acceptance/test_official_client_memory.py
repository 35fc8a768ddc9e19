"""The official client, unchanged, on memory: vector databases, the RAG tool, an agent that searches."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from llama_stack_client import (
    Agent,
    AsyncLlamaStackClient,
    BadRequestError,
    LlamaStackClient,
    NotFoundError,
    UnprocessableEntityError,
)
from llama_stack_client.types import Document
from stack import Json, Stack, running
from test_memory import EMBEDDING, config_of

SEARCH = {
    "match": "look it up",
    "role": "user",
    "tool_calls": [{"tool_name": "knowledge_search", "arguments": {"query": "capital of Peru"}}],
}
TOLD = {"match": "Lima", "role": "tool", "text": "It is Lima."}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("memory")
    config = config_of(folder)
    config["providers"]["inference"][0]["config"]["rules"] = [SEARCH, TOLD]
    with running(folder, config) as stack:
        yield stack


@pytest.fixture
def client(stack: Stack) -> Iterator[LlamaStackClient]:
    with LlamaStackClient(base_url=stack.url, max_retries=0) as opened:
        yield opened


@pytest.fixture
def db(client: LlamaStackClient, request: pytest.FixtureRequest) -> str:
    """A vector database with three documents."""
    name = f"db-{request.node.name}"[:60]
    client.vector_dbs.register(vector_db_id=name, embedding_model=EMBEDDING, provider_id="one")
    texts = {"peru": "The capital of Peru is Lima.", "chile": "Santiago is in Chile.", "sea": "The sea is salty."}
    client.tool_runtime.rag_tool.insert(
        vector_db_id=name,
        chunk_size_in_tokens=128,
        documents=[
            Document(document_id=key, content=text, mime_type="text/plain", metadata={"key": key})
            for key, text in texts.items()
        ],
    )
    return name


def test_vector_databases_are_registered_listed_got_and_deleted(client: LlamaStackClient) -> None:
    made = client.vector_dbs.register(
        vector_db_id="mine", embedding_model=EMBEDDING, embedding_dimension=256, provider_id="one"
    )
    assert (made.identifier, made.embedding_dimension, made.type) == ("mine", 256, "vector_db")
    assert "mine" in [one.identifier for one in client.vector_dbs.list()]
    assert client.vector_dbs.retrieve("mine").embedding_model == EMBEDDING

    client.vector_dbs.unregister("mine")

    with pytest.raises(NotFoundError):
        client.vector_dbs.retrieve("mine")


def test_chunks_that_are_inserted_are_found(client: LlamaStackClient) -> None:
    client.vector_dbs.register(vector_db_id="chunks", embedding_model=EMBEDDING, provider_id="one")
    chunks: Any = [
        {"content": "apples and pears", "metadata": {"document_id": "fruit", "page": 1}},
        {"content": "wheels and brakes", "metadata": {"document_id": "cars"}},
        {"content": "no document", "metadata": {}},
    ]
    client.vector_io.insert(vector_db_id="chunks", chunks=chunks)

    found = client.vector_io.query(vector_db_id="chunks", query="pears", params={"max_chunks": 1})

    assert [chunk.content for chunk in found.chunks] == ["apples and pears"]
    assert found.chunks[0].metadata["document_id"] == "fruit" and found.chunks[0].metadata["page"] == 1
    assert len(found.scores) == 1


def test_the_rag_tool_answers_with_a_text_for_a_model(client: LlamaStackClient, db: str) -> None:
    found = client.tool_runtime.rag_tool.query(content="capital of Peru", vector_db_ids=[db])
    assert "Lima" in str(found.content)
    assert found.metadata["document_ids"][0] == "peru"  # type: ignore[index]


def test_a_database_that_is_not_there_is_refused(client: LlamaStackClient) -> None:
    with pytest.raises(BadRequestError, match="no memory bank 'nowhere'"):
        client.vector_io.query(vector_db_id="nowhere", query="x")


def test_an_insert_of_which_nothing_comes_raises(client: LlamaStackClient, db: str) -> None:
    inside = Document(document_id="inside", content="http://127.0.0.1/x", mime_type="text/plain", metadata={})
    with pytest.raises(BadRequestError, match="None of the documents could be read"):
        client.tool_runtime.rag_tool.insert(vector_db_id=db, chunk_size_in_tokens=128, documents=[inside])
    short: Any = [{"content": "words", "metadata": {}, "embedding": [0.5]}]
    with pytest.raises(UnprocessableEntityError, match="This one has 1") as caught:
        client.vector_io.insert(vector_db_id=db, chunks=short)
    assert caught.value.body["error"]["param"] == "chunks.0.embedding"  # type: ignore[index]


def test_the_asynchronous_client_registers_inserts_and_finds(stack: Stack) -> None:
    async def found() -> list[str]:
        async with AsyncLlamaStackClient(base_url=stack.url, max_retries=0) as client:
            await client.vector_dbs.register(vector_db_id="async", embedding_model=EMBEDDING, provider_id="one")
            chunks: Any = [{"content": "apples", "metadata": {}}, {"content": "wheels", "metadata": {}}]
            await client.vector_io.insert(vector_db_id="async", chunks=chunks)
            answer = await client.vector_io.query(vector_db_id="async", query="wheels", params={"max_chunks": 1})
            return [str(chunk.content) for chunk in answer.chunks]

    assert asyncio.run(found()) == ["wheels"]


def test_the_rag_tool_group_is_listed(client: LlamaStackClient) -> None:
    assert "builtin::rag" in [group.identifier for group in client.toolgroups.list()]
    assert [tool.identifier for tool in client.tools.list(toolgroup_id="builtin::rag")] == ["knowledge_search"]
    assert "builtin-rag" in [provider.provider_id for provider in client.providers.list()]


def test_an_agent_searches_its_database(client: LlamaStackClient, db: str) -> None:
    toolgroup: Any = {"name": "builtin::rag/knowledge_search", "args": {"vector_db_ids": [db]}}
    agent = Agent(client, model="scripted", instructions="", tools=[toolgroup])
    session = agent.create_session("searching")

    turn = agent.create_turn(
        messages=[{"role": "user", "content": "Please look it up"}], session_id=session, stream=False
    )

    assert turn.output_message.content == "It is Lima."
    (step,) = [step for step in turn.steps if step.step_type == "tool_execution"]
    assert "Lima" in str(step.tool_responses[0].content)


def test_the_tool_can_be_invoked_by_itself(client: LlamaStackClient, db: str) -> None:
    kwargs: Json = {"query": "capital of Peru", "vector_db_ids": [db]}
    result = client.tool_runtime.invoke_tool(tool_name="knowledge_search", kwargs=kwargs)
    assert "Lima" in str(result.content)


def test_memory_in_a_turn_streams_its_step(client: LlamaStackClient, db: str) -> None:
    config: Any = {
        "model": "scripted",
        "instructions": "",
        "memory": {"memory_bank_configs": [{"bank_id": db, "type": "vector"}], "max_chunks": 1},
    }
    agent_id = client.agents.create(agent_config=config).agent_id
    session = client.agents.session.create(agent_id=agent_id, session_name="s").session_id
    stream = client.agents.turn.create(
        agent_id=agent_id,
        session_id=session,
        messages=[{"role": "user", "content": "the capital of Peru"}],
        stream=True,
    )
    payloads = [chunk.event.payload for chunk in stream]
    done = [one for one in payloads if one.event_type == "step_complete" and one.step_type == "memory_retrieval"]
    assert done[0].step_details.vector_db_ids == db
    assert "Lima" in str(done[0].step_details.inserted_context)
