"""Reads the file of `inline::sqlite` past the project's code, as an operator would look into it."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

Json = dict[str, Any]

_CHUNKS = """
SELECT b.resource_id AS bank_id, d.document_id, d.writer, c.position, c.content, c.metadata
FROM chunks c JOIN documents d ON d.id = c.document JOIN banks b ON b.id = d.bank
ORDER BY b.id, d.document_id, c.position, c.id
"""
_INDEXES = {"words": ("words_{}_docsize", "id"), "vectors": ("vectors_{}_rowids", "rowid")}
"""The tables in which SQLite's full text search and sqlite-vec keep what they have, and its number: that of a chunk."""


def chunks_in(path: Path) -> tuple[dict[str, list[Json]], list[str]]:
    """The chunks of each bank, as in `Evidence.banks`, and in words what else is there."""
    banks: dict[str, list[Json]] = {}
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as file:
        file.row_factory = sqlite3.Row
        for (name,) in file.execute("SELECT resource_id FROM banks"):
            banks[name] = []
        for row in map(dict, file.execute(_CHUNKS)):
            banks[row.pop("bank_id")].append({**row, "metadata": json.loads(row["metadata"])})
        return banks, list(_strays(file))


def _strays(file: sqlite3.Connection) -> list[str]:
    found = []
    for what, of, where in (
        ("documents", "banks", "d.bank"),
        ("chunks", "documents", "d.document"),
        ("writers", "banks", "d.bank"),
    ):
        query = f"SELECT count(*) FROM {what} d LEFT JOIN {of} o ON o.id = {where} WHERE o.id IS NULL"  # noqa: S608
        (count,) = file.execute(query).fetchone()
        if count:
            found.append(f"{count} {what} of no {of}")
    kinds: dict[int, str] = dict(file.execute("SELECT id, kind FROM banks").fetchall())
    tables = {name for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    for number, kind in kinds.items():
        for what in ("words", "vectors") if kind == "vector" else ("words",):
            found += _index_strays(file, number, what)
    for name in tables:
        what, _, number = name.partition("_")
        if what in _INDEXES and number.isdigit() and int(number) not in kinds:
            found.append(f"{name} of a bank that is not there")
    return found


def _index_strays(file: sqlite3.Connection, bank: int, what: str) -> list[str]:
    """What an index has and the bank has not, and the other way round."""
    table, column = _INDEXES[what]
    own = "SELECT c.id FROM chunks c JOIN documents d ON d.id = c.document WHERE d.bank = ?"
    chunks = {number for (number,) in file.execute(own, (bank,))}
    rows = [number for (number,) in file.execute(f"SELECT {column} FROM {table.format(bank)}")]  # noqa: S608
    wrong = chunks.symmetric_difference(rows)
    return [f"{what}_{bank} has {len(rows)} rows for {len(chunks)} chunks, {len(wrong)} of them alone"] if wrong else []
