"""What clients saw, against the log: readers, GET, and the sessions' order."""

import json
from collections import Counter, defaultdict
from itertools import pairwise

from chaos.evidence import Accepted, Entry, Evidence, Json, Read
from chaos.findings import CALL, CONTENT, DOUBLED, MISSING, ORDER, READ, Findings
from chaos.log_checks import CLAIMS, TERMINAL, end_of, micros, payload_of

_WITH_TURN = (*TERMINAL, "turn_awaiting_input")
"""These are completed with the turn on the way out; the log does not hold it twice."""


def check_read(read: Read, log: list[Entry], turn: Json, findings: Findings) -> None:
    """A reader has read exactly the log, over all its connections."""
    who = f"{read.how}, {read.connections} connections"
    if read.resets:
        findings.add(READ, read.turn_id, f"{who}: {read.resets} resets, and the store has lost nothing")
    ids = [frame[0] for frame in read.frames]
    wanted = [f"{entry.seq}-{entry.epoch}" for entry in log]
    if not read.ended:
        # The turn is lost, which is found elsewhere; what its reader has is the log's beginning.
        wanted = wanted[: len(ids)]
    times = Counter(ids)
    if doubled := [one for one in times if times[one] > 1]:
        findings.add(DOUBLED, read.turn_id, f"{who}: read twice: {doubled}", times=len(doubled))
    if missing := [one for one in wanted if one not in times]:
        findings.add(MISSING, read.turn_id, f"{who}: not read: {missing}", times=len(missing))
    if foreign := [one for one in ids if one not in set(wanted)]:
        findings.add(READ, read.turn_id, f"{who}: read, and not in the log: {foreign}")
    if ids != wanted:
        if sorted(ids) == sorted(wanted):
            findings.add(READ, read.turn_id, f"{who}: read in another order")
        return
    for frame, entry in zip(read.frames, log, strict=False):
        _check_frame(frame, entry, turn, who, findings)


def _check_frame(frame: list[str], entry: Entry, turn: Json, who: str, findings: Findings) -> None:
    event_id, kind, text = frame
    payload = json.loads(text)
    shown = payload.pop("turn", None) if kind in _WITH_TURN else None
    if kind != entry.type or payload != payload_of(entry):
        findings.add(READ, turn.get("turn_id", "?"), f"{who}: {event_id} {kind} differs from the log: {text[:200]}")
    if kind in TERMINAL and "job_id" not in turn and shown != turn:
        findings.add(READ, turn.get("turn_id", "?"), f"{who}: the turn in {kind} differs from that of GET")


def check_turn(turn: Accepted, log: list[Entry], shown: Json, findings: Findings) -> None:
    """GET says what the log says."""
    end = end_of(log)
    if end is None:
        return
    expected = {
        "turn_id": turn.turn_id,
        "session_id": turn.session_id,
        "status": TERMINAL[end.type],
        "attempts": sum(entry.type in CLAIMS for entry in log),
        "completed_at": payload_of(end)["completed_at"],
    }
    for name, value in expected.items():
        if shown.get(name) != value:
            findings.add(CONTENT, turn.turn_id, f"GET has {name} {shown.get(name)!r}, and the log {value!r}")
    finished = [payload_of(entry)["step_details"] for entry in log if entry.type == "step_complete"]
    steps = [step for step in shown.get("steps", []) if step["completed_at"] is not None]
    if steps != finished:
        findings.add(
            CONTENT, turn.turn_id, f"GET has {len(steps)} finished steps, which are not the log's {len(finished)}"
        )
    answer = shown.get("output_message", {}).get("content")
    if end.type == "turn_complete" and answer != turn.answer:
        findings.add(CONTENT, turn.turn_id, f"GET has the answer {answer!r}")


def check_resumes(turn: Accepted, log: list[Entry], findings: Findings) -> None:
    """Each rest of a turn is ended once at most, by what its client said."""
    resting = False
    told = []
    for entry in log:
        if entry.type == "turn_awaiting_input":
            resting = True
        elif entry.type == "turn_resumed":
            if not resting:
                findings.add(CALL, turn.turn_id, f"resumed at {entry.seq}, and it did not wait")
            resting = False
            told.append({one["call_id"]: one["content"] for one in payload_of(entry)["tool_responses"]})
    for resume in turn.resumes:
        if told.count(resume["responses"]) != 1:
            findings.add(CALL, turn.turn_id, f"a resume that was answered 202 is {told.count(resume['responses'])}"
                                             " times in the log")  # fmt: skip


def check_sessions(evidence: Evidence, findings: Findings) -> None:
    """A session holds what was accepted, in the order of acceptance, and its turns ran one after the other."""
    sessions: dict[str, list[Accepted]] = defaultdict(list)
    for turn in evidence.accepted:
        sessions[turn.session_id].append(turn)
    for session_id, turns in sessions.items():
        accepted = [turn.turn_id for turn in turns]
        listed = evidence.sessions.get(session_id)
        if listed != accepted:
            findings.add(ORDER, session_id, f"accepted were {accepted}, and the session has {listed}")
        for before, after in pairwise(turns):
            _check_pair(before, after, evidence, findings)


def _check_pair(before: Accepted, after: Accepted, evidence: Evidence, findings: Findings) -> None:
    end = end_of(evidence.logs.get(before.turn_id, []))
    start = next((entry for entry in evidence.logs.get(after.turn_id, []) if entry.type == "turn_start"), None)
    if start is None:
        return
    if end is None:
        findings.add(ORDER, after.turn_id, f"started, and {before.turn_id} before it has not ended")
    elif start.epoch < (ended := micros(payload_of(end)["completed_at"])):
        # The epoch is the time of the claim by the store's clock, and the end is stamped before it is written.
        findings.add(ORDER, after.turn_id, f"started {(ended - start.epoch) / 1e6:.6f} s before {before.turn_id} ended")
