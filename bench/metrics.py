"""What the product's own metrics say of a stretch of time."""

import re

from bench.stats import number
from bench.systems.processes import get
from bench.systems.turnstone import Stack

_SAMPLE = re.compile(r"^(turnstone_\w+)_(sum|count)(?:\{[^}]*\})? (\S+)$", re.MULTILINE)
_SECONDS = "_seconds"


class Means:
    """Means of all histograms, of workers and API, since this was made."""

    def __init__(self, stack: Stack) -> None:
        self._urls = [*stack.metrics_urls, f"{stack.url}/metrics"]
        self._before = self._read()

    def since(self) -> str:
        now = self._read()
        found = []
        for name in sorted({name for name, _ in now}):
            total, count = (now[name, part] - self._before.get((name, part), 0.0) for part in ("sum", "count"))
            if count:
                is_time = name.endswith(_SECONDS)
                mean = f"{number(1000 * total / count)} ms" if is_time else number(total / count)
                found.append(f"{name.removeprefix('turnstone_').removesuffix(_SECONDS)} {mean}")
        return ", ".join(found)

    def _read(self) -> dict[tuple[str, str], float]:
        read: dict[tuple[str, str], float] = {}
        for url in self._urls:
            for name, part, value in _SAMPLE.findall(get(url)):
                read[name, part] = read.get((name, part), 0.0) + float(value)
        return read
