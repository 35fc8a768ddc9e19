"""The embedded memory provider: one file, several processes, and what may be wrong with it."""

import importlib.util
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import apsw
import gevent
import pytest
from waiting import wait_for

from shared.errors import ConfigError, ProviderError
from worker.providers.memory import Bank, BankKind, Chunk, Document, Search
from worker.providers.memory_sqlite import SqliteMemory, SqliteMemoryConfig
from worker.providers.memory_sqlite_file import SqliteFile

BANK = Bank(
    identifier="b", resource_id="b", kind=BankKind.VECTOR, embedding_model="e", embedding_dimension=4
)  # fmt: skip
WRITER = textwrap.dedent("""
    import sys
    from worker.providers.memory import *
    from worker.providers.memory_sqlite import SqliteMemory, SqliteMemoryConfig

    path, name, batches = sys.argv[1], sys.argv[2], int(sys.argv[3])
    provider = SqliteMemory(provider_id="it", config=SqliteMemoryConfig(path=path))
    bank = Bank(identifier="b", resource_id="b", kind=BankKind.VECTOR, embedding_model="e", embedding_dimension=4)
    provider.register_memory_bank(bank)
    writer = provider.begin(bank)
    for batch in range(batches):
        chunks = [Chunk(content=f"{name} words", token_count=2, embedding=[1, 0, 0, batch])] * 3
        documents = [Document(document_id=f"{name}-{batch}-{n}", chunks=chunks) for n in range(20)]
        provider.put(bank, documents, writer=writer)
        print(batch, flush=True)
""")


def provider_on(path: Path, **config: Any) -> SqliteMemory:
    return SqliteMemory(provider_id="it", config=SqliteMemoryConfig(path=str(path), **config))


def writer(path: Path, name: str, batches: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", WRITER, str(path), name, str(batches)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": os.getcwd()})


def put(provider: SqliteMemory, documents: list[Document]) -> None:
    provider.put(BANK, documents, writer=provider.begin(BANK))


def document(name: str, text: str = "words") -> Document:
    return Document(document_id=name, chunks=[Chunk(content=text, token_count=1, embedding=[1, 0, 0, 0])])


def test_two_processes_insert_into_one_bank_while_a_third_asks_it(tmp_path: Path) -> None:
    path = tmp_path / "memory.sqlite3"
    provider = provider_on(path)
    provider.register_memory_bank(BANK)

    writers = [writer(path, name, 15) for name in ("one", "two")]
    asked = 0
    while any(process.poll() is None for process in writers):
        found = provider.search(BANK, Search(text="words", limit=4000))
        assert len(found) % 60 == 0, "batches are there whole or not at all"
        asked += 1

    assert [process.wait() for process in writers] == [0, 0] and asked
    found = provider.search(BANK, Search(text="words", limit=4000))
    assert len(found) == len({(one.document_id, one.position) for one in found}) == 2 * 15 * 60
    near = provider.search(BANK, Search(embedding=[1, 0, 0, 14], mode="vector", limit=120))
    assert {one.document_id.split("-")[1] for one in near} == {"14"}
    provider.close()
    for process in writers:
        assert process.stdout is not None
        process.stdout.close()


def test_a_process_killed_in_mid_insert_leaves_whole_batches_only(tmp_path: Path) -> None:
    path = tmp_path / "memory.sqlite3"
    told = 0
    for turn in range(6):
        with writer(path, f"w{turn}", 1000) as process:
            assert process.stdout is not None
            for _ in range(turn + 2):
                process.stdout.readline()
                told += 1
            process.send_signal(signal.SIGKILL)

    provider = provider_on(path)
    words = provider.search(BANK, Search(text="words", limit=4000))
    near = provider.search(BANK, Search(embedding=[1, 0, 0, 0], mode="vector", limit=4000))
    provider.close()

    counts = {(one.document_id, one.position) for one in words}
    assert len(words) == len(counts) == len(near)
    assert len(words) % 60 == 0 and len(words) >= 60 * told, "what was told to be stored is there"


def test_the_hub_goes_on_while_a_search_takes_long(tmp_path: Path) -> None:
    provider = provider_on(tmp_path / "memory.sqlite3")
    provider.register_memory_bank(BANK)
    put(provider, [document(f"d{number}", "some words " * 200) for number in range(300)])
    ticks = 0

    def tick() -> None:
        nonlocal ticks
        while True:
            gevent.sleep(0)
            ticks += 1

    ticking = gevent.spawn(tick)
    for _ in range(5):
        provider.search(BANK, Search(text="some words", limit=1000))
    ticking.kill()
    provider.close()
    assert ticks > 5


