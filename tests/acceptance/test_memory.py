"""Memory on a running stack: banks, insert jobs, queries, and the look that precedes a reply."""

import base64
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import psutil
import pytest
from postgreskit import PASSWORD, own_schema
from stack import DEADLINE_S, Stack, running, scripted
from test_documents import DEFAULT_URL, block
from waiting import wait_for

Json = dict[str, Any]

EMBEDDING = "scripted-embedding"


def config_of(folder: Path) -> Json:
    config = scripted()
    config["providers"]["inference"][0]["config"] |= {"models": ["scripted"], "embedding_models": [EMBEDDING]}
    config["providers"]["memory"] = [
        {"provider_id": name, "provider_type": "inline::sqlite", "config": {"path": str(folder / f"{name}.sqlite3")}}
        for name in ("one", "two")
    ]
    config["memory_banks"] = [{"memory_bank_id": "shared", "type": "keyword", "provider_id": "two"}]
    return config


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("memory")
    with running(folder, config_of(folder)) as stack:
        yield stack


@pytest.fixture
def http(stack: Stack) -> Iterator[httpx.Client]:
    with stack.http() as http:
        yield http


def bank(http: httpx.Client, name: str, kind: str, **more: Any) -> str:
    """A new bank of the first provider."""
    answer = http.post("/memory-banks", json={"memory_bank_id": name, "type": kind, "provider_id": "one", **more})
    assert answer.status_code == 200, answer.text
    assert answer.json()["memory_bank_type"] == kind
    return name


def document(name: str, content: Any, **more: Any) -> Json:
    return {"document_id": name, "content": content, **more}


def inserted(http: httpx.Client, bank_id: str, *documents: Json, **more: Any) -> Json:
    """The job once it has ended."""
    answer = http.post("/memory/insert", json={"bank_id": bank_id, "documents": documents, **more})
    assert answer.status_code == 202, answer.text
    assert answer.headers["Location"] == f"/v1/jobs/{answer.json()['job_id']}"
    return ended(http, answer.json()["job_id"])


def ended(http: httpx.Client, job_id: str) -> Json:
    job: Json = http.get(f"/jobs/{job_id}", params={"wait": DEADLINE_S}, timeout=2 * DEADLINE_S).json()
    assert job["completed_at"] is not None, job
    return job


def names(http: httpx.Client, bank_id: str, query: str, **params: Any) -> list[str]:
    """The documents that are found, best first."""
    answer = http.post("/memory/query", json={"bank_id": bank_id, "query": query, "params": params})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["scores"] == sorted(found["scores"], reverse=True)
    return [chunk["document_id"] for chunk in found["chunks"]]


def test_the_commands_of_the_memory_page_insert_and_find(stack: Stack) -> None:
    script = block("docs/memory.md", "bash", "handbook").replace(DEFAULT_URL, stack.url)
    script = script.replace('"type": "vector",', '"type": "vector", "provider_id": "one",')  # it has one provider only

    done = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr
    registered, job, found = map(json.loads, done.stdout.splitlines())
    assert registered["embedding_dimension"] == 256
    assert (job["status"], job["documents"], job["done"], job["failed"]) == ("completed", 2, 2, 0)
    assert [chunk["document_id"] for chunk in found["chunks"]] == ["leave"]


def test_the_commands_of_the_memory_page_read_documents_in_a_turn(stack: Stack) -> None:
    script = block("docs/memory.md", "bash", "list.csv").replace(DEFAULT_URL, stack.url)

    done = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr
    turn = json.loads(done.stdout)
    assert turn["steps"][0]["inserted_context"].startswith("Documents that came with the message:\n\n[list.csv]\n")
    assert "Ann" in turn["steps"][0]["inserted_context"]


def test_each_kind_of_bank_is_searched_in_its_own_way(http: httpx.Client) -> None:
    inserted(http, bank(http, "k-words", "keyword"), document("a", "green apples"), document("b", "red cars"))
    inserted(http, bank(http, "k-keys", "keyvalue"), document("user:1", "Ann"), document("user:2", "Ben"))
    relations = [["Ann", "works with", "Ben"], ["Ben", "reports to", "Cid"], ["Cid", "knows", "Dan"]]
    graph = [document(f"r{at}", " ".join(one), metadata={"relations": [one]}) for at, one in enumerate(relations)]
    inserted(http, bank(http, "k-graph", "graph"), *graph)
    inserted(http, bank(http, "k-vector", "vector"), document("v", "The cat sleeps"), document("w", "Rates rise"))

    assert names(http, "k-words", "an apple or apples") == ["a"]
    assert names(http, "k-keys", "user:2") == ["user:2"]
    assert names(http, "k-keys", "", keys=["user:1"]) == ["user:1"]
    assert names(http, "k-graph", "ann") == ["r0", "r1"]
    assert names(http, "k-graph", "", entities=["Ann"], depth=2) == ["r0", "r1", "r2"]
    assert names(http, "k-graph", "", entities=["Dan"]) == ["r2", "r1"]
    assert names(http, "k-vector", "sleeping cats", max_chunks=1) == ["v"]
    assert names(http, "k-vector", "rates", mode="keyword") == ["w"]
    assert names(http, "k-vector", "rates rising", mode="hybrid")[0] == "w"


