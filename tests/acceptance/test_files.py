"""Files on a running stack: the official client unchanged, plain HTTP, insert jobs, and what tools return."""

import asyncio
import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_tools import FakeTools, answer
from llama_stack_client import AsyncLlamaStackClient, BadRequestError, LlamaStackClient, NotFoundError
from mcp_server import PNG, McpServer
from stack import Json, Stack, answered, running
from test_documents import DEFAULT_URL, block
from test_memory import bank, config_of, document, ended, names

FILE_MB = 6
DRAW: Json = {"match": "draw", "role": "user", "tool_calls": [{"tool_name": "draw", "arguments": {}}]}
LISTEN: Json = {"match": "listen", "role": "user", "tool_calls": [{"tool_name": "sound", "arguments": {}}]}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("files")
    config = config_of(folder)
    config["providers"]["memory"] = config["providers"]["memory"][:1]
    config["memory_banks"] = []
    config["providers"]["inference"][0]["config"]["rules"] = [
        DRAW,
        LISTEN,
        {"match": r"kept as a file: plot\.png", "role": "tool", "text": "Here is your plot."},
    ]
    with FakeTools() as tools, McpServer() as mcp:
        said = 'attachment; filename="plot.png"'
        tools.replies["/draw"] = answer(PNG, content_type="image/png", content_disposition=said)
        draw = {"name": "draw", "url": f"{tools.root}/draw"}
        config["providers"]["tool_runtime"] = [
            {"provider_id": "web", "provider_type": "remote::http", "config": {"tools": [draw]}},
            {"provider_id": "mcp", "provider_type": "remote::mcp", "config": {"uri": mcp.uri}},
        ]
        config["limits"] = {"file_mb": FILE_MB, "files_mb_per_tenant": 100}
        with running(folder, config) as stack:
            yield stack


@pytest.fixture
def client(stack: Stack) -> Iterator[LlamaStackClient]:
    with LlamaStackClient(base_url=stack.url, max_retries=0) as opened:
        yield opened


@pytest.fixture
def http(stack: Stack) -> Iterator[httpx.Client]:
    with stack.http() as http:
        yield http


def test_each_method_of_the_official_client_works(client: LlamaStackClient, tmp_path: Path) -> None:
    path = tmp_path / "notes.md"
    path.write_text("# Notes\nLima is the capital of Peru.\n")

    made = client.files.create(file=path, purpose="assistants")

    assert (made.filename, made.bytes, made.object, made.purpose) == ("notes.md", 37, "file", "assistants")
    assert made.expires_at > made.created_at > 1_700_000_000
    assert client.files.retrieve(made.id) == made
    assert client.files.content(made.id) == path.read_text()
    more = client.files.create(file=("more.json", b'{"a": 1}', "application/json"), purpose="assistants")
    assert client.files.content(more.id) == {"a": 1}
    listed = client.files.list(limit=1, order="asc", purpose="assistants", after=made.id)
    assert (listed.data, listed.first_id, listed.last_id) == ([more], more.id, more.id)
    assert (listed.object, listed.has_more) == ("list", False)
    assert client.files.list().data[:2] == [more, made]
    gone = client.files.delete(made.id)
    assert (gone.id, gone.deleted, gone.object) == (made.id, True, "file")
    for method in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(NotFoundError, match="There is no file"):
            method(made.id)
    with pytest.raises(BadRequestError, match="any more to go on behind"):
        client.files.list(after=made.id)
    client.files.delete(more.id)


def test_the_official_asynchronous_client_works(stack: Stack) -> None:
    async def use() -> object:
        async with AsyncLlamaStackClient(base_url=stack.url, max_retries=0) as client:
            made = await client.files.create(file=("a.txt", b"words"), purpose="assistants")
            assert (await client.files.retrieve(made.id)).bytes == 5
            content = await client.files.content(made.id)
            assert made.id in [file.id for file in (await client.files.list(limit=5)).data]
            assert (await client.files.delete(made.id)).deleted
            return content

    assert asyncio.run(use()) == "words"


def test_the_commands_of_the_files_section_upload_insert_and_find(stack: Stack) -> None:
    script = block("docs/memory.md", "bash", "/v1/files").replace(DEFAULT_URL, stack.url)

    done = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr
    job, found = map(json.loads, done.stdout.splitlines())
    assert (job["status"], job["failed"]) == ("completed", 0)
    assert "Lima" in found["chunks"][0]["content"]


def upload(http: httpx.Client, content: Any, name: str = "a.bin", **headers: str) -> httpx.Response:
    return http.post("/files", files={"file": (name, content)}, data={"purpose": "user_data"}, headers=headers)


def test_a_large_file_goes_through_disk_and_pieces_and_comes_back(http: httpx.Client) -> None:
    content = bytes(range(256)) * (FILE_MB * 1_000_000 // 256)
    file = answered(upload(http, content))
    with http.stream("GET", f"/files/{file['id']}/content") as reply:
        assert reply.headers["content-length"] == str(len(content))
        assert reply.read() == content
    http.delete(f"/files/{file['id']}")


@pytest.mark.parametrize("chunked", [False, True])
def test_a_file_over_the_bound_is_refused_with_its_name(http: httpx.Client, *, chunked: bool) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    body = head + b"x" * (FILE_MB * 1_000_000 + 200_000) + b"\r\n--x--\r\n"
    pieces = (body[at : at + 65_536] for at in range(0, len(body), 65_536))
    headers = {"Content-Type": "multipart/form-data; boundary=x"}

    reply = http.post("/files", content=pieces if chunked else body, headers=headers)

    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "file_too_large"), reply.text
    assert reply.json()["error"]["param"] == "file"