def test_who_is_killed_while_it_waits_leaves_the_provider_usable(tmp_path: Path) -> None:
    provider = provider_on(tmp_path / "memory.sqlite3")
    provider.register_memory_bank(BANK)
    many = [document(f"d{number}", "some words " * 50) for number in range(500)]
    putting = gevent.spawn(put, provider, many)
    gevent.sleep(0)
    putting.kill()

    put(provider, [document("after", "later")])
    wait_for(
        lambda: len(provider.search(BANK, Search(text="some", limit=1000))) in (0, 500), "the transaction has ended"
    )
    assert len(provider.search(BANK, Search(text="later"))) == 1
    provider.close()


def test_what_another_process_writes_is_waited_for_only_so_long(tmp_path: Path) -> None:
    provider = provider_on(tmp_path / "memory.sqlite3", busy_timeout_s=0.05)
    provider.register_memory_bank(BANK)
    other = apsw.Connection(str(tmp_path / "memory.sqlite3"))
    other.execute("BEGIN IMMEDIATE")

    with pytest.raises(ProviderError) as caught:
        put(provider, [document("d")])
    other.execute("ROLLBACK")
    put(provider, [document("d")])
    provider.close()
    other.close()

    assert (caught.value.code, caught.value.retryable) == ("memory_busy", True)


def test_a_file_of_a_newer_release_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "memory.sqlite3"
    with apsw.Connection(str(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    provider = provider_on(path)
    with pytest.raises(ProviderError) as caught:
        provider.list_memory_banks()
    assert caught.value.code == "memory_newer"
    assert "Upgrade" in caught.value.message


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "memory.sqlite3"
    path.write_bytes(b"This is a text, and by no means a database. " * 100)
    provider = provider_on(path)
    with pytest.raises(ProviderError) as caught:
        provider.list_memory_banks()
    assert caught.value.code == "memory_corrupt"
    assert path.read_bytes().startswith(b"This is a text")


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    provider = provider_on(tmp_path / "file" / "memory.sqlite3")
    with pytest.raises(ProviderError) as caught:
        provider.list_memory_banks()
    assert caught.value.code == "memory_unavailable"


def test_a_missing_library_is_named_with_its_install_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "worker.providers.memory_sqlite_file.find_spec", lambda name: None if name == "apsw" else real(name)
    )
    with pytest.raises(ConfigError, match=r"needs apsw\..*pip install 'turnstone\[memory\]'"):
        provider_on(tmp_path / "memory.sqlite3")


def test_a_new_file_has_pages_that_hold_whole_vectors(tmp_path: Path) -> None:
    path = tmp_path / "memory.sqlite3"
    provider = provider_on(path)
    provider.register_memory_bank(BANK)
    provider.close()

    assert apsw.Connection(str(path)).pragma("page_size") == 16_384


def test_common_words_of_a_question_decide_nothing_where_others_find_enough(tmp_path: Path) -> None:
    provider = provider_on(tmp_path / "memory.sqlite3")
    provider.register_memory_bank(BANK)
    put(
        provider, [document(f"d{number}", f"the plan of {'gardens' if number < 3 else 'roads'}") for number in range(9)]
    )

    telling = provider.search(BANK, Search(text="the gardens", limit=3))
    alone = provider.search(BANK, Search(text="gardens", limit=3))
    filled_up = provider.search(BANK, Search(text="the gardens", limit=5))
    common = provider.search(BANK, Search(text="The plan of", limit=9))
    provider.close()

    assert telling == alone and {one.document_id for one in telling} == {"d0", "d1", "d2"}
    assert {one.document_id for one in filled_up[:3]} == {"d0", "d1", "d2"} and len(filled_up) == 5
    assert len(common) == 9, "a question of common words alone is answered too"


def test_no_more_searches_run_at_once_than_there_are_cores(tmp_path: Path) -> None:
    file = SqliteFile(path=str(tmp_path / "memory.sqlite3"), busy_timeout_s=30, provider_id="it")
    cores, lock, running, most = os.cpu_count() or 1, threading.Lock(), 0, 0

    def look(connection: apsw.Connection) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        connection.execute("WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n LIMIT 300000)"
                           " SELECT sum(i) FROM n").fetchall()  # fmt: skip
        with lock:
            running -= 1

    gevent.joinall([gevent.spawn(file.read, look) for _ in range(4 * cores)], raise_error=True)
    file.close()

    assert 1 <= most <= cores
