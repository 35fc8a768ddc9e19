"""Rows of the table that a campaign makes, on the terminal and for the page."""

import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from chaos import schedule as kinds
from chaos.findings import DOUBLED, LOST, MISSING, NEVER_TWICE, SECOND_END
from chaos.run import Result

BEGIN, END = "<!-- campaign -->", "<!-- /campaign -->"
_NAMED = (LOST, MISSING, DOUBLED, SECOND_END, NEVER_TWICE)
HEADS = ("seed", "turns", "events", "insert jobs", "documents",
         "SIGKILLs: workers + heartbeats + API + store + memory workers", "stops", "drains", "stalls, cuts",
         "replies lost", "hints dropped", "lost turns", "missing events", "doubled events", "second ends",
         "never tools twice", "other violations", "turns taken over", "jobs taken over", "outcomes unknown",
         "back after SIGKILL p50 / p99 / max, s", "seconds")  # fmt: skip


def row(result: Result) -> list[str]:
    """One run."""
    evidence, findings = result.evidence, result.verdict.findings
    done = Counter(fault.kind for fault in evidence.faults)
    named = [findings.counts[kind] for kind in _NAMED]
    others = sum(violation.kind not in _NAMED for violation in findings.violations)
    kills = _kills(result)
    return [
        str(evidence.seed),
        str(findings.counts["turns"]),
        str(findings.counts["events"]),
        str(findings.counts["jobs"]),
        str(findings.counts["documents"]),
        f"{sum(kills)}: {' + '.join(map(str, kills))}",
        str(done[kinds.STOP_WORKER] + done[kinds.STOP_MEMORY]),
        str(done[kinds.DRAIN_WORKER] + done[kinds.DRAIN_API] + done[kinds.DRAIN_MEMORY]),
        str(done[kinds.STALL_LINK] + done[kinds.CUT_LINK]),
        str(evidence.replies_lost),
        str(done[kinds.DROP_HINTS]),
        *map(str, named),
        str(others),
        str(findings.counts["recovered turns"]),
        str(findings.counts["recovered jobs"]),
        str(findings.counts["unknown outcomes"]),
        gaps(result.verdict.gaps),
        f"{evidence.seconds:.0f}",
    ]


def total(results: Sequence[Result]) -> list[str]:
    """All runs together."""
    rows = [row(result) for result in results]
    kills = [sum(column) for column in zip(*(_kills(result) for result in results), strict=True)]
    together = [str(sum(int(cell) for cell in column)) if all(cell.isdigit() for cell in column) else ""
                for column in zip(*rows, strict=True)]  # fmt: skip
    together[0] = "all"
    together[5] = f"{sum(kills)}: {' + '.join(map(str, kills))}"
    together[-2] = gaps(sorted(gap for result in results for gap in result.verdict.gaps))
    return together


def gaps(found: Sequence[float]) -> str:
    """Median, 99th percentile and maximum of sorted times."""
    if not found:
        return "-"
    at = [found[min(len(found) - 1, int(part * len(found)))] for part in (0.5, 0.99)]
    return f"{at[0]:.1f} / {at[1]:.1f} / {found[-1]:.1f}"


def table(results: Sequence[Result]) -> str:
    """The table in Markdown."""
    lines = [HEADS, ["---"] * len(HEADS), *map(row, results)]
    if len(results) > 1:
        lines.append(total(results))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_markdown(path: Path, results: Sequence[Result], command: str) -> None:
    """Put the table between the page's two marks. Raises ValueError where they are not there."""
    page = path.read_text()
    if BEGIN not in page or END not in page:
        raise ValueError(f"{path} has no {BEGIN} and {END} to put the table between")
    before, after = page.partition(BEGIN)[0], page.partition(END)[2]
    path.write_text(f"{before}{BEGIN}\n`{command}`, {time.strftime('%Y-%m-%d')}:\n\n{table(results)}\n{END}{after}")


def _kills(result: Result) -> list[int]:
    done = Counter(fault.kind for fault in result.evidence.faults)
    return [done[kind] for kind in (*kinds.KILLS, kinds.KILL_MEMORY)]


class Progress:
    """One line that moves on a terminal; in a pipe one line every ten seconds."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._moving = sys.stderr.isatty()
        self._next = 0.0
        self._begun = time.monotonic()

    def __call__(self, text: str) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + (0.5 if self._moving else 10.0)
        line = f"{self._label} {now - self._begun:4.0f} s: {text}"
        sys.stderr.write(f"\r\x1b[K{line}" if self._moving else f"{line}\n")
        sys.stderr.flush()

    def close(self) -> None:
        if self._moving:
            sys.stderr.write("\r\x1b[K")
