"""A memory provider of one's own: each bank is a file of notes, and a search goes through all of them.

Its port (worker/providers/memory.py) promises much; these plain means keep it, for some thousands of documents:

- Changes are made one after the other, under a lock on the folder. The kernel takes it back from a process that dies.
- No file is changed: its successor is written beside it, forced to the disk, and renamed. So a put is there whole or
  not at all, whoever is killed, and searches need no lock.
- Writers are numbered in a file of its own, which outlives the banks. A bank knows the number at its birth: who began
  before that meant the bank that was there before.
- All of it happens in threads of gevent's pool: the other turns of the worker go on meanwhile.
"""

import fcntl
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import IO, TypeVar

import gevent
from gevent import monkey
from pydantic import BaseModel, ConfigDict, Field

from my_company.notes_search import Documents, Json, by_entities, by_keys, by_vector, by_words, without_expired
from worker.providers.memory import Bank, Document, Found, Search
from worker.providers.memory_base import SearchedMemory

T = TypeVar("T")

_sleep = monkey.get_original("time", "sleep")
"""Threads of the pool have no greenlets that could go on meanwhile."""


class NotesConfig(BaseModel):
    """What stands under `config` in the run config: the folder, on a local disk, and the longest wait for its lock."""

    model_config = ConfigDict(extra="forbid")

    path: str = Field(".turnstone/notes", min_length=1)
    lock_timeout_s: float = Field(30, gt=0)


class NotesMemory(SearchedMemory):
    """Banks of all kinds. `SearchedMemory` chooses the way of a search, checks dimensions and words the errors."""

    Config = NotesConfig

    def __init__(self, *, provider_id: str, config: NotesConfig) -> None:
        super().__init__(provider_id=provider_id)
        self._folder = Path(config.path)
        self._timeout_s = config.lock_timeout_s

    def list_memory_banks(self) -> list[Bank]:
        """None of its own. It is asked for them every now and then: a folder that cannot be used is known by this."""
        self._change(lambda: None)
        return []

    def register_memory_bank(self, bank: Bank) -> Bank:
        self._check_bank(bank)
        own = {"kind": bank.kind, "model": bank.embedding_model, "dimension": bank.embedding_dimension}

        def change() -> Bank:
            if not self._file(bank.resource_id).exists():
                self._save(bank, {**own, "born": self._writers()}, {})
            elif not own.items() <= self._load(bank)[0].items():
                raise self._taken(bank)
            return bank

        return self._change(change)

    def unregister_memory_bank(self, resource_id: str) -> None:
        def change() -> None:
            self._file(resource_id).unlink(missing_ok=True)
            self._sync_folder()

        self._change(change)

    def begin(self, bank: Bank) -> int:
        def change() -> int:
            self._load(bank)
            writer = self._writers() + 1
            self._replace(self._folder / "writers", str(writer))
            return writer

        return self._change(change)

    def put(self, bank: Bank, documents: Sequence[Document], *, writer: int) -> None:
        whole = self._check_documents(bank, documents)

        def change() -> None:
            head, there = self._load(bank)
            if writer <= head["born"]:
                raise self._no_bank(bank)
            kept = without_expired(there)
            for document in whole:
                if kept.get(document.document_id, {"writer": 0})["writer"] <= writer:
                    kept[document.document_id] = {**asdict(document), "writer": writer}
            self._save(bank, head, kept)

        self._change(change)

    def delete(self, bank: Bank, document_ids: Sequence[str]) -> None:
        def change() -> None:
            head, there = self._load(bank)
            for name in document_ids:
                there.pop(name, None)
            self._save(bank, head, there)

        self._change(change)

    def close(self) -> None:
        """Nothing is open between calls."""

    def _by_vector(self, bank: Bank, search: Search, limit: int) -> list[Found]:
        return self._look(lambda: by_vector(self._documents(bank), search)[:limit])

    def _by_words(self, bank: Bank, search: Search, limit: int) -> list[Found]:
        return self._look(lambda: by_words(self._documents(bank), search)[:limit])

    def _by_keys(self, bank: Bank, search: Search) -> list[Found]:
        return self._look(lambda: by_keys(self._documents(bank), search)[: search.limit])

    def _by_entities(self, bank: Bank, search: Search) -> list[Found]:
        return self._look(lambda: by_entities(self._documents(bank), search)[: search.limit])

    def _file(self, resource_id: str) -> Path:
        return self._folder / f"{sha256(resource_id.encode()).hexdigest()}.bank"

    def _load(self, bank: Bank) -> tuple[Json, Documents]:
        """What was noted of the bank itself, and its documents. One a line, so that other threads get their turn."""
        try:
            with self._file(bank.resource_id).open(encoding="utf-8") as file:
                head, *documents = (json.loads(line) for line in file)
        except FileNotFoundError:
            raise self._no_bank(bank) from None
        return head, {one["document_id"]: one for one in documents}

    def _documents(self, bank: Bank) -> Documents:
        return without_expired(self._load(bank)[1])

    def _save(self, bank: Bank, head: Json, documents: Documents) -> None:
        lines = (json.dumps(one) for one in (head, *documents.values()))
        self._replace(self._file(bank.resource_id), *lines)

    def _writers(self) -> int:
        """How many have begun so far."""
        path = self._folder / "writers"
        return int(path.read_text()) if path.exists() else 0

    def _replace(self, path: Path, *lines: str) -> None:
        """All of the file or nothing, and on the disk when this returns."""
        successor = path.with_suffix(".new")
        with successor.open("w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
        successor.replace(path)
        self._sync_folder()

    def _sync_folder(self) -> None:
        """A file's name is on the disk only when its folder is."""
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _look(self, work: Callable[[], T]) -> T:
        """Runs in a thread. Who is killed while it waits leaves the thread at work, which ends what it has begun."""
        result: T = gevent.get_hub().threadpool.apply(self._told, (work,))
        return result

    def _change(self, work: Callable[[], T]) -> T:
        """The same, while nobody else changes anything."""

        def alone() -> T:
            self._folder.mkdir(parents=True, exist_ok=True)
            with (self._folder / "lock").open("a") as file:
                self._lock(file)
                try:
                    return work()
                finally:
                    fcntl.flock(file, fcntl.LOCK_UN)

        return self._look(alone)

    def _lock(self, file: IO[str]) -> None:
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    problem = f"waited {self._timeout_s:g} s for others who write to its folder. Try again."
                    raise self._error("memory_busy", problem, retryable=True) from None
            _sleep(0.005)

    def _told(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except OSError as error:
            problem = f"cannot use its folder: {error.strerror}. Look at `path`."
            raise self._error("memory_unavailable", problem, retryable=True) from None
        except ValueError:
            raise self._error("memory_corrupt", "finds a file damaged. Bring it back from a backup.") from None
