"""The examples, as their README says to start them, against a real stack."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import yaml
from stack import DEADLINE_S, Json, Stack, answered, running, seqs, sse_frames
from stack_process import free_port
from test_documents import DEFAULT_URL, block
from waiting import wait_for

EXAMPLES = Path(__file__).parents[2] / "examples"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack with what both run configs of the examples name."""
    own = yaml.safe_load((EXAMPLES / "own_provider/turnstone.yaml").read_text())
    config = yaml.safe_load((EXAMPLES / "turnstone.yaml").read_text())
    config["providers"]["inference"] += own["providers"]["inference"]
    folder = tmp_path_factory.mktemp("examples")
    own["providers"]["memory"][0]["config"]["path"] = str(folder / "notes")
    config["providers"]["memory"] = own["providers"]["memory"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(EXAMPLES / "own_provider"))
        with running(folder, config) as stack:
            yield stack


@contextmanager
def serving(stack: Stack, *command: str, port: int, **environ: str) -> Iterator[str]:
    """An example that serves on `port`; its URL."""
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [sys.executable, "-m", *command, "--port", str(port)],
        env={**os.environ, "TURNSTONE_URL": stack.url, **environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def answers() -> bool:
        assert process.poll() is None, f"{command} ended"
        try:
            return httpx.get(f"{url}/none").status_code == 404
        except httpx.TransportError:
            return False

    try:
        wait_for(answers, f"{command} answers", seconds=DEADLINE_S)
        yield url
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module", params=["flask", "fastapi"])
def backend(request: pytest.FixtureRequest, stack: Stack) -> Iterator[httpx.Client]:
    """A client of each of the two back ends."""
    commands = {
        "flask": ("flask", "--app", str(EXAMPLES / "flask_backend/app.py"), "run"),
        "fastapi": ("uvicorn", "--app-dir", str(EXAMPLES / "fastapi_backend"), "app:app"),
    }
    with serving(stack, *commands[request.param], port=free_port()) as url:
        with httpx.Client(base_url=url, timeout=DEADLINE_S) as client:
            yield client


def said(backend: httpx.Client, text: str, *, message_id: str = "m1") -> str:
    """The path of the turn that answers `text` in a new chat."""
    chat = answered(backend.post("/chats"))["chat"]
    reply = backend.post(f"/chats/{chat}/messages", json={"text": text}, headers={"X-Message-Id": message_id})
    assert reply.status_code == 202, reply.text
    return f"/chats/{chat}/turns/{reply.json()['turn']}"


def at_rest(backend: httpx.Client, turn: str) -> Json:
    found: Json = {}

    def ended() -> bool:
        found.update(answered(backend.get(turn)))
        return found["status"] in ("completed", "failed", "canceled")

    wait_for(ended, "the turn ends", seconds=DEADLINE_S)
    return found


def test_a_back_end_submits_at_once_and_polls_the_answer(backend: httpx.Client) -> None:
    assert at_rest(backend, said(backend, "Hello")) == {"status": "completed", "text": "Hello", "error": None}


def test_a_back_end_sends_a_message_twice_and_has_one_turn(backend: httpx.Client) -> None:
    chat = answered(backend.post("/chats"))["chat"]
    turns = {
        backend.post(f"/chats/{chat}/messages", json={"text": "Hello"}, headers={"X-Message-Id": "same"}).json()["turn"]
        for _ in range(2)
    }

    assert len(turns) == 1


def test_a_back_end_relays_a_tail_that_is_picked_up_where_it_was_dropped(backend: httpx.Client) -> None:
    turn = said(backend, "Tell me a story")
    first = []
    with backend.stream("GET", f"{turn}/events") as stream:
        for frame in sse_frames(stream.iter_lines()):
            first.append(frame)
            if len(first) == 5:
                break
    with backend.stream("GET", f"{turn}/events", headers={"Last-Event-ID": first[-1].id}) as stream:
        rest = list(sse_frames(stream.iter_lines()))
    after_the_end = backend.get(f"{turn}/events", headers={"Last-Event-ID": rest[-1].id})

    assert seqs([*first, *rest]) == list(range(1, len(first) + len(rest) + 1))
    assert rest[-1].type == "turn_complete"
    assert after_the_end.status_code == 204


def test_a_back_end_says_why_a_turn_failed_and_cancels_another(backend: httpx.Client) -> None:
    failed = at_rest(backend, said(backend, "be broken"))
    long = said(backend, "Tell me a story")
    assert backend.post(f"{long}/cancel").status_code == 202

    assert failed["status"] == "failed" and "the model fell over" in failed["error"]
    assert at_rest(backend, long)["status"] == "canceled"


def test_the_tool_agent_runs_its_tools_and_prints_the_answer(stack: Stack) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "tool_agent/agent.py"), "How will the weather be in Paris?"],
        env={**os.environ, "TURNSTONE_URL": stack.url, "PYTHONUNBUFFERED": "1"},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )

    assert done.returncode == 0, done.stderr
    assert "Tool:weather" in done.stdout
    assert "Take no umbrella" in done.stdout


