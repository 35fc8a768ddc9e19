"""Reading documents in children: side by side, within limits, and whatever happens to a child."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import util
from typing import Any

import gevent
import psutil
import pytest
from documentkit import Site, docx, http, paragraph, pdf_of, shown, word
from waiting import wait_for

from shared.errors import ConfigError
from worker.documents import reader as reader_module
from worker.documents.errors import UnreadableDocument
from worker.documents.limits import MB, ReadingLimits
from worker.documents.reader import DocumentReader

A_PDF = pdf_of(shown("hello"))
# Millions of elements that hold nothing: small, valid, and slow.
SLOW = docx(word(paragraph("x") + "<w:p/>" * 20_000_000))

# Documents are fetched and read by many greenlets while others go on; a killed one takes only its own child along.
UNDER_GEVENT = """
from gevent import monkey
monkey.patch_all()
import sys
import gevent
from worker.documents.addresses import Allowed
from worker.documents.fetching import fetch
from worker.documents.errors import UnreadableDocument
from worker.documents.limits import FetchLimits, ReadingLimits
from worker.documents.reader import DocumentReader

reader = DocumentReader(limits=ReadingLimits(children=2))
allowed = Allowed.of("127.0.0.0/8")
base = sys.argv[1]

ticks = 0
def tick():
    global ticks
    while True:
        ticks += 1
        gevent.sleep(0.001)
ticker = gevent.spawn(tick)

def get(path, **limits):
    fetched = fetch(base + path, allowed=allowed, limits=FetchLimits(**limits))
    return reader.read(fetched.body, mime_type=fetched.mime_type)

reads = [gevent.spawn(get, "/a.pdf") for _ in range(50)]
gevent.joinall(reads, timeout=25, raise_error=True)
assert [one.value for one in reads] == ["hello"] * 50
assert len(reader.pids) == 2, reader.pids
assert ticks > 50, ticks

# What keeps no time by itself is ended all the same: here, looking up a name.
def never(host, port):
    gevent.sleep(3600)
try:
    fetch("http://docs.example/", limits=FetchLimits(total_s=0.1), resolve=never)
except UnreadableDocument as error:
    assert error.code == "url_too_slow", error.code
else:
    raise AssertionError

hanging = gevent.spawn(get, "/hang", total_s=3600)
gevent.sleep(0)
hanging.kill(timeout=5)
assert hanging.ready()

slow = gevent.spawn(reader.read, fetch(base + "/slow.docx", allowed=allowed).body)
while len(reader._busy) < 1:
    gevent.sleep(0.01)
