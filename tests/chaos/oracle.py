"""Judges a run by what was left behind. Knows nothing of the code that it judges: it imports none of it.

As a command it judges a run that was kept: `python tests/chaos/oracle.py FOLDER`.
"""

import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))

from chaos.bank_checks import check_banks
from chaos.effect_checks import check_effects
from chaos.evidence import Entry, Evidence, Injected, Work
from chaos.findings import ANSWER, OWNER, UNEXPLAINED, Findings
from chaos.job_checks import check_jobs
from chaos.log_checks import check_log
from chaos.retrieval_checks import check_retrievals
from chaos.view_checks import check_read, check_resumes, check_sessions, check_turn

_SLACK_S = 0.5
"""Who notes a fault, or an owner, does so a little before or after it is so."""


@dataclass(frozen=True)
class Verdict:
    """What was found in a run. `gaps` are the seconds between a worker's SIGKILL and the next event of its turns."""

    findings: Findings
    gaps: list[float]

    @property
    def is_good(self) -> bool:
        return not self.findings.violations

    def lines(self) -> list[str]:
        return [str(violation) for violation in self.findings.violations]


def judge(evidence: Evidence) -> Verdict:
    """Check everything."""
    findings = Findings()
    for line in evidence.refused:
        findings.add(ANSWER, "-", line)
    for turn in evidence.accepted:
        log = evidence.logs.get(turn.turn_id, [])
        check_log(turn, log, findings)
        check_turn(turn, log, evidence.turns.get(turn.turn_id, {}), findings)
        check_resumes(turn, log, findings)
    for read in evidence.reads:
        check_read(read, evidence.logs.get(read.turn_id, []), evidence.turns.get(read.turn_id, {}), findings)
    check_sessions(evidence, findings)
    check_effects(evidence, findings)
    check_jobs(evidence, findings)
    check_banks(evidence, findings)
    check_retrievals(evidence, findings)
    _check_owners(evidence, findings)
    _check_recoveries(evidence, findings)
    findings.counts["turns"] = len(evidence.accepted)
    findings.counts["events"] = sum(map(len, evidence.logs.values()))
    findings.counts["reads"] = len(evidence.reads)
    findings.counts["connections"] = sum(read.connections for read in evidence.reads)
    return Verdict(findings, sorted(_gaps(evidence)))


def _check_owners(evidence: Evidence, findings: Findings) -> None:
    owners: dict[tuple[str, int], set[str]] = defaultdict(set)
    for turn_id, epoch, worker in evidence.owners:
        owners[(turn_id, epoch)].add(worker)
    for (turn_id, epoch), workers in owners.items():
        if len(workers) > 1:
            findings.add(OWNER, turn_id, f"epoch {epoch} is of {sorted(workers)}")


def _check_recoveries(evidence: Evidence, findings: Findings) -> None:
    """A turn is taken over from a worker that something was done to, and from no other."""
    seen: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for turn_id, epoch, worker in evidence.owners:
        seen[turn_id].append((epoch, worker))
    for turn in evidence.work():
        log = evidence.logs.get(turn.turn_id, [])
        recoveries = [entry for entry in log if entry.type == "turn_recovered"]
        findings.counts[f"recovered {'jobs' if turn in evidence.jobs else 'turns'}"] += bool(recoveries)
        findings.counts["recoveries"] += len(recoveries)
        for entry in recoveries:
            _check_recovery(turn, log, entry, seen[turn.turn_id], evidence.faults, findings)


def _check_recovery(
    turn: Work,
    log: list[Entry],
    entry: Entry,
    owners: list[tuple[int, str]],
    faults: list[Injected],
    findings: Findings,
) -> None:
    claimed = max(other.epoch for other in log if other.seq < entry.seq)
    epoch, owner = max(((e, w) for e, w in owners if e < entry.epoch), default=(0, ""))
    if epoch < claimed:
        owner = ""  # its owner was not seen: any worker may have been it
    else:
        claimed = epoch
    begun, taken = claimed / 1e6 - _SLACK_S, entry.epoch / 1e6 + _SLACK_S
    for fault in faults:
        concerns = not fault.victim or not owner or fault.victim == owner
        if concerns and fault.at <= taken and (fault.until is None or fault.until >= begun):
            return
    findings.add(
        UNEXPLAINED,
        turn.turn_id,
        f"at {entry.seq} from {owner or 'somebody'}, {taken - begun - 1:.1f} s after its claim",
    )


def _gaps(evidence: Evidence) -> list[float]:
    """From a worker's SIGKILL to the next claim, or end, of each turn that it had: epochs are µs of server time."""
    gaps = []
    for fault in evidence.faults:
        for turn_id, epoch in fault.owned:
            later = [entry.epoch for entry in evidence.logs.get(turn_id, []) if entry.epoch > epoch]
            if later:
                gaps.append(later[0] / 1e6 - fault.at)
    return gaps


def main() -> None:
    verdict = judge(Evidence.load(Path(sys.argv[1]) / "evidence.json"))
    sys.stdout.write("\n".join([*verdict.lines(), str(dict(verdict.findings.counts)), ""]))
    sys.exit(0 if verdict.is_good else 1)


if __name__ == "__main__":
    main()
