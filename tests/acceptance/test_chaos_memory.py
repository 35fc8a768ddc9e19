"""The campaign's oracle for memory: whatever is wrong with jobs, banks or what turns find, it finds."""

import json
from collections.abc import Callable
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from random import Random

import pytest
from chaos import findings as kinds
from chaos.evidence import Accepted, Entry, Evidence, Inserted, Json, Renewal
from chaos.memory_plans import MEANINGS, PASSING, WORDS, random_burst
from chaos.mutants import MODULES, edited
from chaos.oracle import judge
from test_chaos import entry, inference

from worker.memory.chunking import cut

SECOND = 1_000_000
OLD, NEW, FAR, GONE = "job_07_old", "job_07_new", "job_07_far", "job_07_gone"
TURN = "turn_07_dddd"
CONTEXT = "From memory, in case it helps.\n\n[doc]\nnew words"


@pytest.mark.parametrize("mutant", MODULES)
def test_a_mutant_still_finds_what_it_takes_out_of_the_modules(mutant: str) -> None:
    for name, edits in MODULES[mutant].items():
        spec = find_spec(name)
        assert spec is not None and spec.origin is not None
        compile(edited(Path(spec.origin).read_text(), edits), name, "exec")


def test_documents_are_cut_as_the_plans_say() -> None:
    chance = Random(1)
    bursts = [random_burst(chance, f"j1x{number}", 4) for number in range(50)]
    whole = [one for burst in bursts for job in burst for one in job.documents if one.fails is None]

    assert any(len(one.chunks) > 1 for one in whole)
    for one in whole:
        assert cut("\n\n".join(one.chunks), size=64, overlap=0) == one.chunks


def test_the_oracle_finds_nothing_where_nothing_is_wrong_with_memory() -> None:
    assert judge(good()).lines() == []


def test_evidence_of_memory_is_the_same_after_it_has_been_kept(tmp_path: Path) -> None:
    good().save(tmp_path / "evidence.json")

    assert Evidence.load(tmp_path / "evidence.json") == good()


def micros(second: float) -> int:
    return 1_700_000_000_000_000 + int(second * SECOND)


def stamp(second: float) -> str:
    return f"2023-11-14T22:13:{20 + int(second):02d}.{int(second * SECOND) % SECOND:06d}Z"


def planned(name: str, write: str, text: str | None) -> Json:
    """A document; without a text one that cannot be read."""
    fails = "empty_document" if text is None else None
    return {"document_id": name, "write": write, "chunks": [] if text is None else [text], "fails": fails}


def job_log(job: Inserted, began: float, ended: float) -> list[Entry]:
    documents, epoch = job.documents, micros(began)
    named = {"step_type": "memory_insert", "step_id": f"step_{job.turn_id}"}
    failures = [{"document_id": one["document_id"], "code": one["fails"]} for one in documents if one["fails"]]
    counts = {"done": len(documents), "chunks": sum(len(one["chunks"]) for one in documents)}
    details = {**named, **counts, "documents": len(documents), "failed": len(failures), "failures": failures}
    return [
        entry(1, epoch - 1, "turn_created", created_at=stamp(began)),
        entry(2, epoch, "turn_start", attempt=1),
        entry(3, epoch, "step_start", **named, started_at=stamp(began)),
        entry(4, epoch, "step_progress", **named, delta={"type": "progress", **counts, "failures": failures}),
        entry(5, epoch, "step_complete", **named, step_details=details),
        entry(6, epoch, "turn_complete", completed_at=stamp(ended)),
    ]


def good() -> Evidence:
    """Two jobs that replace each other's document, one of another bank, one whose bank was deleted; and a turn that
    found what the later job had put."""
    evidence = Evidence(seed=1)
    add_job(evidence, OLD, MEANINGS, [planned("doc", "a.0", "old words"), planned("bad", "a.1", None)], 1, 2)
    add_job(evidence, NEW, MEANINGS, [planned("doc", "b.0", "new words")], 3, 4)
    add_job(evidence, FAR, WORDS, [planned("doc", "c.0", "far words")], 3, 4)
    add_job(evidence, GONE, PASSING, [planned("doc", "d.0", "lost words")], 1, 2)
    evidence.renewals = [
        Renewal(bank_id=PASSING, delete_asked=at(5), deleted=at(6), make_asked=at(6), made=at(7)),
    ]
    evidence.writers = {OLD: 1, GONE: 2, NEW: 3, FAR: 4}
    evidence.banks = {
        MEANINGS: [chunk("doc", "b.0", "new words", 3)],
        WORDS: [chunk("doc", "c.0", "far words", 4)],
        PASSING: [],
    }
    add_turn(evidence)
    return evidence


