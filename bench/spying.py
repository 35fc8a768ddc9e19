"""Where a running process spends its CPU, by function: py-spy's samples, added up."""

import asyncio
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

TOP = 18
RATE = 200
PY_SPY = Path(sys.executable).with_name("py-spy")


async def spy(pid: int, seconds: float) -> str:
    """A table of functions by their own samples, and of our functions with what they called; or why there is none."""
    if not PY_SPY.exists():
        return "py-spy is not installed (pip install --group bench)."
    with tempfile.TemporaryDirectory(prefix="spy-") as folder:
        output = Path(folder) / "samples"
        options = ["-d", str(int(seconds)), "-r", str(RATE), "-f", "raw", "-o", str(output), "-p", str(pid)]
        process = await asyncio.create_subprocess_exec(
            str(PY_SPY), "record", "--nonblocking", *options, stdout=-3, stderr=asyncio.subprocess.PIPE
        )
        _, errors = await process.communicate()
        if not output.exists():
            return f"py-spy cannot look into it: {errors.decode()[-300:]}"
        return table(output.read_text().splitlines(), wanted=seconds * RATE)


def table(lines: Iterable[str], *, wanted: float) -> str:
    """Of samples such as `f (a.py:1);g (b.py:2) 17`: what is on top, and what is below it."""
    own: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    for line in lines:
        stack, _, count = line.rpartition(" ")
        frames = [_function(frame) for frame in stack.split(";")]
        own[frames[-1]] += int(count)
        for frame in dict.fromkeys(frames):
            whole[frame] += int(count)
    total = sum(own.values()) or 1
    rows = ["| own | function | with what it calls | function |", "|---|---|---|---|"]
    for (top, its), (below, theirs) in zip(own.most_common(TOP), whole.most_common(TOP), strict=False):
        rows.append(f"| {100 * its / total:.0f} % | {top} | {100 * theirs / total:.0f} % | {below} |")
    return "\n".join([f"{total} samples on the CPU, of {wanted:.0f}.", "", *rows])


def _function(frame: str) -> str:
    """`name (path/to/file.py:12)` without the line and the way to the file."""
    name, _, place = frame.partition(" (")
    if not place:
        return name or "(no Python function)"
    path = place.rstrip(")").rpartition(":")[0] or place.rstrip(")")
    return f"{name} ({'/'.join(path.split('/')[-2:])})"
