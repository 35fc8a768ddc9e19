"""Plots of a run, as SVG files that are small enough for git."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from bench.figures import Point, Results

BARS = {"turns/s": "64-token turns/s, 64 in flight", "tokens/s": "tokens/s, 2,000-token replies, 8 in flight"}
LINES = {
    "added delay": ("added delay between tokens, p99 (ms)", "added-delay.svg"),
    "memory": ("memory without the store (MB)", "memory.svg"),
}


def draw(results: Results, folder: Path) -> list[Path]:
    """Draw what the run has points for; the files. Raises ImportError without matplotlib."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "bench"  # the same figures, the same file
    bars = [plot for plot in BARS if any(point.plot == plot and point.y > 0 for point in results.points)]
    drawn = [_bars(results, bars, folder)] if bars else []
    for plot, (words, name) in LINES.items():
        points = [point for point in results.points if point.plot == plot and point.y > 0]
        if points:
            drawn.append(_lines(points, words, folder / name))
    return drawn


def _bars(results: Results, plots: Sequence[str], folder: Path) -> Path:
    from matplotlib import pyplot

    figure, places = pyplot.subplots(1, len(plots), figsize=(4.5 * len(plots), 3), squeeze=False)
    for place, plot in zip(places[0], plots, strict=True):
        found = _by_system([point for point in results.points if point.plot == plot])
        values = [median(point.y for point in points) for points in found.values()]
        bars = place.bar(list(found), values)
        place.bar_label(bars, [f"{value:,.0f}" for value in values])
        place.set_yscale("log")
        place.set_title(BARS[plot], fontsize=9)
        place.margins(y=0.2)
    return _saved(figure, folder / "throughput.svg")


def _lines(points: Sequence[Point], words: str, path: Path) -> Path:
    from matplotlib import pyplot

    figure, place = pyplot.subplots(figsize=(6, 3.5))
    for system, its in _by_system(points).items():
        levels = sorted({point.x for point in its})
        place.plot(
            levels, [median(point.y for point in its if point.x == level) for level in levels], "o-", label=system
        )
    place.set_xscale("log")
    place.set_yscale("log")
    place.set_xlabel("replies at once")
    place.set_ylabel(words, fontsize=9)
    place.legend()
    return _saved(figure, path)


def _by_system(points: Sequence[Point]) -> dict[str, list[Point]]:
    found: dict[str, list[Point]] = {}
    for point in points:
        found.setdefault(point.system, []).append(point)
    return found


def _saved(figure: "object", path: Path) -> Path:
    figure.tight_layout()  # type: ignore[attr-defined]
    figure.savefig(path, metadata={"Date": None})  # type: ignore[attr-defined]
    return path