def test_who_says_at_once_that_it_is_too_much_is_refused_before_it_is_read(stack: Stack) -> None:
    with socket.create_connection(("127.0.0.1", stack.port), timeout=30) as connection:
        connection.sendall(
            b"POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n"
            b"Content-Length: 900000000\r\nConnection: close\r\n\r\n--x\r\n"
        )
        connection.shutdown(socket.SHUT_WR)
        reply = connection.makefile("rb").readline()
    assert b" 413 " in reply


def test_a_job_inserts_files_by_their_kind_and_the_others_where_one_has_gone(http: httpx.Client) -> None:
    bank(http, "f-words", "keyword")
    page = answered(upload(http, b"<html><body><p>The capital of Peru is Lima.</p></body></html>", "peru.html"))
    notes = answered(upload(http, "Santiago is the capital of Chile.".encode("utf-16"), "chile.txt"))
    lost = answered(upload(http, b"gone", "gone.txt"))
    documents = [document(one["filename"], {"file_id": one["id"]}) for one in (page, notes, lost)]
    # In front of the others stands one that keeps the job waiting until the file has gone.
    slow = [document(f"w{at}", f"words {at}") for at in range(200)]
    made = http.post("/memory/insert", json={"bank_id": "f-words", "documents": [*slow, *documents]})
    http.delete(f"/files/{lost['id']}")
    job = ended(http, answered(made)["job_id"])

    assert (job["status"], job["done"]) == ("completed", 203)
    assert names(http, "f-words", "capital of Peru", max_chunks=1) == ["peru.html"]
    assert names(http, "f-words", "Santiago") == ["chile.txt"]
    assert [failure["code"] for failure in job["failures"]] in ([], ["file_not_found"])
    again = http.post("/memory/insert", json={"bank_id": "f-words", "documents": [documents[-1]]})
    assert (again.status_code, again.json()["error"]["code"]) == (400, "file_not_found")
    assert again.json()["error"]["param"] == "documents.0.content.file_id"


def test_the_rag_tool_of_the_official_client_inserts_a_file(client: LlamaStackClient) -> None:
    file = client.files.create(file=("sea.txt", b"The sea is salty."), purpose="assistants")
    client.vector_dbs.register(vector_db_id="f-sea", embedding_model="scripted-embedding", provider_id="one")
    content: Any = {"file_id": file.id}
    client.tool_runtime.rag_tool.insert(
        vector_db_id="f-sea",
        chunk_size_in_tokens=128,
        documents=[{"document_id": "sea", "content": content, "mime_type": "text/plain", "metadata": {}}],
    )
    found = client.tool_runtime.rag_tool.query(content="salty sea", vector_db_ids=["f-sea"])
    assert "salty" in str(found.content)


def test_what_a_tool_draws_is_downloaded_by_the_official_client(stack: Stack, client: LlamaStackClient) -> None:
    config: Any = {"model": "scripted", "instructions": "", "toolgroups": ["web"]}
    agent_id = client.agents.create(agent_config=config).agent_id
    session_id = client.agents.session.create(agent_id=agent_id, session_name="s").session_id
    messages: Any = [{"role": "user", "content": "draw it"}]
    stream = client.agents.turn.create(agent_id=agent_id, session_id=session_id, messages=messages, stream=True)
    payloads = [chunk.event.payload for chunk in stream]

    turn = payloads[-1].turn
    assert turn.output_message.content == "Here is your plot."
    (attachment,) = turn.output_attachments
    assert attachment.mime_type == "image/png"
    reply = httpx.get(f"{stack.url}{attachment.content.uri}")
    assert (reply.content, reply.headers["content-type"]) == (PNG, "image/png")
    assert reply.headers["content-disposition"] == "attachment; filename=plot.png"
    (done,) = [one for one in payloads if one.event_type == "step_complete" and one.step_type == "tool_execution"]
    (named,) = done.step_details.tool_responses[0].metadata["attachments"]
    assert client.files.retrieve(named["file_id"]).purpose == "assistants_output"
    assert named["file_id"] in attachment.content.uri
    again = client.agents.turn.retrieve(agent_id=agent_id, session_id=session_id, turn_id=turn.turn_id)
    assert again.output_attachments == turn.output_attachments


def test_what_an_mcp_server_returns_besides_text_is_kept(stack: Stack) -> None:
    session = stack.new_session(toolgroups=["mcp/sound"])
    turn = stack.finished(session, stack.submit(session, "listen"))

    files = [httpx.get(f"{stack.url}{one['content']['uri']}") for one in turn["output_attachments"]]

    assert [(one.content, one.headers["content-type"]) for one in files] == [
        (b"RIFF wave", "audio/wav"),
        (b"RIFF wave", "application/pdf"),
    ]
    assert "report.pdf" in files[1].headers["content-disposition"]


def test_a_tool_that_is_invoked_by_itself_keeps_its_files_too(client: LlamaStackClient, http: httpx.Client) -> None:
    result = client.tool_runtime.invoke_tool(tool_name="draw", kwargs={})
    (named,) = result.metadata["attachments"]  # type: ignore[index]
    assert http.get(f"/files/{named['file_id']}/content").content == PNG
