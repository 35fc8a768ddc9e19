"""Documents in turns, on a running stack: read, searched, found again later, and gone with their session."""

import base64
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from documentkit import Site, docx, paragraph, pdf_of, shown, word
from documentkit import http as response
from llama_stack_client import Agent, LlamaStackClient
from stack import Stack, answered, running
from test_memory import config_of
from waiting import wait_for

Json = dict[str, Any]

FILLER = "Nothing of interest stands in this line, and it is long enough to fill a page with others like it.\n"
PERU = "The capital of Peru is Lima."
CODE = "The code of the vault is quokka."
SEARCH = {"tool_name": "knowledge_search", "arguments": {"query": "the code of the vault"}}
RULES = [
    {"match": "look it up", "role": "user", "tool_calls": [SEARCH]},
    {"match": "quokka", "role": "tool", "text": "Found: quokka."},
    {"match": "no documents in this conversation", "role": "tool", "text": "Found nothing."},
    {"match": "(?s)what is it.*quokka", "text": "It is quokka."},
    {"match": "Lima", "text": "It is Lima."},
]


def book(*facts: str) -> str:
    """A text that is too long for the context, with facts far apart from each other."""
    return "".join(FILLER * 150 + f"\n{fact}\n\n" for fact in facts) + FILLER * 300


def data_url(body: bytes | str, mime_type: str = "text/plain") -> str:
    raw = body.encode() if isinstance(body, str) else body
    return f"data:{mime_type};base64,{base64.b64encode(raw).decode()}"


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    page = response(b"<h1>Plum</h1>", content_type="text/html")
    with Site({"/fruit.html": page, "/gone": response(status=404)}) as site:
        yield site


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("documents")
    config = config_of(folder) | {"fetching": {"allow": ["127.0.0.1"]}}
    config["providers"]["inference"][0]["config"]["rules"] = RULES
    with running(folder, config) as stack:
        yield stack


@pytest.fixture
def http(stack: Stack) -> Iterator[httpx.Client]:
    with stack.http() as http:
        yield http


def submitted(http: httpx.Client, session: str, text: str, *documents: Json) -> Json:
    body = {"messages": [{"role": "user", "content": text}], "documents": documents}
    return answered(http.post(f"{session}/turn", json=body))


def asked(stack: Stack, http: httpx.Client, session: str, text: str, *documents: Json) -> Json:
    """The turn, once it has ended well."""
    turn = stack.finished(session, submitted(http, session, text, *documents))
    assert turn["status"] == "completed", turn
    return turn


def look(turn: Json) -> Json:
    (step,) = [step for step in turn["steps"] if step["step_type"] == "memory_retrieval" and step["completed_at"]]
    return dict(step)


def session_id(session: str) -> str:
    return session.rpartition("/")[2]


def kept(folder: Path, text: str) -> int:
    """How many chunks of the provider's file hold a text."""
    with sqlite3.connect(f"file:{folder}/one.sqlite3?mode=ro", uri=True) as connection:
        (count,) = connection.execute("SELECT count(*) FROM chunks WHERE content LIKE ?", (f"%{text}%",)).fetchone()
    return int(count)


def test_files_and_addresses_are_read_into_the_context(stack: Stack, http: httpx.Client, site: Site) -> None:
    turn = asked(
        stack,
        http,
        stack.new_session(),
        "What is in them?",
        {"content": {"uri": data_url(pdf_of(shown("Apricot")), "application/pdf")}, "document_id": "a.pdf"},
        {"content": {"uri": data_url(docx(word(paragraph("Banana"))), "application/octet-stream")}},
        {"content": {"uri": site.url("/fruit.html")}},
        {"content": "name,price\nLima,3\n", "mime_type": "text/csv", "metadata": {"page": 1}},
    )
    step = look(turn)
    assert [one["document_id"] for one in step["citations"]] == ["a.pdf", "document-2", "fruit.html", "document-4"]
    assert step["citations"][3]["metadata"] == {"page": 1} and step["citations"][3]["bank_id"] is None
    assert all(word in step["inserted_context"] for word in ("Apricot", "Banana", "Plum", "Lima"))
    assert (step["documents"], step["failures"], step["vector_db_ids"]) == ([], [], "")
    assert turn["output_message"]["content"] == "It is Lima.", "the model has read it"


def test_an_uploaded_file_is_read(stack: Stack, http: httpx.Client) -> None:
    sent = {"file": ("prices.csv", b"name,price\nLima,3\n", "text/csv")}
    file_id = answered(http.post("/files", files=sent, data={"purpose": "assistants"}))["id"]
    session = stack.new_session()

    turn = asked(stack, http, session, "What is in it?", {"content": {"file_id": file_id}})

    assert look(turn)["citations"][0]["document_id"] == file_id
    assert turn["output_message"]["content"] == "It is Lima."
    answered(http.delete(f"/files/{file_id}"))
    body = {"messages": [{"role": "user", "content": "x"}], "documents": [{"content": {"file_id": file_id}}]}
    answer = http.post(f"{session}/turn", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "file_not_found")
    assert answer.json()["error"]["param"] == "documents.0.content.file_id"


