"""The campaign in short, and the oracle itself: whatever is wrong in the evidence, it finds."""

import json
from collections.abc import Callable
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

import pytest
from chaos import findings as kinds
from chaos.evidence import Accepted, Entry, Evidence, Injected, Json, Read
from chaos.mutants import EDITS, edited
from chaos.oracle import judge
from chaos.run import Settings, run
from chaos.schedule import KILL_API, KILL_HEARTBEAT, KILL_MEMORY, KILL_STORE, KILL_WORKER, schedule

START = 1_700_000_000_000_000
SECOND = 1_000_000
FIRST, TAKER, NEXT = START + SECOND, START + 8 * SECOND, START + 20 * SECOND
TURN, LATER = "turn_07_aaaa", "turn_07_bbbb"
CALLS = {"call_a": "charge", "call_b": "look"}


@pytest.mark.timeout(400)
def test_nothing_is_lost_doubled_or_reordered_while_everything_is_killed(tmp_path: Path) -> None:
    result = run(Settings(seed=7, turns=60, jobs=24, kills=8, duration_s=18), tmp_path)

    assert result.verdict.lines() == []
    assert len(result.evidence.accepted) == 60
    killed = [fault for fault in result.evidence.faults if fault.kind in KILLS]
    assert len(killed) == 8
    counts = result.verdict.findings.counts
    assert counts["recovered turns"] > 0
    assert len(result.evidence.jobs) == counts["jobs"] == 24
    assert counts["completed jobs"] > 0
    assert counts["citations"] > 0
    assert sum(fault.kind == KILL_MEMORY for fault in result.evidence.faults) > 0


def test_a_schedule_follows_from_its_seed_and_has_as_many_kills_as_asked_for() -> None:
    faults = schedule(3, kills=50, duration_s=70, lease_s=3)

    assert faults == schedule(3, kills=50, duration_s=70, lease_s=3)
    assert faults != schedule(4, kills=50, duration_s=70, lease_s=3)
    assert sum(fault.kind in KILLS for fault in faults) == 50
    assert [fault.at for fault in faults] == sorted(fault.at for fault in faults)


@pytest.mark.parametrize("mutant", EDITS)
def test_a_mutant_still_finds_what_it_takes_out_of_the_scripts(mutant: str) -> None:
    folder = files("shared.log").joinpath("lua")
    for name, edits in EDITS[mutant].items():
        text = folder.joinpath(f"{name}.lua").read_text()
        assert edited(text, edits) != text


def test_the_oracle_finds_nothing_where_nothing_is_wrong() -> None:
    verdict = judge(good())

    assert verdict.lines() == []
    assert verdict.gaps == [pytest.approx(3.0)]
    assert verdict.findings.counts["recovered turns"] == 1


def test_evidence_is_the_same_after_it_has_been_kept(tmp_path: Path) -> None:
    good().save(tmp_path / "evidence.json")

    assert Evidence.load(tmp_path / "evidence.json") == good()


KILLS = (KILL_WORKER, KILL_HEARTBEAT, KILL_API, KILL_STORE)


def entry(seq: int, epoch: int, kind: str, **payload: object) -> Entry:
    return Entry(seq, epoch, kind, json.dumps({"event_type": kind, **payload}))


def stamp(micros: int) -> str:
    """A time of the run, in the form of events."""
    return f"2023-11-14T22:13:{20 + (micros - START) // SECOND:02d}.{micros % SECOND:06d}Z"


def inference(seq: int, epoch: int, step_id: str, text: str, calls: list[Json]) -> list[Entry]:
    reply = {"role": "assistant", "content": text, "tool_calls": calls}
    details = {"step_type": "inference", "step_id": step_id, "completed_at": stamp(epoch), "model_response": reply}
    named = {"step_type": "inference", "step_id": step_id}
    return [
        entry(seq, epoch, "step_start", **named),
        entry(seq + 1, epoch, "step_progress", **named, delta={"type": "text", "text": text}),
        entry(seq + 2, epoch, "step_complete", **named, step_details=details),
    ]


