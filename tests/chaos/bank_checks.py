"""The banks at the end of a run: of every document exactly the chunks of the last writer that counts."""

from collections import defaultdict
from itertools import combinations

from chaos.evidence import Evidence, Json
from chaos.findings import BANK, Findings
from chaos.memory_plans import MEANINGS, PASSING, WORDS
from chaos.writes import Ran, Write, admissible, ran_jobs, writes_by_document


def check_banks(evidence: Evidence, findings: Findings) -> None:
    """Every document of every bank, there or not, and what else lies in the file."""
    for stray in evidence.strays:
        findings.add(BANK, "-", stray)
    rans = ran_jobs(evidence)
    _check_places(rans, findings)
    writes = writes_by_document(rans, evidence.renewals)
    if evidence.jobs and set(evidence.banks) != {MEANINGS, WORDS, PASSING}:
        findings.add(BANK, "-", f"the banks are {sorted(evidence.banks)}")
    for bank_id, chunks in evidence.banks.items():
        documents: dict[str, list[Json]] = defaultdict(list)
        for chunk in chunks:
            documents[chunk["document_id"]].append(chunk)
        for document_id in documents.keys() | {name for bank, name in writes if bank == bank_id}:
            where = f"{bank_id}/{document_id}"
            _check_document(where, documents.get(document_id, []), writes.get((bank_id, document_id), []), findings)
        findings.counts["stored documents"] += len(documents)
    findings.counts["documents"] += sum(len(job.documents) for job in evidence.jobs)
    findings.counts["replaced writes"] += sum(len(them) - 1 for them in writes.values() if them)


def _check_document(where: str, chunks: list[Json], writes: list[Write], findings: Findings) -> None:
    winners, may_be_absent = admissible(writes)
    findings.counts["documents with one admissible writer"] += len(winners) + may_be_absent == 1
    findings.counts["documents with several"] += len(winners) + may_be_absent > 1
    if not chunks:
        if not may_be_absent:
            findings.add(BANK, where, f"is not there, and {_told(winners)} stored it")
        return
    found = [(chunk["position"], chunk["content"]) for chunk in chunks]
    for winner in winners:
        if found == list(enumerate(winner.planned["chunks"])):
            writer = winner.ran.number
            if {chunk["writer"] for chunk in chunks} != {writer}:
                findings.add(BANK, where, f"its writer is noted as {chunks[0]['writer']}, and the job's is {writer}")
            return
    names = sorted({str(chunk["metadata"].get("write")) for chunk in chunks})
    what = f"{len(chunks)} chunks of {', '.join(names)}, at {[position for position, _ in found]}"
    findings.add(BANK, where, f"has {what}; admissible: {_told(winners)}{' or nothing' if may_be_absent else ''}")


def _check_places(rans: list[Ran], findings: Findings) -> None:
    """Each job has a place of its own, and one that began when another had ended has a later one."""
    for one, other in combinations([ran for ran in rans if ran.number is not None], 2):
        if one.number == other.number:
            findings.add(BANK, one.job.turn_id, f"writes at the same place as {other.job.turn_id}: {one.number}")
        if one.job.bank_id != other.job.bank_id:
            continue
        earlier, later = (one, other) if one.ended < other.begun else (other, one)
        if earlier.ended < later.begun and not earlier.before(later):
            findings.add(BANK, later.job.turn_id, f"began after {earlier.job.turn_id}, and its place is before that")


def _told(writes: list[Write]) -> str:
    return " or ".join(f"{write.planned['write']} ({write.ran.job.turn_id})" for write in writes) or "nobody"
