"""`make bench`: measures Turnstone beside its upstream called directly, with the same client, in the same run.

It starts a fake upstream and a stack of its own and stops both. The table is printed; all figures go into a JSON
file below `bench/results/`.
"""

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from load import Load, Outcome, run_in_turns, run_load
from report import Measured, Run
from system import HERE, Stack, fake_upstream, stack
from targets import Direct, Target, TurnstonePost, TurnstoneTail
from upstream import Plan

IDLE_S = 5.0
SETTLE_S = 0.3
ALONE = "one at a time"
STEADY = "50 in flight, 20 tokens/s"
SHORT = "64 in flight, 64 tokens at once"
LONG = "8 in flight, 2,000 tokens at once"


def loads(scale: float) -> dict[str, Load]:
    """What is measured. `scale` shortens it for a first look."""

    def times(count: int) -> int:
        return max(8, int(count * scale))

    return {
        ALONE: Load(plan=Plan(tokens=8), in_flight=1, replies=times(120)),
        STEADY: Load(plan=Plan(tokens=40, token_ms=50), in_flight=50, replies=times(200)),
        SHORT: Load(plan=Plan(tokens=64), in_flight=64, replies=times(512)),
        LONG: Load(plan=Plan(tokens=2000), in_flight=8, replies=times(32)),
    }


class Bench:
    """One run: every load, `repeats` times, on every target in turn."""

    def __init__(self, *, upstream_url: str, system: Stack, repeats: int, run: Run) -> None:
        self._upstream_url = upstream_url
        self._system = system
        self._repeats = repeats
        self._run = run
        self._direct = Direct(upstream_url)
        self._post = TurnstonePost(system.url)
        self._tail = TurnstoneTail(system.url)

    async def measure(self) -> None:
        await self._warm_up()
        await self._idle()
        for repeat in range(self._repeats):
            if ALONE in self._run.loads:
                await self._alone(repeat)
            for name, targets in (
                (STEADY, (self._direct, self._post, self._tail)),
                (SHORT, (self._direct, self._post, self._tail)),
                (LONG, (self._direct, self._post, self._tail)),
            ):
                if name in self._run.loads:
                    self._floor(name, repeat)
                    for target in targets:
                        await self._load(name, target, repeat)
        self._run.rss_mb = self._system.rss_mb()

    async def _warm_up(self) -> None:
        for target in (self._direct, self._post, self._tail):
            await target.prepare(64)
            await run_load(target, Load(plan=Plan(tokens=16), in_flight=8, replies=64))
            target.close()

    async def _idle(self) -> None:
        before = self._system.cpu_s()
        await asyncio.sleep(IDLE_S)
        after = self._system.cpu_s()
        self._run.idle_cpu = {room: 100 * (after[room] - before[room]) / IDLE_S for room in after}

    async def _alone(self, repeat: int) -> None:
        load, targets = self._run.loads[ALONE], (self._direct, self._post, self._tail)
        for target in targets:
            await target.prepare(load.replies)
        outcomes = await run_in_turns(targets, load.plan, load.replies)
        for target in targets:
            target.close()
            self._note(ALONE, target.name, repeat, outcomes[target.name], {})

    async def _load(self, name: str, target: Target, repeat: int) -> None:
        load = self._run.loads[name]
        await target.prepare(load.replies)
        await asyncio.sleep(SETTLE_S)
        before = self._system.cpu_s()
        outcome = await run_load(target, load)
        await asyncio.sleep(SETTLE_S)  # what is left to do after the last byte belongs to the load
        after = self._system.cpu_s()
        target.close()
        cpu_s = {} if target is self._direct else {room: after[room] - before[room] for room in after}
        self._note(name, target.name, repeat, outcome, cpu_s)

    def _floor(self, name: str, repeat: int) -> None:
        load, plan = self._run.loads[name], self._run.loads[name].plan
        options = {
            "in-flight": load.in_flight,
            "replies": load.replies,
            "tokens": plan.tokens,
            "first-ms": plan.first_ms,
            "token-ms": plan.token_ms,
        }
        flags = [part for option, value in options.items() for part in (f"--{option}", str(value))]
        command = [sys.executable, str(HERE / "floor.py"), self._upstream_url, *flags]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        wrong = found["tokens"] != load.tokens
        self._run.rows.append(Measured(
            load=name, target="floor", repeat=repeat, replies=load.replies, errors=int(wrong), tokens=found["tokens"],
            events=found["tokens"], seconds=found["seconds"], cpu_s={"floor": found["cpu_s"]},
        ))  # fmt: skip

    def _note(self, name: str, target: str, repeat: int, outcome: Outcome, cpu_s: dict[str, float]) -> None:
        self._run.rows.append(Measured.of(name, target, repeat, outcome, cpu_s))
        print(f"{repeat + 1}/{self._repeats} {name}, {target}: {outcome.seconds:.1f} s, {outcome.errors} errors")


def about() -> dict[str, object]:
    """Where and when."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=HERE, capture_output=True, text=True)
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit.stdout.strip(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="shorten every load to this part")
    parser.add_argument("--only", help="only loads with these words in their name")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--api-processes", type=int, default=1)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "latest.json")
    options = parser.parse_args()
    chosen = {name: load for name, load in loads(options.scale).items() if (options.only or "") in name}
    processes = {"workers": options.workers, "api_processes": options.api_processes}
    run = Run(about={**about(), "repeats": options.repeats, **processes}, loads=chosen)
    with (
        tempfile.TemporaryDirectory(prefix="turnstone-bench-") as folder,
        fake_upstream() as upstream_url,
        stack(upstream_url, Path(folder), **processes) as system,
    ):
        bench = Bench(upstream_url=upstream_url, system=system, repeats=options.repeats, run=run)
        asyncio.run(bench.measure())
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_bytes(run.as_json())
    print(f"\n{run.table()}\n\nAll figures: {options.output}")


if __name__ == "__main__":
    main()