def good() -> Evidence:
    """Two turns of a session. The worker of the first was killed while its tools ran, and another took over."""
    calls = [{"call_id": call_id, "tool_name": tool} for call_id, tool in CALLS.items()]
    unknown = {
        "call_id": "call_a",
        "tool_name": "charge",
        "content": "Unknown outcome: …",
        "metadata": {"error": True},
    }
    done = {"call_id": "call_b", "tool_name": "look", "content": "seen", "metadata": {}}
    tools = {
        "step_type": "tool_execution",
        "step_id": "step_2",
        "completed_at": stamp(TAKER),
        "tool_calls": calls,
        "tool_responses": [unknown, done],
    }
    first = [
        entry(1, START, "turn_created"),
        entry(2, FIRST, "turn_start", attempt=1),
        *inference(3, FIRST, "step_1", "so", calls),
        entry(6, FIRST, "step_start", step_type="tool_execution", step_id="step_2"),
        entry(7, TAKER, "turn_recovered", attempt=2),
        entry(8, TAKER, "step_complete", step_type="tool_execution", step_id="step_2", step_details=tools),
        *inference(9, TAKER, "step_3", "the end", []),
        entry(12, TAKER, "turn_complete", completed_at=stamp(TAKER + SECOND)),
    ]
    second = [
        entry(1, START + SECOND, "turn_created"),
        entry(2, NEXT, "turn_start", attempt=1),
        *inference(3, NEXT, "step_9", "short", []),
        entry(6, NEXT, "turn_complete", completed_at=stamp(NEXT + SECOND)),
    ]
    evidence = Evidence(seed=1)
    for turn_id, log, answer, planned in ((TURN, first, "the end", [[*CALLS]]), (LATER, second, "short", [])):
        evidence.accepted.append(
            Accepted(
                key=turn_id,
                turn_id=turn_id,
                agent_id="agent",
                session_id="sess_07_cccc",
                at=START / 1e6,
                tries=1,
                answer=answer,
                calls=planned,
            )
        )
        evidence.logs[turn_id] = log
        evidence.turns[turn_id] = shown(turn_id, log, answer)
        frames = [[f"{one.seq}-{one.epoch}", one.type, one.payload] for one in log]
        frames[-1][2] = json.dumps({**json.loads(log[-1].payload), "turn": evidence.turns[turn_id]})
        evidence.reads.append(Read(turn_id=turn_id, how="stream", frames=frames, connections=2, ended=True))
    evidence.sessions["sess_07_cccc"] = [TURN, LATER]
    evidence.owners = [[TURN, FIRST, "vm:1"], [TURN, TAKER, "vm:2"], [LATER, NEXT, "vm:2"]]
    evidence.faults = [Injected(kind=KILL_WORKER, victim="vm:1", at=START / 1e6 + 5, owned=[[TURN, FIRST]])]
    nothing = sha256(b"").hexdigest()
    evidence.asked = [
        {"key": turn_id, "round": number, "context": nothing, "earlier": 0}
        for turn_id, number in ((TURN, 0), (TURN, 1), (LATER, 0))
    ]
    evidence.effects = [effect("call_a", "charge"), effect("call_b", "look"), effect("call_b", "look")]
    return evidence


def shown(turn_id: str, log: list[Entry], answer: str) -> Json:
    return {
        "turn_id": turn_id,
        "session_id": "sess_07_cccc",
        "status": "completed",
        "attempts": sum(one.type in ("turn_start", "turn_recovered") for one in log),
        "completed_at": json.loads(log[-1].payload)["completed_at"],
        "steps": [json.loads(one.payload)["step_details"] for one in log if one.type == "step_complete"],
        "output_message": {"content": answer},
    }


def effect(call_id: str, tool: str, step_id: str = "step_2") -> Json:
    return {"key": f"{TURN}:{step_id}:{call_id}", "tool": tool, "arguments": {}, "at": 0}


def log_of(evidence: Evidence) -> list[Entry]:
    return evidence.logs[TURN]


def replaced(evidence: Evidence, seq: int, **changes: object) -> None:
    """Change the payload of an entry."""
    old = log_of(evidence)[seq - 1]
    log_of(evidence)[seq - 1] = old._replace(payload=json.dumps({**json.loads(old.payload), **changes}))


def ends_with(kind: str, **payload: object) -> Callable[[Evidence], None]:
    def change(evidence: Evidence) -> None:
        log_of(evidence)[-1] = entry(12, TAKER, kind, completed_at=stamp(TAKER + SECOND), **payload)

    return change


def with_response(place: int, **changes: object) -> Callable[[Evidence], None]:
    """Change a tool's response in the log."""

    def change(evidence: Evidence) -> None:
        details = json.loads(log_of(evidence)[7].payload)["step_details"]
        details["tool_responses"][place].update(changes)
        replaced(evidence, 8, step_details=details)

    return change


def swap(evidence: Evidence) -> None:
    frames = evidence.reads[0].frames
    frames[3], frames[4] = frames[4], frames[3]


def overlap(evidence: Evidence) -> None:
    log = evidence.logs[LATER]
    evidence.logs[LATER] = [log[0], *(one._replace(epoch=TAKER) for one in log[1:])]


def twice_in_the_log(evidence: Evidence) -> None:
    """A batch that landed twice: seqs go on, what they say does not."""
    log = log_of(evidence)
    evidence.logs[TURN] = [
        *log[:4],
        log[3]._replace(seq=5),
        *(one._replace(seq=one.seq + 1) for one in log[4:]),
    ]


def canceled_in_vain(evidence: Evidence) -> None:
    evidence.accepted[0].cancel_asked, evidence.accepted[0].cancel_status = True, 202