def test_short_texts_need_no_step(stack: Stack, http: httpx.Client) -> None:
    turn = asked(stack, http, stack.new_session(), "What is it?", {"content": PERU})
    assert [step["step_type"] for step in turn["steps"]] == ["inference"]
    assert turn["output_message"]["content"] == "It is Lima."


def test_documents_that_cannot_be_read_are_told_of_and_the_others_go_in(
    stack: Stack, http: httpx.Client, site: Site
) -> None:
    turn = asked(
        stack,
        http,
        stack.new_session(),
        "What is in them?",
        {"content": {"uri": data_url(b"%PDF-1.7 broken", "application/pdf")}, "document_id": "broken.pdf"},
        {"content": {"uri": site.url("/gone")}, "document_id": "gone"},
        {"content": {"uri": "http://169.254.169.254/latest/meta-data"}, "document_id": "secrets"},
        {"content": {"uri": data_url(b"PK\x03\x04zip", "application/zip")}, "document_id": "zip"},
        {"content": {"uri": data_url(PERU)}, "document_id": "good"},
    )
    step = look(turn)
    codes = {failure["document_id"]: failure["code"] for failure in step["failures"]}
    assert codes == {
        "broken.pdf": "malformed_document",
        "gone": "url_refused",
        "secrets": "url_not_allowed",
        "zip": "unsupported_type",
    }
    assert [one["document_id"] for one in step["citations"]] == ["good"]
    assert "[gone] cannot be read:" in step["inserted_context"]
    assert turn["output_message"]["content"] == "It is Lima."


def test_long_documents_are_searched_in_this_turn_and_in_later_ones(stack: Stack, http: httpx.Client) -> None:
    session = stack.new_session()
    first = asked(
        stack,
        http,
        session,
        "What is the capital of Peru?",
        {"content": book(PERU, CODE), "document_id": "book", "metadata": {"shelf": 3}},
    )
    step = look(first)
    assert (step["documents"], step["vector_db_ids"]) == (["book"], session_id(session))
    assert step["citations"][0]["document_id"] == "book" and step["citations"][0]["metadata"] == {"shelf": 3}
    assert first["output_message"]["content"] == "It is Lima."
    assert len(step["inserted_context"]) < 20_000, "not the whole book"

    later = asked(stack, http, session, "And the code of the vault, what is it?")
    assert later["output_message"]["content"] == "It is quokka."
    assert look(later)["documents"] == []

    other = asked(stack, http, stack.new_session(), "And the code of the vault, what is it?")
    assert [step["step_type"] for step in other["steps"]] == ["inference"], "another session knows nothing of it"


@pytest.mark.parametrize("toolgroup", ["builtin::rag", "builtin::rag/knowledge_search"])
def test_the_model_searches_the_sessions_documents_as_a_tool(stack: Stack, http: httpx.Client, toolgroup: str) -> None:
    session = stack.new_session(toolgroups=[toolgroup])
    empty = asked(stack, http, session, "Please look it up")
    assert empty["output_message"]["content"] == "Found nothing."

    sent = asked(stack, http, session, "Please look it up", {"content": book(CODE), "document_id": "book"})
    later = asked(stack, http, session, "Please look it up again")

    for turn in (sent, later):
        assert turn["output_message"]["content"] == "Found: quokka."
        (tools,) = [step for step in turn["steps"] if step["step_type"] == "tool_execution"]
        assert tools["tool_responses"][0]["metadata"]["document_ids"][0] == "book"


def test_a_document_that_is_sent_again_replaces_what_it_was(stack: Stack, http: httpx.Client) -> None:
    session = stack.new_session()
    for code in ("aardvark", "quokka"):
        text = book(f"The code of the vault is {code}.")
        turn = asked(stack, http, session, "the code of the vault", {"content": text, "document_id": "book"})
    assert "aardvark" not in look(turn)["inserted_context"]
    assert "aardvark" not in look(asked(stack, http, session, "the code of the vault"))["inserted_context"]


def test_of_a_long_document_in_which_nothing_is_found_the_model_reads_the_beginning(
    stack: Stack, http: httpx.Client
) -> None:
    long = {"content": "Foreword\n" + book(), "document_id": "b"}
    turn = asked(stack, http, stack.new_session(), "Zusammenfassen!", long)
    assert "Foreword" in look(turn)["inserted_context"]