def test_a_provider_of_ones_own_is_listed_and_answers(stack: Stack) -> None:
    session = stack.new_session(model="faq")
    turn = stack.finished(session, stack.submit(session, "How do I return a shoe?"))
    with stack.http() as http:
        providers = {p["provider_id"]: p for p in answered(http.get("/providers"))["data"]}

    assert turn["output_message"]["content"] == "You can return everything within 30 days."
    assert providers["shop"]["provider_type"] == "my_company.faq:FaqInference"
    assert providers["shop"]["health"]["status"] == "OK"


def test_the_readmes_commands_put_a_note_and_find_it(stack: Stack) -> None:
    script = block("examples/README.md", "bash", "memory/insert").replace(DEFAULT_URL, stack.url)

    done = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, timeout=DEADLINE_S)

    assert done.returncode == 0, done.stderr
    bank, job, found = map(json.loads, done.stdout.splitlines())
    assert (bank["provider_id"], job["status"]) == ("notes", "completed")
    assert [chunk["document_id"] for chunk in found["chunks"]] == ["return"]


def test_a_memory_provider_of_ones_own_keeps_documents_and_filters_them(stack: Stack) -> None:
    documents = [
        {
            "document_id": "return",
            "content": "You can return everything within 30 days.",
            "metadata": {"topic": "shop"},
        },
        {"document_id": "leave", "content": "Everybody has thirty days of paid leave.", "metadata": {"topic": "hr"}},
    ]
    with stack.http() as http:
        bank = answered(http.post("/memory-banks", json={"memory_bank_id": "shelf", "type": "keyword"}))
        accepted = http.post("/memory/insert", json={"bank_id": "shelf", "documents": documents})
        job = answered(http.get(f"/jobs/{accepted.json()['job_id']}", params={"wait": DEADLINE_S}))
        query = {"bank_id": "shelf", "query": "days", "params": {"filters": {"topic": "shop"}}}
        found = answered(http.post("/memory/query", json=query))
        providers = {p["provider_id"]: p for p in answered(http.get("/providers"))["data"]}

    assert bank["provider_id"] == "notes"
    assert (job["status"], job["done"], job["failed"]) == ("completed", 2, 0)
    assert [chunk["document_id"] for chunk in found["chunks"]] == ["return"]
    assert providers["notes"]["provider_type"] == "my_company.notes:NotesMemory"
    assert providers["notes"]["health"]["status"] == "OK"


@pytest.fixture(scope="module")
def page(stack: Stack) -> Iterator[str]:
    """The browser's example, whose streams are cut once a second."""
    app = str(EXAMPLES / "browser/app.py")
    with serving(stack, "flask", "--app", app, "run", port=free_port(), CUT_AFTER_S="0.6") as url:
        yield url


def test_the_pages_proxy_cuts_streams_and_goes_on_after_the_last_id(page: str) -> None:
    with httpx.Client(base_url=page, timeout=DEADLINE_S) as browser:
        turn = answered(browser.post("/ask", json={"text": "Tell me a story"}))["turn"]
        frames, connections = [], 0
        while not frames or frames[-1].type != "turn_complete":
            after = {"Last-Event-ID": frames[-1].id} if frames else {}
            with browser.stream("GET", f"/events/{turn}", headers=after) as stream:
                lines = (line for line in stream.iter_lines() if not line.startswith("retry:"))
                frames += list(sse_frames(lines))
            connections += 1

        assert connections > 1
        assert seqs(frames) == list(range(1, len(frames) + 1))
        assert browser.get(f"/events/{turn}", headers={"Last-Event-ID": frames[-1].id}).status_code == 204
        assert browser.get("/events/of-somebody-else").status_code == 404


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here to open the page with")
def test_the_page_shows_the_whole_answer_in_a_browser_whose_streams_are_cut(page: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={tmp_path}", "--virtual-time-budget=30000", "--dump-dom",
            f"{page}/?ask=Tell+me+a+story",
        ],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )  # fmt: skip
    answer = re.search(r'<div id="answer"[^>]*>(.*?)</div>', done.stdout, re.DOTALL)

    assert "<title>completed</title>" in done.stdout, done.stdout[-3000:]
    assert answer is not None
    assert answer[1].startswith("A turnstone walked along the shore") and answer[1].endswith("waiting for.")
    assert "connected, after event" in done.stdout, "the browser came back and said where it was"