CORRUPTED: dict[str, tuple[str, Callable[[Evidence], object]]] = {
    "no log at all": (kinds.LOST, lambda e: e.logs.pop(TURN)),
    "no end": (kinds.LOST, lambda e: log_of(e).pop()),
    "two ends": (
        kinds.SECOND_END,
        lambda e: log_of(e).append(entry(13, TAKER, "turn_canceled", completed_at=stamp(TAKER))),
    ),
    "an event after the end": (
        kinds.SECOND_END,
        lambda e: log_of(e).append(entry(13, TAKER, "turn_resumed", tool_responses=[])),
    ),
    "a failure": (kinds.WRONG_END, ends_with("turn_failed", error={"code": "internal_error"})),
    "canceled, unasked": (kinds.WRONG_END, ends_with("turn_canceled")),
    "a cancel that was promised": (kinds.WRONG_END, canceled_in_vain),
    "a seq is missing": (kinds.MISSING, lambda e: log_of(e).pop(3)),
    "a seq is there twice": (kinds.DOUBLED, lambda e: log_of(e).insert(4, log_of(e)[4]._replace(seq=4))),
    "a batch landed twice": (kinds.CONTENT, twice_in_the_log),
    "the epoch falls": (kinds.EPOCH, lambda e: log_of(e).__setitem__(9, log_of(e)[9]._replace(epoch=FIRST))),
    "the epoch rises without a claim": (
        kinds.EPOCH,
        lambda e: log_of(e).__setitem__(4, log_of(e)[4]._replace(epoch=FIRST + 1)),
    ),
    "an attempt is not counted": (kinds.STEP, lambda e: replaced(e, 7, attempt=1)),
    "a step starts again": (kinds.STEP, lambda e: replaced(e, 9, step_id="step_1")),
    "a step starts in another": (kinds.STEP, lambda e: log_of(e).pop(4)),
    "the reply is not what was streamed": (
        kinds.CONTENT,
        lambda e: replaced(e, 4, delta={"type": "text", "text": "no"}),
    ),
    "another answer": (kinds.CONTENT, lambda e: setattr(e.accepted[0], "answer", "another")),
    "a call is not answered": (kinds.CALL, lambda e: setattr(e.accepted[0], "calls", [["call_a", "call_b", "call_c"]])),
    "a tool failed without a fault": (kinds.CALL, with_response(1, metadata={"error": True}, content="Error: 500")),
    "a response without an effect": (kinds.EFFECT, lambda e: e.effects.__delitem__(slice(1, None))),
    "a never tool ran twice": (kinds.NEVER_TWICE, lambda e: e.effects.append(effect("call_a", "charge"))),
    "a never tool ran in two steps": (
        kinds.NEVER_TWICE,
        lambda e: e.effects.append(effect("call_a", "charge", "step_3")),
    ),
    "an effect of no step": (kinds.EFFECT, lambda e: e.effects.append(effect("call_b", "look", "step_8"))),
    "an effect of no turn": (kinds.EFFECT, lambda e: e.effects.append({"key": "turn_00_x:s:c", "tool": "look"})),
    "a reader missed an event": (kinds.MISSING, lambda e: e.reads[0].frames.pop(4)),
    "a reader read an event twice": (kinds.DOUBLED, lambda e: e.reads[0].frames.insert(4, e.reads[0].frames[4])),
    "a reader read in another order": (kinds.READ, swap),
    "a reader read something else": (kinds.READ, lambda e: e.reads[0].frames[3].__setitem__(2, '{"other": 1}')),
    "a reader read what is not there": (kinds.READ, lambda e: e.reads[0].frames.append(["13-1", "step_start", "{}"])),
    "a reset": (kinds.READ, lambda e: setattr(e.reads[0], "resets", 1)),
    "the last frame has another turn": (kinds.READ, lambda e: e.turns[TURN].update(extra=1)),
    "GET says another status": (kinds.CONTENT, lambda e: e.turns[TURN].update(status="failed")),
    "GET has other steps": (kinds.CONTENT, lambda e: e.turns[TURN]["steps"].pop()),
    "turns of a session overlap": (kinds.ORDER, overlap),
    "a session has a turn that nobody submitted": (kinds.ORDER, lambda e: e.sessions["sess_07_cccc"].append("turn_x")),
    "a session is in another order": (kinds.ORDER, lambda e: e.sessions["sess_07_cccc"].reverse()),
    "two owners of an epoch": (kinds.OWNER, lambda e: e.owners.append([TURN, TAKER, "vm:3"])),
    "taken over without a fault": (kinds.UNEXPLAINED, lambda e: e.faults.clear()),
    "taken over from another than the victim": (kinds.UNEXPLAINED, lambda e: setattr(e.faults[0], "victim", "vm:2")),
    "a resume that is not in the log": (kinds.CALL, lambda e: e.accepted[0].resumes.append({"responses": {"c": "x"}})),
    "an answer that nobody should get": (kinds.ANSWER, lambda e: e.refused.append("GET events: 500")),
}


@pytest.mark.parametrize("name", CORRUPTED)
def test_the_oracle_finds(name: str) -> None:
    kind, corrupt = CORRUPTED[name]
    evidence = good()

    corrupt(evidence)

    found = {violation.kind for violation in judge(evidence).findings.violations}
    assert kind in found, found