def at(second: float) -> float:
    return micros(second) / 1e6


def chunk(name: str, write: str, content: str, writer: int, position: int = 0) -> Json:
    metadata = {"write": write}
    return {"document_id": name, "writer": writer, "position": position, "content": content, "metadata": metadata}


def add_job(evidence: Evidence, job_id: str, bank_id: str, documents: list[Json], began: float, ended: float) -> None:
    job = Inserted(key=job_id, turn_id=job_id, at=at(began), tries=1, bank_id=bank_id, documents=documents)
    job.again = [job_id]
    log = job_log(job, began, ended)
    details = json.loads(log[4].payload)["step_details"]
    evidence.jobs.append(job)
    evidence.logs[job_id] = log
    names = ("documents", "done", "chunks", "failed", "failures")
    evidence.turns[job_id] = {
        "job_id": job_id,
        "bank_id": bank_id,
        "status": "completed",
        "attempts": 1,
        "completed_at": stamp(ended),
        **{name: details[name] for name in names},
    }
    evidence.listed.append(job_id)


def add_turn(evidence: Evidence) -> None:
    named = {"step_type": "memory_retrieval", "step_id": "step_1"}
    details = {
        **named,
        "started_at": stamp(8),
        "completed_at": stamp(9),
        "inserted_context": CONTEXT,
        "citations": [{"document_id": "doc", "bank_id": MEANINGS, "position": 0, "metadata": {"write": "b.0"}}],
    }
    epoch = micros(8)
    log = [
        entry(1, epoch - 1, "turn_created"),
        entry(2, epoch, "turn_start", attempt=1),
        entry(3, epoch, "step_start", **named),
        entry(4, epoch, "step_complete", **named, step_details=details),
        *inference(5, epoch, "step_2", "the end", []),
        entry(8, epoch, "turn_complete", completed_at=stamp(10)),
    ]
    turn = Accepted(key=TURN, turn_id=TURN, agent_id="a", session_id="s", at=at(8), tries=1, answer="the end", calls=[])
    turn.remembers = True
    evidence.accepted.append(turn)
    evidence.logs[TURN] = log
    evidence.sessions["s"] = [TURN]
    evidence.turns[TURN] = {
        "turn_id": TURN,
        "session_id": "s",
        "status": "completed",
        "attempts": 1,
        "completed_at": stamp(10),
        "steps": [json.loads(one.payload)["step_details"] for one in log if one.type == "step_complete"],
        "output_message": {"content": "the end"},
    }
    evidence.asked = [
        {"key": TURN, "round": 0, "context": sha256(CONTEXT.encode()).hexdigest(), "earlier": 0},
    ]


def in_log(evidence: Evidence, log_id: str, seq: int, **changes: object) -> None:
    old = evidence.logs[log_id][seq - 1]
    evidence.logs[log_id][seq - 1] = old._replace(payload=json.dumps({**json.loads(old.payload), **changes}))


def in_progress(evidence: Evidence, **changes: object) -> None:
    delta = json.loads(evidence.logs[OLD][3].payload)["delta"]
    in_log(evidence, OLD, 4, delta={**delta, **changes})


def in_retrieval(evidence: Evidence, **changes: object) -> None:
    details = json.loads(evidence.logs[TURN][3].payload)["step_details"]
    in_log(evidence, TURN, 4, step_details={**details, **changes})


def looks_again(evidence: Evidence) -> None:
    log = evidence.logs[TURN]
    again = [one._replace(seq=one.seq + 5) for one in log[2:4]]
    evidence.logs[TURN] = [*log[:-1], *again, log[-1]._replace(seq=10)]


def cite(write: str, **changes: object) -> Callable[[Evidence], None]:
    citation = {"document_id": "doc", "bank_id": MEANINGS, "position": 0, "metadata": {"write": write}, **changes}
    return lambda evidence: in_retrieval(evidence, citations=[citation])


def had_not_begun(evidence: Evidence) -> None:
    """The later job was canceled before a worker took it up, and what it had is in the bank all the same."""
    evidence.logs[NEW] = [evidence.logs[NEW][0], entry(2, micros(3), "turn_canceled", completed_at=stamp(4))]


def put(bank_id: str, *chunks: Json) -> Callable[[Evidence], None]:
    return lambda evidence: evidence.banks.__setitem__(bank_id, list(chunks))


