"""What a turn's log must look like, whoever wrote it and however often it changed hands."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Any

from chaos.evidence import Accepted, Entry, Json, Work
from chaos.findings import CALL, CONTENT, DOUBLED, EPOCH, LOST, MISSING, SECOND_END, STEP, WRONG_END, Findings

TERMINAL = {"turn_complete": "completed", "turn_failed": "failed", "turn_canceled": "canceled"}
CLAIMS = ("turn_start", "turn_recovered")


def check_log(turn: Accepted, log: list[Entry], findings: Findings) -> None:
    """One turn's log from its first event to its end."""
    check_order(turn, log, findings)
    _Story(turn, findings).check(log)


def check_order(work: Work, log: list[Entry], findings: Findings, *, may_fail: bool = False) -> None:
    """Whatever it tells of: one end, no gap and no doubling, and hands that change one after the other."""
    _check_end(work, log, findings, may_fail=may_fail)
    _check_seqs(work, log, findings)
    _check_epochs(work, log, findings)
    _check_attempts(work, log, findings)


def end_of(log: list[Entry]) -> Entry | None:
    """The terminal record; None where there is none."""
    return next((entry for entry in log if entry.type in TERMINAL), None)


def payload_of(entry: Entry) -> Any:
    return json.loads(entry.payload)


def micros(stamp: str) -> int:
    """Microseconds since 1970 of an RFC 3339 time."""
    moment = datetime.fromisoformat(stamp)
    return int(moment.timestamp()) * 1_000_000 + moment.microsecond


def seconds(stamp: str) -> float:
    """The same in seconds."""
    return micros(stamp) / 1e6


def _check_end(turn: Work, log: list[Entry], findings: Findings, *, may_fail: bool) -> None:
    ends = [entry for entry in log if entry.type in TERMINAL]
    if not ends:
        last = f"{log[-1].type} {log[-1].seq}" if log else "nothing"
        findings.add(LOST, turn.turn_id, f"no terminal record, the log ends with {last}")
        return
    if len(ends) > 1:
        found = ", ".join(f"{entry.type} {entry.seq}-{entry.epoch}" for entry in ends)
        findings.add(SECOND_END, turn.turn_id, found, times=len(ends) - 1)
    elif ends[0] is not log[-1]:
        findings.add(SECOND_END, turn.turn_id, f"{log[-1].type} {log[-1].seq} after {ends[0].type} {ends[0].seq}")
    if ends[0].type == "turn_failed" and not may_fail:
        findings.add(WRONG_END, turn.turn_id, f"failed: {payload_of(ends[0])['error']}")
    if ends[0].type == "turn_canceled" and not turn.cancel_asked:
        findings.add(WRONG_END, turn.turn_id, "canceled, and nobody asked for it")
    if ends[0].type != "turn_canceled" and turn.cancel_status in (200, 202):
        findings.add(WRONG_END, turn.turn_id, f"{ends[0].type}, and its cancel was answered {turn.cancel_status}")


def _check_seqs(turn: Work, log: list[Entry], findings: Findings) -> None:
    seen = Counter(entry.seq for entry in log)
    missing = sorted(set(range(1, max(seen, default=0) + 1)) - set(seen))
    doubled = sorted(seq for seq, times in seen.items() if times > 1)
    if missing:
        findings.add(MISSING, turn.turn_id, f"seqs {missing} are not in the log", times=len(missing))
    if doubled:
        findings.add(DOUBLED, turn.turn_id, f"seqs {doubled} are twice in the log", times=len(doubled))


def _check_epochs(turn: Work, log: list[Entry], findings: Findings) -> None:
    """An epoch begins with a claim. A claim after a resume writes nothing: its first event shows it."""
    for before, entry in pairwise(log):
        if entry.epoch < before.epoch:
            findings.add(EPOCH, turn.turn_id, f"falls from {before.epoch} to {entry.epoch} at {entry.seq}")
        begins = entry.type in (*CLAIMS, *TERMINAL, "turn_resumed") or before.type == "turn_resumed"
        if entry.epoch > before.epoch and not begins:
            findings.add(EPOCH, turn.turn_id, f"rises at {entry.seq}, a {entry.type}: nobody claimed the turn there")
        if entry.epoch == before.epoch and entry.type in CLAIMS:
            findings.add(EPOCH, turn.turn_id, f"{entry.type} {entry.seq} has the epoch of the claim before it")


