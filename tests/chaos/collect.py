"""Reads what the oracle judges: the raw logs from the store, turns and sessions over HTTP, the tools' own log.

By none of the project's code: the form of the keys is written out here, as an operator would look.
"""

import json
from pathlib import Path

import httpx
import redis

from chaos.evidence import Entry, Evidence

_AT_ONCE = 100


def collect(evidence: Evidence, *, store: "redis.Redis", api_url: str, effects: Path, prefix: str = "ts") -> None:
    """Fill in logs, turns, sessions and effects of what was accepted."""
    turn_ids = [one.turn_id for one in evidence.accepted]
    for start in range(0, len(turn_ids), _AT_ONCE):
        chunk = turn_ids[start : start + _AT_ONCE]
        pipe = store.pipeline(transaction=False)
        for turn_id in chunk:
            pipe.xrange(turn_key(turn_id, prefix) + ":events")
        for turn_id, entries in zip(chunk, pipe.execute(), strict=True):
            evidence.logs[turn_id] = [_entry(entry_id, fields) for entry_id, fields in entries]
    with httpx.Client(base_url=f"{api_url}/v1", timeout=30) as http:
        for one in evidence.accepted:
            path = f"/agents/{one.agent_id}/session/{one.session_id}"
            evidence.turns[one.turn_id] = http.get(f"{path}/turn/{one.turn_id}").json()
            if one.session_id not in evidence.sessions:
                turns = http.get(path).json().get("turns", [])
                evidence.sessions[one.session_id] = [turn["turn_id"] for turn in turns]
    if effects.exists():
        evidence.effects = [json.loads(line) for line in effects.read_text().splitlines()]


def turn_key(turn_id: str, prefix: str = "ts") -> str:
    """The key of a turn's hash; its shard is the two digits in the id."""
    return f"{prefix}:{{s{turn_id.split('_')[1]}}}:default:turn:{turn_id}"


def _entry(entry_id: bytes, fields: dict[bytes, bytes]) -> Entry:
    seq, epoch = entry_id.decode().split("-")
    return Entry(int(seq), int(epoch), fields[b"t"].decode(), fields[b"p"].decode())
