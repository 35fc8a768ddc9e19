"""`make instructions`: counts instructions of the hot path, and fails where a part has risen by more than a tenth.

    python -m bench.instructions            compare with what was recorded for this interpreter
    python -m bench.instructions --record   record

Each part runs under valgrind's callgrind in a process of its own, for so many units and for twice as many: the
difference is what the units cost, without start and imports. Two runs differ by a few instructions in a million, on a
busy machine too. Another interpreter or machine gives other counts, so each has a record of its own in `counts.json`.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.instructions import callgrind
from bench.instructions.loads import LOADS
from bench.instructions.script import count_append

ROOT = Path(__file__).resolve().parents[2]
COUNTS = Path(__file__).with_name("counts.json")
UNITS = 1000
RISE = 1.10

PARTS: dict[str, Callable[[], int]] = {
    **{name: lambda name=name: count(name) for name in LOADS},  # type: ignore[misc]
    "append": count_append,
}
"""What is counted: parts of the rooms, and the script `append` inside the store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Instructions per unit, now and as recorded (None: never)."""

    part: str
    now: int
    recorded: int | None

    @property
    def has_risen(self) -> bool:
        return self.recorded is not None and self.now > self.recorded * RISE

    def __str__(self) -> str:
        if self.recorded is None:
            return f"{self.part:10} {self.now:>9,} instructions per unit; never recorded for this interpreter"
        word = "TOO MANY" if self.has_risen else "fine"
        return f"{self.part:10} {self.now:>9,} instructions per unit, {self.recorded:,} recorded: {word}"


def interpreter() -> str:
    """What counts depend on."""
    return f"{platform.machine()}, {platform.python_implementation()} {sys.version}".replace("\n", "")


def missing() -> str:
    """Why nothing can be counted here, or ''."""
    return "" if shutil.which("valgrind") else "valgrind is not installed (for instance: apt install valgrind)"


def recorded() -> Mapping[str, int]:
    """What was recorded for this interpreter, by part."""
    found: dict[str, dict[str, int]] = json.loads(COUNTS.read_text()) if COUNTS.exists() else {}
    return found.get(interpreter(), {})


def look(part: str) -> Finding:
    return Finding(part=part, now=PARTS[part](), recorded=recorded().get(part))


def count(load: str) -> int:
    """Instructions per unit of a part of the rooms."""
    once, twice = (_instructions(load, units) for units in (UNITS, 2 * UNITS))
    return round((twice - once) / UNITS)


def _instructions(load: str, units: int) -> int:
    done = subprocess.run(
        [*callgrind.command(), sys.executable, "-m", "bench.instructions.loads", load, str(units)],
        cwd=ROOT,
        # The order of sets and dictionaries of texts, and so the work at them, would be another in each process.
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{load} failed:\n{done.stderr[-2000:]}")
    return callgrind.collected(done.stderr, load)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.instructions", description=__doc__)
    parser.add_argument("--record", action="store_true", help="keep these counts as what the next ones are compared to")
    options = parser.parse_args()
    if missing():
        sys.exit(f"Nothing is counted: {missing()}.")
    findings = []
    for part in PARTS:
        findings.append(look(part))
        print(findings[-1], flush=True)
    if options.record:
        _record({finding.part: finding.now for finding in findings})
    elif any(finding.has_risen for finding in findings):
        sys.exit(
            "Find what has become dearer (valgrind --tool=callgrind), or record the counts and say why it is worth it."
        )


def _record(counts: Mapping[str, int]) -> None:
    found = json.loads(COUNTS.read_text()) if COUNTS.exists() else {}
    COUNTS.write_text(json.dumps({**found, interpreter(): counts}, indent=1, sort_keys=True) + "\n")
    print(f"Recorded for {interpreter()}: {COUNTS.name}")


if __name__ == "__main__":
    main()
