"""What a run has found: figures with their goals, points for the plots, and what has to be said beside them."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from bench.stats import cell, number

OURS = "turnstone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What our median shall be: at most, or at least."""

    at_most: float | None = None
    at_least: float | None = None

    def __str__(self) -> str:
        return f"<= {number(self.at_most)}" if self.at_most is not None else f">= {number(self.at_least or 0)}"

    def met(self, value: float) -> bool:
        return value <= self.at_most if self.at_most is not None else value >= (self.at_least or 0)

    def miss(self, value: float) -> float:
        """By which factor it is missed; 1 and less is met."""
        if self.at_most is not None:
            return value / self.at_most
        return (self.at_least or 0) / value if value else float("inf")


@dataclass(slots=True, kw_only=True)
class Figure:
    """One line of the table: a value per system and repeat."""

    name: str
    unit: str
    goal: Goal | None = None
    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, system: str, value: float) -> None:
        self.values.setdefault(system, []).append(value)

    def verdict(self) -> str:
        """Whether our median meets the goal."""
        if self.goal is None or OURS not in self.values:
            return ""
        value = median(self.values[OURS])
        return "yes" if self.goal.met(value) else f"NO, {self.goal.miss(value):.1f}x"


@dataclass(slots=True, kw_only=True)
class Section:
    """Figures that belong together, and notes under them."""

    title: str
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def figure(self, name: str, unit: str, goal: Goal | None = None) -> Figure:
        """The figure of that name, made with its first use."""
        for figure in self.figures:
            if figure.name == name:
                return figure
        self.figures.append(Figure(name=name, unit=unit, goal=goal))
        return self.figures[-1]

    def note(self, words: str) -> None:
        if words not in self.notes:
            self.notes.append(words)


@dataclass(slots=True, kw_only=True)
class Point:
    """A point of a plot."""

    plot: str
    system: str
    x: float
    y: float


@dataclass(slots=True, kw_only=True)
class Results:
    """Everything that one run has found. `about` says where, when and with what."""

    about: dict[str, Any]
    sections: list[Section] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)

    def section(self, title: str) -> Section:
        for section in self.sections:
            if section.title == title:
                return section
        self.sections.append(Section(title=title))
        return self.sections[-1]

    def point(self, plot: str, system: str, x: float, y: float) -> None:
        self.points.append(Point(plot=plot, system=system, x=x, y=y))

    def as_json(self) -> bytes:
        return json.dumps(
            {
                "about": self.about,
                "sections": [_section_as_json(section) for section in self.sections],
                "points": [[point.plot, point.system, point.x, point.y] for point in self.points],
            },
            indent=1,
        ).encode()

    def table(self) -> str:
        """The figures as Markdown."""
        return "\n\n".join("\n".join(_lines(section)) for section in self.sections if section.figures or section.notes)

    def missed(self) -> list[Figure]:
        return [figure for section in self.sections for figure in section.figures if figure.verdict().startswith("NO")]


def _section_as_json(section: Section) -> dict[str, Any]:
    return {
        "title": section.title,
        "notes": section.notes,
        "figures": [
            {
                "name": figure.name,
                "unit": figure.unit,
                "goal": "" if figure.goal is None else str(figure.goal),
                "met": figure.verdict(),
                "values": {system: [round(value, 4) for value in found] for system, found in figure.values.items()},
            }
            for figure in section.figures
        ],
    }


def _lines(section: Section) -> Iterable[str]:
    yield f"## {section.title}"
    yield ""
    figures = [figure for figure in section.figures if figure.values]
    if figures:
        systems = list(dict.fromkeys(system for figure in figures for system in figure.values))
        systems.sort(key=lambda system: not system.startswith(OURS))
        yield "| | goal | met | " + " | ".join(systems) + " |"
        yield "|---" * (3 + len(systems)) + "|"
        for figure in figures:
            cells = [cell(figure.values[system]) if system in figure.values else "" for system in systems]
            goal = "" if figure.goal is None else str(figure.goal)
            yield f"| {figure.name}, {figure.unit} | {goal} | {figure.verdict()} | {' | '.join(cells)} |"
    for note in section.notes:
        yield ""
        yield note
