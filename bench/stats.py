"""The arithmetic of the figures."""

import math
from collections.abc import Iterable, Sequence
from statistics import median


def percentile(values: Iterable[float], part: float) -> float:
    """The smallest value that is at least as large as this part of all (nearest rank). Raises ValueError on none."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values")
    return ordered[max(1, math.ceil(part * len(ordered))) - 1]


def added_ms(times_us: Sequence[float], direct_us: Sequence[float], part: float) -> float:
    """What a system adds, in ms: this percentile of its times less the median of the direct ones."""
    return (percentile(times_us, part) - median(direct_us)) / 1000


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Of the line through the first and the last point."""
    (x, y), (x_last, y_last) = points[0], points[-1]
    return (y_last - y) / (x_last - x)


def number(value: float) -> str:
    """With as many digits as one can mean."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def cell(values: Sequence[float]) -> str:
    """The median, and of several the lowest and the highest behind it."""
    middle = number(median(values))
    return middle if len(values) == 1 else f"{middle} ({number(min(values))} to {number(max(values))})"