def test_turns_that_were_rolled_back_leave_nothing_behind(stack: Stack, http: httpx.Client) -> None:
    session = stack.new_session()
    turn = submitted(http, session, "the code of the vault", {"content": book(CODE), "document_id": "book"})
    assert look(stack.finished(session, turn))["documents"] == ["book"]
    slow = {"messages": [{"role": "user", "content": "quiet"}], "documents": [{"content": book(PERU)}]}
    answered(http.post(f"{session}/turn", json=slow))
    body = {"messages": [{"role": "user", "content": "capital of Peru"}], "multitask_strategy": "rollback"}
    last = stack.finished(session, answered(http.post(f"{session}/turn", json=body)))
    assert {one["document_id"] for one in look(last)["citations"]} == {"book"}


def test_a_turn_whose_worker_dies_over_its_documents_is_taken_over(stack: Stack, http: httpx.Client) -> None:
    session = stack.new_session()
    books = [{"content": book(PERU, *[f"Fact {n}." for n in range(60)]), "document_id": f"b{n}"} for n in range(3)]
    turn = submitted(http, session, "the capital of Peru", *books)
    wait_for(lambda: jobs(http, session), "it waits for its documents")
    for worker in serving(stack, "turns"):
        worker.kill()
    ended = stack.finished(session, turn)
    assert (ended["status"], ended["attempts"]) == ("completed", 2)
    assert look(ended)["documents"] == ["b0", "b1", "b2"]
    assert ended["output_message"]["content"] == "It is Lima."
    citations = [(one["document_id"], one["position"]) for one in look(ended)["citations"]]
    assert len(citations) == len(set(citations)), "what was put there twice is found once"


def test_a_canceled_turn_cancels_the_job_that_it_waits_for(stack: Stack, http: httpx.Client) -> None:
    workers = serving(stack, "memory")
    for worker in workers:
        worker.send_signal(signal.SIGSTOP)
    try:
        session = stack.new_session()
        turn = submitted(http, session, "the code", {"content": book(CODE)})
        mine = f"memory:{session_id(session)}"
        wait_for(lambda: jobs(http, session), "the job is there")
        answered(http.post(f"{session}/turn/{turn['turn_id']}/cancel"))
        why = answered(http.get(f"/jobs/{jobs(http, session)[0]['job_id']}/why"))
        assert why["bank_there"] is True, "it is in no list, and there all the same"
        assert stack.finished(session, turn)["status"] == "canceled"
        wait_for(lambda: {job["status"] for job in jobs(http, session)} == {"canceled"}, f"{mine} is canceled")
        again = http.post(f"/jobs/{jobs(http, session)[0]['job_id']}/requeue")
        assert (again.status_code, again.json()["error"]["code"]) == (409, "job_of_a_turn")
    finally:
        for worker in workers:
            worker.send_signal(signal.SIGCONT)


def test_the_bank_goes_with_its_session(stack: Stack, http: httpx.Client) -> None:
    session, rare = stack.new_session(), "zyzzyva"
    asked(stack, http, session, rare, {"content": book(f"A {rare} is a beetle.")})
    assert kept(stack.data.parent, rare) > 0
    assert session_id(session) not in str(answered(http.get("/memory-banks")))
    asked_directly = http.post("/memory/query", json={"bank_id": session_id(session), "query": rare})
    assert asked_directly.status_code == 400, "nobody finds it but the session itself"
    http.delete(session)
    wait_for(lambda: kept(stack.data.parent, rare) == 0, "a sweep has deleted it", seconds=130)


def test_an_address_of_no_known_kind_is_refused(stack: Stack, http: httpx.Client) -> None:
    body = {"messages": [{"role": "user", "content": "x"}], "documents": [{"content": {"uri": "file:///etc/passwd"}}]}
    answer = http.post(f"{stack.new_session()}/turn", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "documents.0.content.uri"


def test_the_official_client_sends_documents(stack: Stack) -> None:
    with LlamaStackClient(base_url=stack.url, max_retries=0) as client:
        agent = Agent(client, model="scripted", instructions="Be brief.")
        turn = agent.create_turn(
            messages=[{"role": "user", "content": "What is the capital of Peru?"}],
            session_id=agent.create_session("documents"),
            documents=[
                {"content": {"uri": data_url(pdf_of(shown(PERU)), "application/pdf")}, "mime_type": "application/pdf"},
                {"content": book(CODE), "mime_type": "text/plain"},
            ],
            stream=False,
        )
    assert turn.output_message.content == "It is Lima."
    assert turn.steps[0].step_type == "memory_retrieval"


def serving(stack: Stack, queue: str) -> list[psutil.Process]:
    """The stack's worker processes of a queue."""
    below = psutil.Process(stack.process.process.pid).children(recursive=True)
    workers = [process for process in below if process.cmdline()[-2:] == ["-m", "worker"]]
    found = [process for process in workers if process.environ().get("TURNSTONE_QUEUE", "turns") == queue]
    assert found, [process.cmdline() for process in below]
    return found


def jobs(http: httpx.Client, session: str) -> list[Json]:
    listed = answered(http.get("/jobs"))["data"]
    return [job for job in listed if job["bank_id"] == session_id(session)]
