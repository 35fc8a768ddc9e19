"""How soon a turn goes on whose worker was killed, or was asked to leave.

    python tests/chaos/takeover.py [--lease 15] [--rounds 5] [--turns 100]

Two workers run `--turns` turns that speak without end. One of the workers gets a SIGKILL, and for each of its turns the
time from there to the next event of another worker is taken; its place is filled again. Then the same with SIGTERM and
no grace, from the worker's exit on: all of its turns are inside a step, and are given back there. Times are the
store's: the epoch of an event is the server's clock at the claim, and the server is asked for the time of the signal.
"""

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import httpx
import redis
from rooms import Room, Rooms

_SECOND_US = 1_000_000
_WORDS = 3_000
_SETTLE_S = 2.0
"""Between two rounds: long enough for all turns to have spoken again."""


@dataclass(frozen=True, kw_only=True)
class Options:
    lease_s: float
    rounds: int
    turns: int


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="ts-takeover-") as folder:
        rules = [{"match": "", "text": "word " * _WORDS, "token_ms": 200}]
        script = {"provider_id": "script", "provider_type": "inline::scripted", "config": {"rules": rules}}
        turns = {"lease_s": options.lease_s, "max_attempts": 1000}
        config = {"providers": {"inference": [script]}, "turns": turns}
        with Rooms(Path(folder), config, environ={"TURNSTONE_DRAIN_S": "0"}) as rooms:
            api, workers = rooms.api(), [rooms.worker(), rooms.worker()]
            rooms.until_healthy()
            _submit(api, options.turns)
            sys.stdout.write("| signal | lease | turns | p50 | p99 | longest |\n|---|---|---|---|---|---|\n")
            for signal in ("SIGKILL", "SIGTERM"):
                waits = [wait for _ in range(options.rounds) for wait in _round(rooms, workers, signal, options)]
                sys.stdout.write(_row(signal, options, sorted(waits)) + "\n")
                sys.stdout.flush()


def _submit(api: Room, count: int) -> None:
    with httpx.Client(base_url=f"{api.url}/v1", timeout=60) as http:
        agent = http.post("/agents", json={"agent_config": {"model": "scripted", "instructions": ""}}).json()
        for _ in range(count):
            path = f"/agents/{agent['agent_id']}/session"
            session = http.post(path, json={"session_name": "long"}).json()["session_id"]
            body = {"messages": [{"role": "user", "content": "go on"}]}
            http.post(f"{path}/{session}/turn", json=body).raise_for_status()


def _round(rooms: Rooms, workers: list[Room], signal: str, options: Options) -> list[float]:
    """The waits, in seconds, of the turns of the worker that has the most of them."""
    time.sleep(_SETTLE_S)
    with rooms.store() as store:
        rooms.until(lambda: len(_owners(store)) >= options.turns, "all turns run", seconds=120)
        owners = _owners(store)
        victim = max(workers, key=lambda worker: list(owners.values()).count(worker.worker_name))
        lost = [key for key, owner in owners.items() if owner == victim.worker_name]
        if signal == "SIGTERM":
            victim.terminate()
            victim.wait()
        begun = _now_us(store)
        if signal == "SIGKILL":
            victim.kill()
        workers[workers.index(victim)] = rooms.worker()
        rooms.until(lambda: all(_epoch(store, key) > begun - _SECOND_US for key in lost), "they go on", seconds=120)
        return [max(0, _epoch(store, key) - begun) / _SECOND_US for key in lost]


def _owners(store: "redis.Redis") -> dict[bytes, str]:
    """The key of each running turn, and its owner."""
    keys = [key for key in store.scan_iter("ts:*:turn:*", count=1000) if key.count(b":") == 4]
    pipe = store.pipeline(transaction=False)
    for key in keys:
        pipe.hmget(key, "token", "worker")
    return {key: worker.decode() for key, (token, worker) in zip(keys, pipe.execute(), strict=True) if token}


def _epoch(store: "redis.Redis", key: bytes) -> int:
    """Of the turn's last event."""
    ((entry_id, _),) = store.xrevrange(key + b":events", count=1)
    return int(entry_id.partition(b"-")[2])


def _now_us(store: "redis.Redis") -> int:
    seconds, micros = store.time()
    return int(seconds) * _SECOND_US + int(micros)


def _row(signal: str, options: Options, waits: list[float]) -> str:
    at = {share: waits[min(len(waits) - 1, int(share * len(waits)))] for share in (0.5, 0.99)}
    lease = f"{options.lease_s:g} s"
    return f"| {signal} | {lease} | {len(waits)} | {at[0.5]:.2f} s | {at[0.99]:.2f} s | {waits[-1]:.2f} s |"


def _options() -> Options:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lease", type=float, default=15, help="turns.lease_s, in seconds (15)")
    parser.add_argument("--rounds", type=int, default=5, help="of each signal (5)")
    parser.add_argument("--turns", type=int, default=100, help="that run at once (100)")
    given = parser.parse_args()
    return Options(lease_s=given.lease, rounds=given.rounds, turns=given.turns)


if __name__ == "__main__":
    main()
