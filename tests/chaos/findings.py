"""What the oracle found: violations, each with its kind, its turn and the evidence."""

from collections import Counter
from dataclasses import dataclass, field

LOST = "lost"
MISSING = "missing event"
DOUBLED = "doubled event"
SECOND_END = "second terminal record"
WRONG_END = "wrong end"
NEVER_TWICE = "never tool run twice"
EFFECT = "effect"
EPOCH = "epoch"
STEP = "step"
CALL = "call"
CONTENT = "content"
READ = "read"
ORDER = "order"
OWNER = "two owners"
UNEXPLAINED = "taken over without a fault"
ANSWER = "answer of the API"
JOB = "insert job"
BANK = "bank"
MEMORY = "memory in a turn"


@dataclass(frozen=True)
class Violation:
    """Something that must not be."""

    kind: str
    turn_id: str
    evidence: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.turn_id}: {self.evidence}"


@dataclass
class Findings:
    """Violations as they are found, and what was counted on the way."""

    violations: list[Violation] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, kind: str, turn_id: str, evidence: str, *, times: int = 1) -> None:
        """Note a violation, which counts `times` of its kind."""
        self.violations.append(Violation(kind, turn_id, evidence))
        self.counts[kind] += times