CORRUPTED: dict[str, tuple[str, Callable[[Evidence], object]]] = {
    "the earlier job won": (kinds.BANK, put(MEANINGS, chunk("doc", "a.0", "old words", 1))),
    "a document is not there": (kinds.BANK, put(MEANINGS)),
    "a chunk is there twice": (
        kinds.BANK,
        put(MEANINGS, chunk("doc", "b.0", "new words", 3), chunk("doc", "b.0", "new words", 3)),
    ),
    "a chunk has another text": (kinds.BANK, put(MEANINGS, chunk("doc", "b.0", "other words", 3))),
    "a document of a deleted bank": (kinds.BANK, put(PASSING, chunk("doc", "d.0", "lost words", 2))),
    "a document of nobody": (
        kinds.BANK,
        put(WORDS, chunk("x", "y.0", "words", 4), chunk("doc", "c.0", "far words", 4)),
    ),
    "a document of a job that had not begun": (kinds.BANK, had_not_begun),
    "a bank is not there": (kinds.BANK, lambda e: e.banks.pop(PASSING)),
    "words of no chunk": (kinds.BANK, lambda e: e.strays.append("words_1 has 2 rows for 1 chunks")),
    "two jobs have one place": (kinds.BANK, lambda e: e.writers.update({GONE: 1})),
    "a later job has an earlier place": (kinds.BANK, lambda e: e.writers.update({OLD: 5})),
    "a key has two jobs": (kinds.JOB, lambda e: e.listed.append("job_07_other")),
    "a key was answered with another job": (kinds.JOB, lambda e: e.jobs[0].again.append("job_07_other")),
    "a job is not listed": (kinds.JOB, lambda e: e.listed.remove(OLD)),
    "a job is complete too early": (kinds.JOB, lambda e: in_progress(e, done=1, failures=[])),
    "a readable document failed": (
        kinds.JOB,
        lambda e: in_progress(e, failures=[{"document_id": "doc", "code": "empty_document"}]),
    ),
    "an unreadable document did not fail": (kinds.JOB, lambda e: in_progress(e, failures=[])),
    "chunks are not counted": (kinds.JOB, lambda e: in_progress(e, chunks=2)),
    "a job has no end": (kinds.LOST, lambda e: e.logs[OLD].pop()),
    "a job failed with its bank there": (
        kinds.WRONG_END,
        lambda e: e.logs[OLD].__setitem__(
            5, entry(6, micros(1), "turn_failed", completed_at=stamp(2), error={"code": "memory_bank_not_found"})
        ),
    ),
    "a job's step was given up": (
        kinds.STEP,
        lambda e: e.logs[OLD].__setitem__(3, e.logs[OLD][3]._replace(type="step_abandoned")),
    ),
    "GET has another job": (kinds.CONTENT, lambda e: e.turns[OLD].update(done=1)),
    "found what was replaced": (kinds.MEMORY, cite("a.0")),
    "found what nobody wrote": (kinds.MEMORY, cite("z.0")),
    "found a chunk too many": (kinds.MEMORY, cite("b.0", position=1)),
    "the text is of other chunks": (kinds.MEMORY, lambda e: in_retrieval(e, inserted_context="From memory,\n\n[x]\ny")),
    "looked twice": (kinds.MEMORY, looks_again),
    "looked without memory": (kinds.MEMORY, lambda e: setattr(e.accepted[0], "remembers", False)),
    "the model did not read it": (kinds.MEMORY, lambda e: e.asked[0].update(context=sha256(b"").hexdigest())),
    "the model was not asked": (kinds.MEMORY, lambda e: e.asked.clear()),
    "a later turn read it": (kinds.MEMORY, lambda e: e.asked[0].update(earlier=1)),
}


@pytest.mark.parametrize("name", CORRUPTED)
def test_the_oracle_finds_what_is_wrong_with_memory(name: str) -> None:
    kind, corrupt = CORRUPTED[name]
    evidence = good()

    corrupt(evidence)

    found = {violation.kind for violation in judge(evidence).findings.violations}
    assert kind in found, found


@pytest.mark.parametrize("winner", [chunk("doc", "a.0", "old words", 1), chunk("doc", "b.0", "new words", 3)])
def test_of_two_jobs_whose_order_nobody_knows_either_may_have_won(winner: Json) -> None:
    evidence = good()
    evidence.writers.clear()
    evidence.logs[NEW] = job_log(evidence.jobs[1], 1, 4)

    evidence.banks[MEANINGS] = [winner]

    assert [one for one in judge(evidence).findings.violations if one.kind == kinds.BANK] == []
