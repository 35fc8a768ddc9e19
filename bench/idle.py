"""What a system costs that has nothing to do: CPU of every process, and the store's commands.

    python bench/idle.py [--seconds 20] [--workers 3] [--into bench/results/idle.json]

Starts `turnstone dev` in a folder of its own, with workers of one place each and the embedded memory, and looks at it
twice: with no turn at all, and with a thousand turns that wait because each worker is busy with one that says a word a
minute. The second look begins when the reaper has come to its longest pause between two hints of a turn.

With PYTHONPATH set to another checkout that one is measured.
"""

import argparse
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import redis

from shared.cli.store import socket_path
from shared.queues import CALLS_QUEUE, MEMORY_QUEUE, TURNS_QUEUE

Json = dict[str, Any]

QUEUED = 1000
SETTLE_S = 75.0
"""The pauses between the hints of a turn that waits are 1, 2, 4, 8, 16, 32 and from then on 60 s."""
LONGEST_PAUSE_S = 60.0
"""A shorter look might miss all hints, or see them all."""
DEADLINE_S = 120.0
SHOWN = 12  # commands
RULES = [{"match": "^busy", "text": "word " * 60, "token_ms": 60_000, "first_token_ms": 60_000}]
CONFIG = {
    "providers": {
        "inference": [{"provider_id": "script", "provider_type": "inline::scripted", "config": {"rules": RULES}}],
        "memory": [{"provider_id": "local", "provider_type": "inline::sqlite"}],
    }
}
NAMES = {
    "worker.heartbeat_process": "heartbeat of a worker",
    "shared.cli.watchdog": "watchdog",
    "-m worker": "worker",
    "valkey-server": "store",
    "gunicorn": "API",
    "dev --port": "supervisor",
}
WORKERS = {CALLS_QUEUE: "calls worker", MEMORY_QUEUE: "memory worker"}
"""Those that run no turns."""


@dataclass(frozen=True)
class Sample:
    """CPU seconds and context switches by process, and calls by command, since their start."""

    at: float
    processes: dict[int, tuple[str, float, int]]
    commands: dict[str, int]


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="ts-idle-") as folder, _stack(Path(folder), options.workers) as stack:
        results = [{"turns": 0, **stack.measure(options.seconds)}]
        stack.queue_up(options.workers)
        time.sleep(SETTLE_S)
        results.append({"turns": QUEUED, **stack.measure(max(options.seconds, LONGEST_PAUSE_S))})
    report = {
        "command": " ".join(["python", *sys.argv]),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "workers": options.workers,
        "results": results,
    }
    if options.into:
        options.into.parent.mkdir(parents=True, exist_ok=True)
        options.into.write_text(json.dumps(report, indent=1) + "\n")
    sys.stdout.write(_table(report))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="how long to look (with turns: a minute at least)")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--into", type=Path, help="a file for the figures as JSON")
    return parser.parse_args()