def test_a_bank_of_the_run_config_is_there_and_stays(http: httpx.Client) -> None:
    assert http.get("/memory-banks/shared").json()["provider_id"] == "two"
    inserted(http, "shared", document("s", "shared words"))
    assert names(http, "shared", "words") == ["s"]
    refused = http.delete("/memory-banks/shared")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "not_registered")
    assert names(http, "shared", "words") == ["s"]


def test_a_document_with_a_known_id_replaces_the_earlier_one(http: httpx.Client) -> None:
    bank(http, "again", "keyword")
    inserted(http, "again", document("d", "first words"))
    inserted(http, "again", document("d", "second thoughts"))
    assert names(http, "again", "words") == []
    assert names(http, "again", "thoughts") == ["d"]


def test_a_document_that_cannot_be_read_fails_alone(http: httpx.Client) -> None:
    bank(http, "mixed", "keyword")
    garbage = base64.b64encode(b"%PDF-1.7 garbage").decode()

    job = inserted(
        http,
        "mixed",
        document("good", "readable words"),
        document("pdf", {"uri": f"data:application/pdf;base64,{garbage}"}),
        document("inside", "http://169.254.169.254/latest/meta-data"),
        document("picture", {"type": "image", "image": {"url": {"uri": "https://example.com/a.png"}}}),
        document("page", "<html><body><h1>Heading</h1><script>hidden()</script></body></html>", mime_type="text/html"),
    )

    assert (job["status"], job["documents"], job["done"], job["failed"]) == ("completed", 5, 5, 3)
    codes = {failure["document_id"]: failure["code"] for failure in job["failures"]}
    assert codes == {"pdf": "malformed_document", "inside": "url_not_allowed", "picture": "unsupported_type"}
    assert names(http, "mixed", "readable") == ["good"]
    assert names(http, "mixed", "heading") == ["page"]
    assert names(http, "mixed", "hidden") == []


def test_a_job_can_be_tailed_and_is_listed(http: httpx.Client) -> None:
    bank(http, "tailed", "keyword")
    job = inserted(http, "tailed", *(document(f"d{number}", f"words {number}") for number in range(120)))

    page = http.get(f"/jobs/{job['job_id']}/events", headers={"Accept": "application/json"}).json()
    kinds = [item["event"]["payload"]["event_type"] for item in page["data"]]
    steps = [one["event"]["payload"]["delta"] for one in page["data"] if "delta" in one["event"]["payload"]]

    assert kinds[:2] == ["turn_created", "turn_start"] and kinds[-1] == "turn_complete"
    assert [delta["done"] for delta in steps] == [50, 100, 120]
    assert "words 7" not in json.dumps(page), "who follows a job does not get its documents"
    listed = http.get("/jobs").json()["data"]
    assert job["job_id"] in [one["job_id"] for one in listed]
    assert job["job_id"] not in [turn["turn_id"] for turn in http.get("/turns").json()["data"]]


def test_the_same_key_finds_the_same_job(http: httpx.Client) -> None:
    bank(http, "keyed", "keyword")
    body = {"bank_id": "keyed", "documents": [document("d", "words")]}
    first = http.post("/memory/insert", json=body, headers={"Idempotency-Key": "job-1"})
    second = http.post("/memory/insert", json=body, headers={"Idempotency-Key": "job-1"})
    other = http.post("/memory/insert", json={**body, "ttl_seconds": 60}, headers={"Idempotency-Key": "job-1"})

    assert first.json()["job_id"] == second.json()["job_id"]
    assert second.headers["Idempotent-Replayed"] == "true"
    assert other.status_code == 422


def test_a_job_that_is_canceled_stops(http: httpx.Client) -> None:
    bank(http, "stopped", "vector")
    documents = [document(f"d{number}", "some words " * 50) for number in range(2000)]
    job = http.post("/memory/insert", json={"bank_id": "stopped", "documents": documents}).json()

    answer = http.post(f"/jobs/{job['job_id']}/cancel")

    assert answer.status_code in (200, 202)
    assert ended(http, job["job_id"])["status"] == "canceled"


