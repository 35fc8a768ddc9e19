"""`make bench`: Turnstone beside its upstream called directly and beside its peers, in one run, with the same client.

Everything is started here and ends with the run. The table is printed; it, all figures and the plots go into
`bench/results/`.
"""

import argparse
import asyncio
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from bench.context import Context
from bench.figures import Results
from bench.plots import draw
from bench.rows import ROWS
from bench.sizes import FULL, QUICK, SMOKE
from bench.systems.afternoon import Afternoon
from bench.systems.base import System, Unavailable
from bench.systems.direct import ROOT, Direct
from bench.systems.llama_stack import LlamaStack
from bench.systems.processes import Processes
from bench.systems.turnstone import Stack, Turnstone

PEERS: dict[str, Callable[[Processes, str], System]] = {"afternoon": Afternoon, "llama-stack": LlamaStack}
ROW_S = 600.0
"""No row takes that long, however slow a system is."""
RESULTS = ROOT / "bench" / "results"
SIZES = {"full": FULL, "quick": QUICK, "smoke": SMOKE}


def main() -> None:
    options = _options()
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    results = Results(about=about(options.size))
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, ExitStack() as ends:
        systems = start(Path(folder), ends, results, peers=options.peers)
        direct = systems["direct"]
        assert isinstance(direct, Direct)
        context = Context(
            folder=Path(folder), sizes=SIZES[options.size], systems=systems, upstream_url=direct.url, results=results
        )
        context.say(f"measuring {', '.join(systems)}")
        try:
            asyncio.run(measure(context, options.rows))
        except (KeyboardInterrupt, asyncio.CancelledError):
            results.section("Not measured").note("The run was stopped before its end.")
        write(results, options.into or RESULTS / options.size)


async def measure(context: Context, rows: Sequence[str]) -> None:
    """The rows in their order. One that fails is noted, and the others go on."""
    running = asyncio.current_task()
    assert running is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    for system in context.systems.values():
        await system.prepare(1)
    for name in rows:
        try:
            await asyncio.wait_for(ROWS[name](context), ROW_S)
        except (OSError, RuntimeError, TimeoutError) as error:
            context.results.section("Not measured").note(f"{name}: {type(error).__name__} {str(error)[-1500:]}")
            context.say(f"{name} could not be measured: {type(error).__name__} {str(error)[-300:]}")


def start(folder: Path, ends: ExitStack, results: Results, *, peers: Sequence[str]) -> dict[str, System]:
    """Start all systems side by side, and wait for each. A peer that does not come up is left out, with the reason."""

    def processes(name: str) -> Processes:
        return ends.enter_context(Processes(folder / name))

    direct = Direct(processes("direct"))
    systems: dict[str, System] = {"direct": direct}
    for name in peers:
        try:
            systems[name] = PEERS[name](processes(name), direct.url)
        except (Unavailable, RuntimeError) as error:
            results.section("Not measured").note(f"{name}: {error}")
    systems["turnstone"] = Turnstone(Stack(processes("turnstone"), direct.url))
    for name, system in list(systems.items()):
        try:
            system.until_ready()
        except RuntimeError as error:
            if name not in PEERS:
                raise
            results.section("Not measured").note(f"{name}: {error}")
            del systems[name]
    # The floor first: what each repeat is compared with. Ours right after it.
    return {name: systems[name] for name in ("direct", "turnstone", *PEERS) if name in systems}


def about(size: str) -> dict[str, object]:
    """Where, when and how."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "size": size,
        "commit": commit.stdout.strip(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def write(results: Results, folder: Path) -> None:
    """The table to the terminal; table, figures and plots into files."""
    results.about["load_after"] = round(os.getloadavg()[0], 2)
    facts = ", ".join(f"{name} {value}" for name, value in results.about.items())
    print(f"\n{results.table()}\n\n{facts}")
    missed = results.missed()
    print(f"\nGoals missed: {len(missed)}" + "".join(f"\n  {figure.name}: {figure.verdict()}" for figure in missed))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "figures.json").write_bytes(results.as_json() + b"\n")
    (folder / "table.md").write_text(f"{results.table()}\n\n{facts}\n")
    try:
        draw(results, folder)
    except ImportError:
        print("No plots: matplotlib is not installed (pip install --group bench).")
    print(f"\nTable, figures and plots: {folder}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--rows", default=",".join(ROWS), help="only these, with commas: %(default)s")
    parser.add_argument("--peers", default=",".join(PEERS), help="only these, with commas; empty for none")
    parser.add_argument("--into", type=Path, help="folder for table, figures and plots (default: bench/results/<size>)")
    options = parser.parse_args()
    options.rows = [name for name in options.rows.split(",") if name]
    options.peers = [name for name in options.peers.split(",") if name]
    unknown = [name for name in options.rows if name not in ROWS]
    unknown += [name for name in options.peers if name not in PEERS]
    if unknown:
        sys.exit(f"There is no {', '.join(unknown)}. Rows: {', '.join(ROWS)}. Peers: {', '.join(PEERS)}.")
    return options


if __name__ == "__main__":
    main()
