"""What turns found in memory: documents that were there, once, as the model read it, and for that turn alone."""

from collections import defaultdict
from collections.abc import Sequence
from hashlib import sha256

from chaos.evidence import Accepted, Entry, Evidence, Json
from chaos.findings import MEMORY, Findings
from chaos.log_checks import CLAIMS, TERMINAL, end_of, payload_of, seconds
from chaos.plans import SEARCH
from chaos.writes import Write, could_be_found, ran_jobs, writes_by_document

RETRIEVAL = "memory_retrieval"
_HEAD = "From memory,"
_NOTHING = sha256(b"").hexdigest()
_SLACK_S = 0.005
"""Times of a log are rounded."""

Writes = dict[tuple[str, str], list[Write]]


def check_retrievals(evidence: Evidence, findings: Findings) -> None:
    """Every look into memory, by a turn or by its model, and every request to a model."""
    writes = writes_by_document(ran_jobs(evidence), [])
    asked: dict[str, list[Json]] = defaultdict(list)
    for one in evidence.asked:
        asked[one["key"]].append(one)
    for turn in evidence.accepted:
        log = evidence.logs.get(turn.turn_id, [])
        context = _check_steps(turn, log, writes, findings)
        _check_searches(turn, log, writes, findings)
        _check_asked(turn, log, context, asked[turn.key], findings)


def _check_steps(turn: Accepted, log: list[Entry], writes: Writes, findings: Findings) -> str | None:
    """The context of the turn's one look, which precedes its first reply."""
    finished = [payload_of(entry)["step_details"] for entry in log if entry.type == "step_complete"]
    looks = [details for details in finished if details["step_type"] == RETRIEVAL]
    if len(looks) > 1 or (looks and (not turn.remembers or finished[0] is not looks[0])):
        places = [place for place, details in enumerate(finished) if details["step_type"] == RETRIEVAL]
        findings.add(MEMORY, turn.turn_id, f"looked into memory at {places} of {len(finished)} steps")
    if turn.remembers and not looks and any(details["step_type"] == "inference" for details in finished):
        findings.add(MEMORY, turn.turn_id, "answered without the look into memory")
    for details in looks:
        text, citations = details["inserted_context"], details["citations"]
        _check_found(turn, details, text, citations, writes, findings)
        findings.counts["retrievals"] += 1
        findings.counts["citations"] += len(citations)
    return looks[0]["inserted_context"] if looks else None


def _check_searches(turn: Accepted, log: list[Entry], writes: Writes, findings: Findings) -> None:
    """What `knowledge_search` gave, whenever within its step it looked."""
    for entry in log:
        details = payload_of(entry).get("step_details") if entry.type == "step_complete" else None
        for response in details["tool_responses"] if details and details["step_type"] == "tool_execution" else ():
            metadata = response.get("metadata") or {}
            if response["tool_name"] == SEARCH and not metadata.get("error"):
                citations = metadata["citations"]
                text = response["content"] if citations else ""
                _check_found(turn, details, text, citations, writes, findings)
                findings.counts["searches"] += 1


def _check_found(
    turn: Accepted, step: Json, text: str, citations: Sequence[Json], writes: Writes, findings: Findings
) -> None:
    """Each citation is a chunk that was there then, and the text is made of exactly these chunks."""
    began, ended = seconds(step["started_at"]) - _SLACK_S, seconds(step["completed_at"]) + _SLACK_S
    parts = []
    for citation in citations:
        name = f"{citation['bank_id']}/{citation['document_id']}"
        of_document = writes.get((citation["bank_id"], citation["document_id"]), [])
        cited = [write for write in of_document if write.planned["write"] == citation["metadata"].get("write")]
        if not cited or citation["position"] >= len(cited[0].planned["chunks"]):
            findings.add(MEMORY, turn.turn_id, f"{step['step_id']} cites {name} {citation}, which nobody wrote")
            return
        if not could_be_found(cited[0], of_document, began=began, ended=ended):
            findings.add(MEMORY, turn.turn_id, f"{step['step_id']} cites {name} {citation}, which was not there then")
        parts.append(f"[{citation['document_id']}]\n{cited[0].planned['chunks'][citation['position']]}")
    head, *found = text.split("\n\n") if text else ["", *parts]
    if found != parts or (bool(parts) != head.startswith(_HEAD)):
        findings.add(MEMORY, turn.turn_id, f"{step['step_id']} cites {len(parts)} chunks, and its text has others")
    places = [(one["bank_id"], one["document_id"], one["position"]) for one in citations]
    if len(set(places)) < len(places):
        findings.add(MEMORY, turn.turn_id, f"{step['step_id']} cites a chunk twice: {places}")


def _check_asked(turn: Accepted, log: list[Entry], context: str | None, asked: list[Json], findings: Findings) -> None:
    """Models read what the step says. Requests of workers that lost the turn may have had what was never written."""
    wanted = sha256((context or "").encode()).hexdigest()
    if again := sum(one["earlier"] for one in asked):
        findings.add(MEMORY, turn.turn_id, f"its model read what was found for earlier turns, in {again} messages")
    replies = sum(
        entry.type == "step_complete" and payload_of(entry)["step_type"] == "inference" for entry in log
    )  # fmt: skip
    read = {one["round"] for one in asked if one["context"] == wanted}
    if missing := sorted(set(range(replies)) - read):
        findings.add(MEMORY, turn.turn_id, f"its model did not read the step's context for the replies {missing}")
    others = [one for one in asked if one["context"] != wanted]
    changed_hands = sum(entry.type in CLAIMS for entry in log) > 1
    was_lost = context is None and (end := end_of(log)) is not None and TERMINAL[end.type] != "completed"
    if not turn.remembers:
        others = [one for one in others if one["context"] != _NOTHING]
    if others and not (turn.remembers and (changed_hands or was_lost)):
        findings.add(MEMORY, turn.turn_id, f"its model read another context in {len(others)} of {len(asked)} requests")
