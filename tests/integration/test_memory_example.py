"""The example's memory provider: several processes on one folder, kills, and what may be wrong with the folder."""

import fcntl
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import gevent
import pytest

from shared.errors import ProviderError
from shared.runconfig import ProviderInstance, Providers, RunConfig
from worker.providers.instances import build_memory
from worker.providers.memory import Bank, BankKind, Chunk, Document, MemoryProvider, Search

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "own_provider"
BANK = Bank(identifier="b", resource_id="b", kind=BankKind.KEYWORD)
A_BATCH = 20
WRITER = textwrap.dedent("""
    import sys
    from my_company.notes import NotesConfig, NotesMemory
    from worker.providers.memory import *

    path, name, batches = sys.argv[1], sys.argv[2], int(sys.argv[3])
    provider = NotesMemory(provider_id="it", config=NotesConfig(path=path))
    bank = provider.register_memory_bank(Bank(identifier="b", resource_id="b", kind=BankKind.KEYWORD))
    print("ready", flush=True)
    sys.stdin.readline()
    for batch in range(batches):
        writer = provider.begin(bank)
        chunks = [Chunk(content=f"{name} words", token_count=2)]
        documents = [Document(document_id=f"{name}-{batch}-{n}", chunks=chunks) for n in range(20)]
        provider.put(bank, documents, writer=writer)
        print(writer, flush=True)
""")

Make = Callable[..., MemoryProvider]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes the provider on the test's folder."""
    monkeypatch.syspath_prepend(EXAMPLE)

    def make(**more: float) -> MemoryProvider:
        config = {"path": str(tmp_path / "notes"), **more}
        instance = ProviderInstance(provider_id="it", provider_type="my_company.notes:NotesMemory", config=config)
        return build_memory(RunConfig(providers=Providers(memory=(instance,))))["it"]

    return make


def writing(folder: Path, name: str, batches: int) -> "subprocess.Popen[str]":
    """A process that, once it is told to, puts batches, each as a writer of its own, whose number it prints once that
    is stored."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder / "notes"), name, str(batches)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{EXAMPLE}"},
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def begin(*writers: "subprocess.Popen[str]") -> None:
    """Tell them all, one right after the other: they write at the same time."""
    for process in writers:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()


def put(provider: MemoryProvider, name: str) -> None:
    document = Document(document_id=name, chunks=[Chunk(content="words", token_count=1)])
    provider.put(BANK, [document], writer=provider.begin(BANK))


def stored(provider: MemoryProvider) -> int:
    return len(provider.search(BANK, Search(text="words", limit=100_000)))


def test_two_processes_put_into_one_bank_while_a_third_searches_it(make: Make, tmp_path: Path) -> None:
    provider = make()
    provider.register_memory_bank(BANK)

    with writing(tmp_path, "one", 15) as one, writing(tmp_path, "two", 15) as two:
        begin(one, two)
        while one.poll() is None or two.poll() is None:
            assert stored(provider) % A_BATCH == 0, "batches are there whole or not at all"
        writers = [int(line) for process in (one, two) for line in process.stdout or ()]

    assert (one.returncode, two.returncode) == (0, 0)
    assert stored(provider) == 2 * 15 * A_BATCH, "nobody undid what the other had put"
    assert sorted(writers) == list(range(1, 31)), "each has a place of its own"


def test_who_is_killed_leaves_whole_batches_and_no_lock(make: Make, tmp_path: Path) -> None:
    told: list[int] = []
    for turn in range(6):
        with writing(tmp_path, f"w{turn}", 1000) as process:
            assert process.stdout is not None
            begin(process)
            told += [int(process.stdout.readline()) for _ in range(turn + 2)]
            process.send_signal(signal.SIGKILL)

    provider = make()
    found = stored(provider)

    assert found % A_BATCH == 0 and found >= A_BATCH * len(told), "what was told to be stored is there"
    assert told == sorted(set(told)) and provider.begin(BANK) > told[-1]


def test_what_others_write_is_waited_for_only_so_long_and_other_greenlets_go_on(make: Make, tmp_path: Path) -> None:
    provider = make(lock_timeout_s=0.2)
    provider.register_memory_bank(BANK)
    ticks = 0

    def tick() -> None:
        nonlocal ticks
        while True:
            gevent.sleep(0.001)
            ticks += 1

    ticking = gevent.spawn(tick)
    with (tmp_path / "notes" / "lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ProviderError) as caught:
            put(provider, "d")
        found_meanwhile = stored(provider)
    ticking.kill()

    assert (caught.value.code, caught.value.retryable) == ("memory_busy", True)
    assert found_meanwhile == 0 and ticks > 5, "a search needs no lock"
    put(provider, "d")
    assert stored(provider) == 1


def test_what_is_wrong_with_the_folder_is_told(make: Make, tmp_path: Path) -> None:
    provider = make()
    provider.register_memory_bank(BANK)
    (bank,) = (tmp_path / "notes").glob("*.bank")
    bank.write_text("no JSON")
    with pytest.raises(ProviderError) as damaged:
        stored(provider)
    for file in (tmp_path / "notes").iterdir():
        file.unlink()
    (tmp_path / "notes").rmdir()
    (tmp_path / "notes").write_text("a file")
    with pytest.raises(ProviderError) as no_folder:
        provider.list_memory_banks()

    assert damaged.value.code == "memory_corrupt"
    assert no_folder.value.code == "memory_unavailable" and "`path`" in no_folder.value.message