def test_deleting_a_bank_deletes_what_is_in_it(http: httpx.Client) -> None:
    bank(http, "gone", "keyword")
    inserted(http, "gone", document("d", "words"))
    assert http.delete("/memory-banks/gone").status_code == 204
    assert http.get("/memory-banks/gone").status_code == 404
    bank(http, "gone", "keyword")
    assert names(http, "gone", "words") == []


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("memory/insert", {"bank_id": "nowhere", "documents": [document("d", "x")]}, "bank_id"),
        ("memory/query", {"bank_id": "nowhere", "query": "x"}, "bank_id"),
        ("vector-io/query", {"vector_db_id": "nowhere", "query": "x"}, "vector_db_id"),
        ("tool-runtime/rag-tool/query", {"vector_db_ids": ["nowhere"], "content": "x"}, "vector_db_ids"),
        ("memory/insert", {"bank_id": "shared", "documents": []}, "documents"),
        ("memory/insert", {"bank_id": "shared", "documents": [{"content": "x"}]}, "documents.0.document_id"),
        ("memory/query", {"bank_id": "shared", "query": "x", "params": {"mode": "magic"}}, "params.mode"),
        ("memory-banks", {"memory_bank_id": "b", "type": "cube"}, "type"),
        ("memory-banks", {"memory_bank_id": "b", "type": "vector", "provider_id": "three"}, "provider_id"),
        (
            "memory-banks",
            {"memory_bank_id": "b", "type": "vector", "provider_id": "one", "embedding_model": "none"},
            "embedding_model",
        ),
        ("agents", {"agent_config": {"model": "scripted", "memory": {"memory_bank_configs": [{"bank_id": "no"}]}}},
         "agent_config.memory.memory_bank_configs.0.bank_id"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_by_the_name_of_its_field(http: httpx.Client, path: str, body: Json, param: str) -> None:
    answer = http.post(f"/{path}", json=body)
    assert answer.status_code in (400, 422), answer.text
    assert answer.json()["error"]["param"] == param


def refused(answer: httpx.Response) -> tuple[int, str, str | None]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


def test_a_dimension_that_the_model_does_not_have_is_refused(http: httpx.Client) -> None:
    wrong = {"memory_bank_id": "wrong", "type": "vector", "provider_id": "one", "embedding_dimension": 7}
    answer = http.post("/memory-banks", json=wrong)
    assert refused(answer) == (400, "embedding_dimension_mismatch", "embedding_dimension")
    assert "256" in answer.json()["detail"]


def test_a_bank_under_two_names_is_kept_until_the_last_of_them_is_deleted(http: httpx.Client) -> None:
    bank(http, "named", "keyword")
    bank(http, "alias", "keyword", provider_memory_bank_id="named")
    other = {"memory_bank_id": "other", "type": "keyvalue", "provider_id": "one", "provider_memory_bank_id": "named"}
    assert refused(http.post("/memory-banks", json=other))[:2] == (409, "memory_bank_taken")
    inserted(http, "alias", document("d", "words"))

    assert http.delete("/memory-banks/alias").status_code == 204

    assert names(http, "named", "words") == ["d"]


def test_names_with_slashes_and_signs_are_found_by_their_path(http: httpx.Client) -> None:
    name = "team/\u00fcn\u00ef \U0001f600?#%"
    bank(http, name, "keyword")
    inserted(http, name, document("\u00fc/\U0001f600 \n", "words", metadata={'say "x"': None}))

    assert http.get(f"/memory-banks/{quote(name, safe='')}").json()["identifier"] == name
    assert names(http, name, "words", filters={'say "x"': None}) == ["\u00fc/\U0001f600 \n"]
    assert http.delete(f"/memory-banks/{quote(name)}").status_code == 204


def test_an_insert_that_is_waited_for_and_of_which_nothing_comes_is_no_success(http: httpx.Client) -> None:
    bank(http, "waited", "vector")
    inside, good = document("inside", "http://127.0.0.1/x"), document("good", "words")

    nothing = http.post("/tool-runtime/rag-tool/insert", json={"vector_db_id": "waited", "documents": [inside]})
    some = http.post("/tool-runtime/rag-tool/insert", json={"vector_db_id": "waited", "documents": [inside, good]})

    assert refused(nothing) == (400, "url_not_allowed", "documents")
    assert (some.status_code, some.json()["failed"]) == (200, 1)


@pytest.mark.parametrize("most", ["many", 0, -1, 1_000_000, 1.5])
def test_a_tool_that_is_asked_for_no_number_of_chunks_refuses(http: httpx.Client, most: Any) -> None:
    kwargs = {"query": "x", "vector_db_ids": ["shared"], "max_chunks": most}
    answer = http.post("/tool-runtime/invoke", json={"tool_name": "knowledge_search", "kwargs": kwargs})
    assert refused(answer)[:2] == (400, "invalid_arguments")


def test_a_bank_that_is_deleted_while_a_job_runs_fails_the_job_with_what_to_do(http: httpx.Client) -> None:
    bank(http, "pulled", "vector")
    documents = [document(f"d{number}", "some words " * 50) for number in range(1500)]
    job = http.post("/memory/insert", json={"bank_id": "pulled", "documents": documents}).json()["job_id"]
    wait_for(lambda: http.get(f"/jobs/{job}").json()["done"] > 0, "it has begun", seconds=DEADLINE_S)

    assert http.delete("/memory-banks/pulled").status_code == 204

    error = ended(http, job)["error"]
    assert error["code"] == "memory_bank_not_found" and "Register it again" in error["message"]
    assert refused(http.post(f"/jobs/{job}/requeue"))[:2] == (400, "memory_bank_not_found")
    bank(http, "pulled", "vector")
    again = http.post(f"/jobs/{job}/requeue").json()
    assert (ended(http, again["job_id"])["chunks"], again["retry_of"]) == (1500, job)


def test_an_agent_looks_into_its_banks_before_it_answers_and_later_turns_do_not_read_it_again(stack: Stack) -> None:
    with stack.http() as http:
        bank(http, "facts", "vector")
        inserted(http, "facts", document("capital", "The capital of Peru is Lima."), document("sea", "Salt is white."))
        memory = {"memory_bank_configs": [{"bank_id": "facts"}], "max_chunks": 1}
        session = stack.new_session(memory=memory)

        first = stack.finished(session, stack.submit(session, "What is the capital of Peru?"))
        second = stack.finished(session, stack.submit(session, "Thank you"))

    step = first["steps"][0]
    assert step["step_type"] == "memory_retrieval"
    assert step["vector_db_ids"] == "facts"
    assert "Lima" in step["inserted_context"] and "[capital]" in step["inserted_context"]
    assert [one["document_id"] for one in step["citations"]] == ["capital"]
    assert [one["step_type"] for one in second["steps"]] == ["memory_retrieval", "inference"]


def test_a_worker_killed_in_mid_insert_loses_and_doubles_nothing(stack: Stack, http: httpx.Client) -> None:
    bank(http, "survives", "vector")
    documents = [document(f"d{number}", f"unique{number} and other words") for number in range(1500)]
    job = http.post("/memory/insert", json={"bank_id": "survives", "documents": documents}).json()
    path = f"/jobs/{job['job_id']}"

    for share in (200, 700):
        wait_for(lambda least=share: http.get(path).json()["done"] >= least, f"{share} are stored", seconds=DEADLINE_S)
        memory_worker(stack).kill()

    done = http.get(path, params={"wait": 120}, timeout=150).json()
    assert (done["status"], done["done"], done["chunks"], done["failed"]) == ("completed", 1500, 1500, 0), done
    for number in (0, 199, 200, 699, 700, 1499):
        assert names(http, "survives", f"unique{number}", mode="keyword") == [f"d{number}"]
    found = names(http, "survives", "words", mode="keyword", max_chunks=1000)
    assert len(found) == len(set(found)) == 1000


def memory_worker(stack: Stack) -> psutil.Process:
    """The process that runs insert jobs now."""
    found: list[psutil.Process] = []

    def there() -> bool:
        for process in psutil.Process(stack.process.process.pid).children(recursive=True):
            try:
                command, environ = process.cmdline(), process.environ()
            except psutil.Error:
                continue
            if command[-2:] == ["-m", "worker"] and environ.get("TURNSTONE_QUEUE") == "memory":
                found.append(process)
        return bool(found)

    wait_for(there, "there is a memory worker", seconds=DEADLINE_S)
    return found[0]


def test_banks_in_postgresql_are_served_by_every_worker(tmp_path: Path, postgres_url: str) -> None:
    config = config_of(tmp_path)
    with own_schema(postgres_url) as schema:
        config["providers"]["memory"][0] |= {
            "provider_type": "remote::pgvector",
            "config": {"url": postgres_url, "schema": schema},
        }
        with running(tmp_path, config) as stack, stack.http() as http:
            inserted(
                http, bank(http, "p-vector", "vector"), document("v", "The cat sleeps"), document("w", "Rates rise")
            )
            inserted(http, "p-vector", document("w", "Rates fall"))

            assert names(http, "p-vector", "sleeping cats", max_chunks=1) == ["v"]
            assert names(http, "p-vector", "rise", mode="keyword") == []
            assert names(http, "p-vector", "rates falling", mode="hybrid")[0] == "w"
            answer = http.get("/providers")
            told = {one["provider_id"]: one for one in answer.json()["data"]}["one"]
            assert told["provider_type"] == "remote::pgvector" and told["health"]["status"] == "OK"
            assert PASSWORD not in answer.text