class _Stack:
    """A running `turnstone dev` and its store."""

    def __init__(self, *, process: "subprocess.Popen[bytes]", port: int, folder: Path) -> None:
        self._process = process
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{port}/v1", timeout=DEADLINE_S)
        self._until(self._is_healthy, "the stack is healthy")
        self._store = redis.Redis(unix_socket_path=str(socket_path(folder / ".turnstone" / str(port))))

    def measure(self, seconds: float) -> Json:
        before = self._sample()
        time.sleep(seconds)
        after = self._sample()
        took = after.at - before.at
        processes: dict[str, list[tuple[float, float]]] = {}
        for pid, (name, cpu, switches) in after.processes.items():
            _, cpu_then, switches_then = before.processes.get(pid, (name, 0.0, 0))
            processes.setdefault(name, []).append(((cpu - cpu_then) / took, (switches - switches_then) / took))
        calls = {name: (count - before.commands.get(name, 0)) / took for name, count in after.commands.items()}
        return {
            "seconds": round(took, 1),
            "processes": {
                name: {
                    "count": len(figures),
                    "cpu_percent": round(100 * sum(cpu for cpu, _ in figures), 3),
                    "switches_per_s": round(sum(switches for _, switches in figures), 1),
                }
                for name, figures in sorted(processes.items())
            },
            "commands_per_s": {
                name: round(rate, 2) for name, rate in sorted(calls.items(), key=lambda one: -one[1]) if rate >= 0.01
            },
        }

    def queue_up(self, workers: int) -> None:
        """One endless turn for each worker, and those that wait."""
        agent = self._post("/agents", {"agent_config": {"model": "scripted", "instructions": "Be brief."}})
        sessions = f"/agents/{agent['agent_id']}/session"
        for _ in range(workers):
            self._submit(sessions, "busy")
        self._until(lambda: self._count("leases") == workers, "each worker is busy")
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: self._submit(sessions, f"busy {number}"), range(QUEUED)))

    def _submit(self, sessions: str, words: str) -> None:
        session = self._post(sessions, {"session_name": words})["session_id"]
        self._post(f"{sessions}/{session}/turn", {"messages": [{"role": "user", "content": words}]})

    def _count(self, index: str) -> int:
        return sum(int(self._store.zcard(key)) for key in self._store.scan_iter(f"*:{index}"))

    def _post(self, path: str, body: Json) -> Json:
        return dict(self._http.post(path, json=body).raise_for_status().json())

    def _is_healthy(self) -> bool:
        try:
            return self._http.get("/health").status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            if time.monotonic() > deadline or self._process.poll() is not None:
                sys.exit(f"waited in vain until {what}")
            time.sleep(0.2)

    def _sample(self) -> Sample:
        root = psutil.Process(self._process.pid)
        processes = {}
        for one in [root, *root.children(recursive=True)]:
            times = one.cpu_times()
            processes[one.pid] = (_name(one), times.user + times.system, one.num_ctx_switches().voluntary)
        stats = self._store.info("commandstats")
        calls = {name.removeprefix("cmdstat_"): figures["calls"] for name, figures in stats.items()}
        return Sample(time.monotonic(), processes, calls)


@contextmanager
def _stack(folder: Path, workers: int) -> Iterator[_Stack]:
    (folder / "turnstone.yaml").write_text(json.dumps(CONFIG))  # JSON is YAML
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    environ = {name: value for name, value in os.environ.items() if not name.startswith("TURNSTONE_")}
    environ |= {"TURNSTONE_WORKERS": str(workers), "TURNSTONE_CONCURRENCY": "1"}
    command = [sys.executable, "-m", "shared.cli.main", "dev", "--port", str(port)]
    with (folder / "stack.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield _Stack(process=process, port=port, folder=folder)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()  # its watchdog ends the rest
            process.wait()


def _name(process: psutil.Process) -> str:
    command = " ".join(process.cmdline())
    found = next((name for words, name in NAMES.items() if words in command), command[:60])
    if found == "worker":
        return WORKERS.get(process.environ().get("TURNSTONE_QUEUE", TURNS_QUEUE), "worker")
    return found


def _table(report: Json) -> str:
    lines = [f"{report['workers']} workers, one API process; {report['machine']}", ""]
    for result in report["results"]:
        lines += [f"{result['turns']} turns wait, over {result['seconds']:.0f} s", ""]
        lines += ["| process | number | CPU of a core (%) | wake-ups/s |", "|---|---|---|---|"]
        for name, figures in result["processes"].items():
            lines.append(f"| {name} | {figures['count']} | {figures['cpu_percent']} | {figures['switches_per_s']} |")
        commands = list(result["commands_per_s"].items())
        total = sum(rate for _, rate in commands)
        shown = ", ".join(f"{name} {rate}" for name, rate in commands[:SHOWN])
        lines += ["", f"Commands of the store per second, those in scripts included: {total:.0f} ({shown})", ""]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
