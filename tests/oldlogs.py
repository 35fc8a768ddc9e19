"""The logs that earlier releases have written, as tests/data/record_logs.py has recorded them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shared.events import Entry, PrivateEntry

Json = dict[str, Any]

LOGS = Path(__file__).resolve().parent / "data" / "logs"


def recorded_turns() -> Iterator[tuple[str, Json]]:
    """Every recorded turn of every release, with a name for it."""
    for file in sorted(LOGS.glob("*.json")):
        record = json.loads(file.read_text())
        for turn in record["turns"]:
            yield f"{record['version']}: {turn['name']}", turn


def entries_of(turn: Json) -> list[Entry]:
    return [Entry(*numbers(i), kind, version, payload.encode()) for i, kind, version, payload in turn["events"]]


def private_of(turn: Json) -> list[PrivateEntry]:
    return [PrivateEntry(numbers(i)[0], kind, payload.encode()) for i, kind, payload in turn["private"]]


def numbers(entry_id: str) -> tuple[int, int]:
    """Seq and epoch of an entry's id."""
    seq, _, epoch = entry_id.partition("-")
    return int(seq), int(epoch)