slow.kill(timeout=5)
assert slow.ready()
assert get("/a.pdf") == "hello"
print("fine", *reader.pids, flush=True)
sys.stdin.readline()
"""


@contextmanager
def reader(**limits: Any) -> Iterator[DocumentReader]:
    one = DocumentReader(limits=ReadingLimits(**limits))
    try:
        yield one
    finally:
        one.close()
        assert one.pids == []


def refused(one: DocumentReader, body: bytes, mime_type: str | None = None) -> UnreadableDocument:
    with pytest.raises(UnreadableDocument) as caught:
        one.read(body, mime_type=mime_type)
    assert "hello" not in caught.value.message
    return caught.value


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_documents_of_every_kind_are_read_by_the_same_child() -> None:
    with reader(children=1) as one:
        assert one.read(A_PDF) == "hello"
        pids = one.pids
        assert one.read(docx(word(paragraph("héllo")))) == "héllo"
        assert one.read(b"<p>hello", mime_type="text/html") == "hello"
        assert one.read(b"a,b\n1,2", name="rows.csv") == "a: 1; b: 2"
        assert one.read("été, à côté du café où il a mangé".encode("cp1252"), mime_type="text/plain").startswith("été")
        assert refused(one, b"%PDF-1.7 nothing").code == "malformed_document"
        assert one.read(A_PDF) == "hello"
        assert one.pids == pids


def test_text_needs_no_child() -> None:
    with reader() as one:
        assert one.read("# Héllo".encode(), mime_type="text/markdown") == "# Héllo"
        assert one.pids == []


def test_there_are_no_more_children_than_may_be() -> None:
    with reader(children=2) as one:
        reads = [gevent.spawn(one.read, A_PDF) for _ in range(20)]
        gevent.joinall(reads, raise_error=True)
        assert {read.value for read in reads} == {"hello"}
        assert len(one.pids) == 2


def test_a_large_document_goes_through_and_so_does_its_text() -> None:
    text = "words of many letters\n" * 400_000
    with reader() as one:
        assert one.read(text.encode(), mime_type="text/plain") == text.strip("\n")


def test_a_document_that_takes_too_long_fails_alone() -> None:
    with reader(children=2, timeout_s=1.0) as one:
        reads = [gevent.spawn(one.read, body) for body in (SLOW, A_PDF, A_PDF)]
        gevent.joinall(reads)
        assert isinstance(reads[0].exception, UnreadableDocument)
        assert reads[0].exception.code == "document_too_slow"
        assert [read.value for read in reads[1:]] == ["hello", "hello"]
        assert one.read(A_PDF) == "hello"


def test_a_child_that_dies_over_a_document_fails_it_alone() -> None:
    with reader(children=1) as one:
        read = gevent.spawn(one.read, SLOW)
        wait_until_it_reads(one)
        os.kill(one.pids[0], signal.SIGSEGV)
        read.join()
        assert isinstance(read.exception, UnreadableDocument)
        assert read.exception.code == "reader_died"
        assert one.read(A_PDF) == "hello"


def wait_until_it_reads(one: DocumentReader) -> None:
    def is_busy() -> bool:
        gevent.sleep(0.01)
        return bool(one.pids) and psutil.Process(one.pids[0]).cpu_times().user > 0.5

    wait_for(is_busy, "the child is at the document")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_child_that_died_while_idle_fails_no_document(number: signal.Signals) -> None:
    with reader(children=1) as one:
        assert one.read(A_PDF) == "hello"
        (pid,) = one.pids
        os.kill(pid, number)
        wait_for(lambda: is_gone(pid), "the child has died")
        assert one.read(A_PDF) == "hello"
        assert one.pids != [pid]


def test_a_child_that_leaves_at_sigint_and_sigterm_is_none() -> None:
    with reader(children=1) as one:
        one.read(A_PDF)
        (pid,) = one.pids
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
        assert one.read(A_PDF) == "hello"
        assert one.pids == [pid]


@pytest.mark.parametrize("command", ["false", "no-such-command"])
def test_a_child_that_cannot_start_is_no_fault_of_the_document(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", command)
    with reader(children=1) as one:
        error = refused(one, A_PDF)
        assert (error.code, error.retryable) == ("reader_unavailable", True)
        monkeypatch.undo()
        assert one.read(A_PDF) == "hello"


def test_a_document_that_needs_more_memory_than_it_may_have_fails_alone() -> None:
    page = b"<html><body>" + b"<p>x y z</p>" * 2_000_000
    with reader(children=1, max_memory_bytes=256 * MB) as one:
        assert refused(one, page).code == "document_too_large"
        assert one.read(A_PDF) == "hello"


def test_a_child_that_a_document_has_left_large_is_replaced() -> None:
    with reader(children=1, max_memory_bytes=512 * MB) as one:
        one.read(A_PDF)
        before = one.pids
        one.read(b"<html><body>" + b"<p>x y z</p>" * 800_000)
        one.read(A_PDF)
        assert one.pids != before


def test_a_greenlet_that_is_killed_ends_its_child_and_no_other_read() -> None:
    with reader(children=2) as one:
        slow = gevent.spawn(one.read, SLOW)
        wait_until_it_reads(one)
        (pid,) = one.pids
        slow.kill()
        assert is_gone(pid)
        assert one.read(A_PDF) == "hello"


def test_who_still_reads_when_it_is_closed_may_try_again_elsewhere() -> None:
    with reader(children=1) as one:
        read, waiting = gevent.spawn(one.read, SLOW), gevent.spawn(one.read, A_PDF)
        wait_until_it_reads(one)
        pids = one.pids
        one.close()
        gevent.joinall([read, waiting])
        for failed in (read, waiting):
            assert isinstance(failed.exception, UnreadableDocument)
            assert (failed.exception.code, failed.exception.retryable) == ("reader_unavailable", True)
        assert all(is_gone(pid) for pid in pids)


def test_a_child_finds_no_secrets_in_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROVIDER_API_KEY", "s3cret")
    with reader(children=1) as one:
        one.read(A_PDF)
        environment = psutil.Process(one.pids[0]).environ()
    assert "PATH" in environment
    assert "PROVIDER_API_KEY" not in environment


def test_a_missing_library_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        reader_module, "find_spec", lambda name: None if name in ("lxml", "pypdf") else util.find_spec(name)
    )
    with pytest.raises(ConfigError, match=r"needs lxml, pypdf\. .*pip install 'turnstone\[memory\]'"):
        DocumentReader()


def test_none_of_the_libraries_is_needed_to_import_what_uses_them() -> None:
    script = """
import sys
for name in ("chardet", "cryptography", "lxml", "pypdf"):
    sys.modules[name] = None
import worker.documents.fetching, worker.documents.reader, worker.documents.reading
from worker.documents.reading import read_text
assert read_text("é".encode(), mime_type="text/plain") == "é"
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_under_gevent_nobody_waits_for_a_document_and_children_end_with_their_worker() -> None:
    answers = {
        "/a.pdf": http(A_PDF, content_type="application/pdf"),
        "/slow.docx": http(SLOW),
        "/hang": lambda connection: connection.recv(1) and None,
    }
    with Site(answers) as site:
        command = [sys.executable, "-c", UNDER_GEVENT, site.url("")]
        process = subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, text=True)
        with process:
            assert process.stdout is not None and process.stderr is not None
            said = process.stdout.readline().split()
            if not said:
                pytest.fail(process.stderr.read())
            process.kill()
    pids = [int(pid) for pid in said[1:]]
    assert said[0] == "fine" and pids
    wait_for(lambda: all(is_gone(pid) for pid in pids), "the children have ended with their worker")


def test_a_child_at_work_ends_with_its_worker_as_well() -> None:
    script = """
import sys, gevent
sys.path.insert(0, "tests")
from documentkit import docx, word
from worker.documents.reader import DocumentReader
reader = DocumentReader()
gevent.spawn(reader.read, docx(word("<w:p/>" * 20_000_000)))
while not reader.pids:
    gevent.sleep(0.01)
print(*reader.pids, flush=True)
gevent.sleep(3600)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=-1, text=True) as process:
        assert process.stdout is not None
        (pid,) = map(int, process.stdout.readline().split())
        wait_for(lambda: psutil.Process(pid).cpu_times().user > 0.5, "the child is at the document")
        process.kill()
    wait_for(lambda: is_gone(pid), "the child has ended with its worker")
