"""`make chaos`: kills everything at random while turns run, and judges each run by what is left behind.

    python tests/chaos/campaign.py --seed 1 --turns 500 --kills 50 --runs 20
    python tests/chaos/campaign.py --mutant fence      the oracle has to find something
    python tests/chaos/campaign.py --control fence     the same faults without the mutant: it must not

Exits with 1 on any violation; the folder of such a run stays, with all logs, the store's data and the evidence.
"""

import argparse
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from chaos import schedule as kinds
from chaos.mutants import MUTANTS
from chaos.report import HEADS, Progress, row, table, write_markdown
from chaos.run import Result, Settings, run

_SHOWN = 20
_NONE = dict.fromkeys((*kinds.KILLS, *kinds.OTHERS, *kinds.MEMORY), 0)
_SHORT = Settings(seed=1, turns=100, jobs=40, duration_s=30, quiet_s=25)
_INSERTS = replace(_SHORT, turns=20, jobs=100, kinds=_NONE)

PROFILES = {
    # What brings a missing safeguard to light: owners that come back, answers that are lost, silence, dead workers.
    "fence": replace(_SHORT, kinds={**_NONE, kinds.STOP_WORKER: 14}),
    "tail": replace(_SHORT, kinds={**_NONE, kinds.LOSE_REPLIES: 100}),
    "renew": replace(_SHORT, turns=30, duration_s=20, quiet_s=60, silence_s=4.0, kinds=_NONE),
    "reap": replace(_SHORT, duration_s=20, kinds={**_NONE, kinds.KILL_WORKER: 6}),
    "early": replace(_INSERTS, kinds={**_NONE, kinds.KILL_MEMORY: 10}),
    "order": _INSERTS,
    "double": replace(_INSERTS, kinds={**_NONE, kinds.KILL_MEMORY: 6, kinds.STOP_MEMORY: 10}),
    "again": replace(_SHORT, jobs=20, kinds=_NONE),
}


def main() -> None:
    arguments = _arguments()
    settings = PROFILES.get(arguments.mutant or arguments.control or "", Settings(seed=1))
    given = {"turns": arguments.turns, "jobs": arguments.jobs, "kills": arguments.kills}
    given["duration_s"] = arguments.duration
    settings = replace(settings, mutant=arguments.mutant, **{k: v for k, v in given.items() if v is not None})
    results = []
    sys.stdout.write(f"{' | '.join(HEADS)}\n")
    for number in range(arguments.runs):
        one = replace(settings, seed=arguments.seed + number)
        results.append(_one(one, keep=arguments.keep, of=f"run {number + 1}/{arguments.runs}, seed {one.seed}"))
        if arguments.markdown is not None:
            # After each run: a campaign takes long, and one that is broken off has something to show.
            write_markdown(arguments.markdown, results, _command(arguments))
    if len(results) > 1:
        sys.stdout.write(f"\n{table(results)}\n")
    sys.exit(0 if all(result.verdict.is_good for result in results) else 1)


def _one(settings: Settings, *, keep: bool, of: str) -> Result:
    folder = Path(tempfile.mkdtemp(prefix=f"turnstone-chaos-{settings.seed}-"))
    progress = Progress(of)
    try:
        result = run(settings, folder, progress)
    finally:
        progress.close()
    sys.stdout.write(f"{' | '.join(row(result))}\n")
    lines = result.verdict.lines()
    if lines:
        kinds_found = sorted({violation.kind for violation in result.verdict.findings.violations})
        sys.stdout.write(f"  {len(lines)} violations ({', '.join(kinds_found)}); the evidence is in {folder}\n")
        sys.stdout.write("".join(f"  {line[:500]}\n" for line in lines[:_SHOWN]))
    elif keep:
        sys.stdout.write(f"  kept in {folder}\n")
    else:
        shutil.rmtree(folder)
    sys.stdout.flush()
    return result


def _command(arguments: argparse.Namespace) -> str:
    """How to have the same again."""
    given = {"RUNS": arguments.runs, "SEED": arguments.seed, "TURNS": arguments.turns, "KILLS": arguments.kills}
    return " ".join(["make chaos", *(f"{name}={value}" for name, value in given.items() if value is not None)])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Kill everything at random while turns run, and judge what is left.")
    parser.add_argument("--seed", type=int, default=1, help="of the first run; the next ones count on")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--turns", type=int, help="per run (500)")
    parser.add_argument("--jobs", type=int, help="insert jobs per run (120)")
    parser.add_argument("--kills", type=int, help="SIGKILLs per run (50)")
    parser.add_argument("--duration", type=float, help="seconds over which faults and submits are spread (70)")
    parser.add_argument("--mutant", choices=MUTANTS, help="switch a safeguard off: the oracle has to find it")
    parser.add_argument("--control", choices=MUTANTS, help="the faults of that mutant, with the safeguard in place")
    parser.add_argument("--markdown", type=Path, help="write the table into this page")
    parser.add_argument("--keep", action="store_true", help="keep the folder of a good run as well")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("stopped; nothing of it runs any more")
