"""Figures out of outcomes, and the table that shows them. All comparisons are within one repeat of one run."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from load import Load, Outcome

DIRECT = "direct"


@dataclass(slots=True, kw_only=True)
class Measured:
    """One load on one target, in one repeat. `cpu_s` is by room; for the floor it is the reading process."""

    load: str
    target: str
    repeat: int
    replies: int
    errors: int
    tokens: int
    events: int
    seconds: float
    cpu_s: dict[str, float] = field(default_factory=dict)
    first_us: list[int] = field(default_factory=list)
    ages_us: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, load: str, target: str, repeat: int, outcome: Outcome, cpu_s: dict[str, float]) -> "Measured":
        replies = outcome.replies
        return cls(
            load=load,
            target=target,
            repeat=repeat,
            replies=len(replies),
            errors=outcome.errors,
            tokens=sum(reply.tokens for reply in replies),
            events=sum(reply.events for reply in replies),
            seconds=outcome.seconds,
            cpu_s=cpu_s,
            first_us=[reply.first_token for reply in replies],
            ages_us=[age for reply in replies for age in reply.ages],
        )

    def cpu_us_per_token(self, *rooms: str) -> float:
        """Of the named rooms; of all without names."""
        return sum(self.cpu_s[room] for room in rooms or self.cpu_s) * 1e6 / max(self.tokens, 1)

    def as_json(self) -> dict[str, Any]:
        """Without the single times, which are thousands."""
        row = {name: value for name, value in asdict(self).items() if name not in ("first_us", "ages_us")}
        return {**row, "first_ms": spread(self.first_us), "token_delay_ms": spread(self.ages_us)}


@dataclass(slots=True, kw_only=True)
class Run:
    """Everything that one run has measured. `about` says where and with what, `idle_cpu` is in % of a core."""

    about: dict[str, Any]
    loads: dict[str, Load]
    idle_cpu: dict[str, float] = field(default_factory=dict)
    rss_mb: dict[str, float] = field(default_factory=dict)
    rows: list[Measured] = field(default_factory=list)

    def of(self, load: str, target: str) -> list[Measured]:
        return [row for row in self.rows if (row.load, row.target) == (load, target)]

    def targets(self, load: str) -> list[str]:
        return list(dict.fromkeys(row.target for row in self.rows if row.load == load))

    def added_ms(self, load: str, target: str, times: Callable[[Measured], Sequence[int]]) -> dict[str, float]:
        """Quantiles of what the target took beyond the direct median of the same repeat, over all repeats."""
        base = {row.repeat: median(times(row)) for row in self.of(load, DIRECT) if times(row)}
        return spread(us - base[row.repeat] for row in self.of(load, target) for us in times(row))

    def as_json(self) -> bytes:
        document = {
            "about": self.about,
            "loads": {name: asdict(load) for name, load in self.loads.items()},
            "idle_cpu_percent": self.idle_cpu,
            "rss_mb": self.rss_mb,
            "rows": [row.as_json() for row in self.rows],
            "table": self.table().splitlines(),
        }
        return json.dumps(document, indent=1).encode() + b"\n"

    def table(self) -> str:
        """The figures as a Markdown document."""
        parts = [*self._times(), "", *self._cpu(), "", *self._rates(), ""]
        idle = ", ".join(f"{room} {used:.1f} %" for room, used in self.idle_cpu.items())
        memory = ", ".join(f"{room} {mb:.0f} MB" for room, mb in self.rss_mb.items())
        errors = sum(row.errors for row in self.rows)
        return "\n".join(
            [*parts, f"Idle, CPU of a core: {idle}.", f"Memory at the end: {memory}.", f"Errors: {errors}."]
        )

    def _times(self) -> Iterable[str]:
        yield "| added time (ms) | target | direct p50 / p99 | added p50 / p99 |"
        yield "|---|---|---|---|"
        for load in self.loads:
            for what, times in (("first token", _first), ("each token", _ages)):
                for target in self.targets(load):
                    if target in (DIRECT, "floor") or (what == "each token" and not self.loads[load].plan.token_ms):
                        continue
                    direct = spread(us for row in self.of(load, DIRECT) for us in times(row))
                    added = self.added_ms(load, target, times)
                    yield f"| {what}, {load} | {target} | {_pair(direct)} | {_pair(added)} |"

    def _cpu(self) -> Iterable[str]:
        yield "| CPU per token (µs) | target | worker | api | store | all three | httpx | ratio | tokens per event |"
        yield "|---|---|---|---|---|---|---|---|---|"
        for load in self.loads:
            floors = {row.repeat: row.cpu_us_per_token() for row in self.of(load, "floor")}
            for target in self.targets(load):
                rows = [row for row in self.of(load, target) if row.cpu_s and target != "floor" and row.tokens]
                if not rows or not floors:
                    continue
                rooms = " | ".join(_middle(row.cpu_us_per_token(room) for row in rows) for room in ROOMS)
                total = _middle(row.cpu_us_per_token(*ROOMS) for row in rows)
                ratio = median(row.cpu_us_per_token(*ROOMS) / floors[row.repeat] for row in rows)
                merged = median(row.tokens / row.events for row in rows)
                floor = _middle(floors.values())
                yield f"| {load} | {target} | {rooms} | {total} | {floor} | {ratio:.2f} | {merged:.1f} |"

    def _rates(self) -> Iterable[str]:
        yield "| rate | target | replies/s | tokens/s |"
        yield "|---|---|---|---|"
        for load, shape in self.loads.items():
            for target in self.targets(load):
                rows = [row for row in self.of(load, target) if row.tokens]
                if shape.plan.token_ms or shape.in_flight == 1 or not rows:
                    continue
                replies = _middle(row.replies / row.seconds for row in rows)
                yield f"| {load} | {target} | {replies} | {_middle(row.tokens / row.seconds for row in rows)} |"


ROOMS = ("worker", "api", "store")


def spread(times_us: Iterable[float]) -> dict[str, float]:
    """p50, p99 and their count, in ms."""
    ordered = sorted(times_us)
    if not ordered:
        return {}
    last = len(ordered) - 1
    p50, p99 = (ordered[round(last * part)] / 1000 for part in (0.5, 0.99))
    return {"p50": round(p50, 2), "p99": round(p99, 2), "count": len(ordered)}


def _first(row: Measured) -> Sequence[int]:
    return row.first_us


def _ages(row: Measured) -> Sequence[int]:
    return row.ages_us


def _pair(quantiles: dict[str, float]) -> str:
    return f"{quantiles['p50']:.1f} / {quantiles['p99']:.1f}" if quantiles else "none"


def _middle(values: Iterable[float]) -> str:
    """The median, with the lowest and highest repeat behind it."""
    ordered = sorted(values)
    return f"{median(ordered):,.0f} ({ordered[0]:,.0f} to {ordered[-1]:,.0f})"
