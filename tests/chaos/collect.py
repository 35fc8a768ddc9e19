"""Reads what the oracle judges: the raw logs from the store, turns, jobs and sessions over HTTP, the banks' file, and
what tools and models wrote down.

By none of the project's code: the form of the keys is written out here, as an operator would look.
"""

import json
from pathlib import Path

import httpx
import redis

from chaos.evidence import Entry, Evidence, Json
from chaos.memory_file import chunks_in

EFFECTS, ASKED, BANKS = "effects.jsonl", "asked.jsonl", "memory.sqlite3"
_AT_ONCE = 100


def collect(evidence: Evidence, *, store: "redis.Redis", api_url: str, folder: Path, prefix: str = "ts") -> None:
    """Fill in what became of all that was accepted. `folder` has the files of the helpers and the banks."""
    turn_ids = [one.turn_id for one in evidence.work()]
    for start in range(0, len(turn_ids), _AT_ONCE):
        chunk = turn_ids[start : start + _AT_ONCE]
        pipe = store.pipeline(transaction=False)
        for turn_id in chunk:
            pipe.xrange(turn_key(turn_id, prefix) + ":events")
        for turn_id, entries in zip(chunk, pipe.execute(), strict=True):
            evidence.logs[turn_id] = [_entry(entry_id, fields) for entry_id, fields in entries]
    with httpx.Client(base_url=f"{api_url}/v1", timeout=30) as http:
        for work in evidence.work():
            evidence.turns[work.turn_id] = http.get(work.path.removeprefix("/v1")).json()
        for one in evidence.accepted:
            path = f"/agents/{one.agent_id}/session/{one.session_id}"
            if one.session_id not in evidence.sessions:
                turns = http.get(path).json().get("turns", [])
                evidence.sessions[one.session_id] = [turn["turn_id"] for turn in turns]
        evidence.listed = _listed(http)
    evidence.effects = _lines(folder / EFFECTS)
    evidence.asked = _lines(folder / ASKED)
    evidence.banks, evidence.strays = chunks_in(folder / BANKS)


def _listed(http: httpx.Client) -> list[str]:
    found: list[str] = []
    page: Json = {"after": None, "has_more": True}
    while page["has_more"]:
        after = {"after": page["after"]} if page["after"] else {}
        page = http.get("/jobs", params={"limit": 200, **after}).json()
        found += [job["job_id"] for job in page["data"]]
    return found


def _lines(path: Path) -> list[Json]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def turn_key(turn_id: str, prefix: str = "ts") -> str:
    """The key of a turn's hash; its shard is the two digits in the id."""
    return f"{prefix}:{{s{turn_id.split('_')[1]}}}:default:turn:{turn_id}"


def _entry(entry_id: bytes, fields: dict[bytes, bytes]) -> Entry:
    seq, epoch = entry_id.decode().split("-")
    return Entry(int(seq), int(epoch), fields[b"t"].decode(), fields[b"p"].decode())