def _check_attempts(turn: Work, log: list[Entry], findings: Findings) -> None:
    claims = [entry for entry in log if entry.type in CLAIMS]
    types = [entry.type for entry in claims]
    if types != ["turn_start", *["turn_recovered"] * (len(types) - 1)][: len(types)]:
        findings.add(STEP, turn.turn_id, f"taken up in the order {types}")
    attempts = [payload_of(entry)["attempt"] for entry in claims]
    if attempts != list(range(1, len(attempts) + 1)):
        findings.add(STEP, turn.turn_id, f"attempts are numbered {attempts}")
    if log and [entry.seq for entry in log if entry.type == "turn_created"] != [1]:
        findings.add(STEP, turn.turn_id, "turn_created is not once and first")


@dataclass
class _Story:
    """Follows a log event by event. `open` is the step that has begun, with its text so far."""

    turn: Accepted
    findings: Findings
    open: str | None = None
    text: list[str] = field(default_factory=list)
    started: set[str] = field(default_factory=set)
    replies: list[Json] = field(default_factory=list)
    answered: set[str] = field(default_factory=set)

    def check(self, log: list[Entry]) -> None:
        tell: dict[str, Callable[[Entry, Json], None]] = {
            "step_start": self._start,
            "step_progress": self._progress,
            "step_complete": self._complete,
            "step_abandoned": self._abandon,
            "turn_complete": self._end,
        }
        for entry in log:
            if entry.type in tell:
                tell[entry.type](entry, payload_of(entry))

    def _start(self, entry: Entry, payload: Json) -> None:
        if self.open is not None:
            self._wrong(STEP, entry, f"{payload['step_id']} starts while {self.open} is open")
        if payload["step_id"] in self.started:
            self._wrong(STEP, entry, f"{payload['step_id']} starts again")
        self.open = payload["step_id"]
        self.started.add(payload["step_id"])
        self.text = []

    def _progress(self, entry: Entry, payload: Json) -> None:
        self._of_open_step(entry, payload)
        if payload["delta"]["type"] == "text":
            self.text.append(payload["delta"]["text"])

    def _abandon(self, entry: Entry, payload: Json) -> None:
        self._of_open_step(entry, payload)
        self.open = None

    def _complete(self, entry: Entry, payload: Json) -> None:
        self._of_open_step(entry, payload)
        self.open = None
        details = payload["step_details"]
        tell = {"inference": self._reply, "tool_execution": self._outcomes}.get(payload["step_type"])
        if tell is not None:
            tell(entry, details)

    def _reply(self, entry: Entry, details: Json) -> None:
        reply = details["model_response"]
        number, rounds = len(self.replies), self.turn.calls
        self.replies.append(reply)
        if reply["content"] != (streamed := "".join(self.text)):
            self._wrong(CONTENT, entry, f"the reply is {reply['content']!r}, and streamed was {streamed!r}")
        calls = [call["call_id"] for call in reply["tool_calls"]]
        if number > len(rounds) or calls != [*rounds, []][number]:
            self._wrong(CALL, entry, f"reply {number} calls {calls}, and the plan has {rounds}")

    def _outcomes(self, entry: Entry, details: Json) -> None:
        calls = [call["call_id"] for call in details["tool_calls"]]
        answers = [response["call_id"] for response in details["tool_responses"]]
        asked = [call["call_id"] for call in self.replies[-1]["tool_calls"]] if self.replies else []
        if not calls == answers == asked:
            self._wrong(CALL, entry, f"asked for {asked}, called {calls}, answered {answers}")
        if again := self.answered.intersection(calls):
            self._wrong(CALL, entry, f"{sorted(again)} had been answered by an earlier step")
        self.answered.update(calls)

    def _end(self, entry: Entry, payload: Json) -> None:
        if self.open is not None:
            self._wrong(STEP, entry, f"the turn completes while {self.open} is open")
        last = self.replies[-1]["content"] if self.replies else None
        if len(self.replies) != len(self.turn.calls) + 1 or last != self.turn.answer:
            self._wrong(CONTENT, entry, f"after {len(self.replies)} replies the answer is {last!r}")

    def _of_open_step(self, entry: Entry, payload: Json) -> None:
        if payload["step_id"] != self.open:
            self._wrong(STEP, entry, f"{entry.type} of {payload['step_id']} while {self.open} is open")

    def _wrong(self, kind: str, entry: Entry, what: str) -> None:
        self.findings.add(kind, self.turn.turn_id, f"at {entry.seq}: {what}")
