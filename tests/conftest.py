"""What every test may use: a real store of the test run's own, and keys of the test's own in it."""

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgreskit import postgres_with_pgvector
from waiting import wait_for

from shared.cli.binaries import find_binary
from shared.cli.guard import Guard
from shared.cli.store import LocalStore


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """The URL of a real, empty store that belongs to this test run."""
    # Not pytest's own folders: their names grow past what a socket's address holds.
    folder = Path(tempfile.mkdtemp(prefix="ts-"))
    store = LocalStore(binary=find_binary(), data_dir=folder)
    store.prepare()
    log = folder / "store.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            store.command(),
            env=store.environ(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            process_group=0,
        )
    # It ends with the test run even where that is killed.
    guard = Guard(on_exit=lambda _: None)
    guard.add(process.pid, last=True)
    try:
        wait_for(lambda: store.answers() or process.poll() is not None, "the store answers")
        assert process.poll() is None, log.read_text()
        yield store.url
    finally:
        process.kill()
        process.wait()
        guard.remove(process.pid)
        guard.close()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of a PostgreSQL server that has pgvector."""
    with postgres_with_pgvector() as url:
        yield url


@pytest.fixture
def key_prefix() -> str:
    """What the keys of this test begin with, so that tests share the store and never clear it."""
    return f"t{secrets.token_hex(6)}"
