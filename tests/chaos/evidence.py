"""What a run leaves behind for the oracle: plain facts, each noted by whoever saw it.

Times are seconds since 1970 by the one clock of the machine.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

Json = dict[str, Any]


class Entry(NamedTuple):
    """One entry of a log, as it lies in the store."""

    seq: int
    epoch: int
    type: str
    payload: str


@dataclass(kw_only=True)
class Work:
    """What was answered with 202, in the client's own book: a turn, or an insert job, which is a turn to the log."""

    key: str
    turn_id: str
    at: float
    tries: int
    cancel_asked: bool = False
    cancel_status: int | None = None
    """The answer to its cancel: 200 and 202 are promises."""

    @property
    def path(self) -> str:
        raise NotImplementedError


@dataclass(kw_only=True)
class Accepted(Work):
    """A turn. `answer` is the text that it has to end with, and `calls` the ids of the tool calls that it makes, round
    by round. `remembers`: it looks into memory before its first reply."""

    agent_id: str
    session_id: str
    answer: str
    calls: list[list[str]]
    remembers: bool = False
    resumes: list[Json] = field(default_factory=list)
    """Each resume that was answered: `{responses: {call_id: content}}`."""

    @property
    def path(self) -> str:
        return f"/v1/agents/{self.agent_id}/session/{self.session_id}/turn/{self.turn_id}"


@dataclass(kw_only=True)
class Inserted(Work):
    """An insert job. `documents` are as planned: `{document_id, write, chunks, fails}`."""

    bank_id: str
    documents: list[Json]
    again: list[str] = field(default_factory=list)
    """The job ids with which its key was answered when it came again."""

    @property
    def path(self) -> str:
        return f"/v1/jobs/{self.turn_id}"


@dataclass(kw_only=True)
class Renewal:
    """A bank was deleted and made anew: when each was first asked for, and when it was answered."""

    bank_id: str
    delete_asked: float
    deleted: float = 0.0
    make_asked: float = 0.0
    made: float = 0.0


@dataclass(kw_only=True)
class Read:
    """What one client has read of one turn, over all its connections: `[id, type, payload]` each."""

    turn_id: str
    how: str
    frames: list[list[str]] = field(default_factory=list)
    connections: int = 0
    resets: int = 0
    ended: bool = False


@dataclass(kw_only=True)
class Injected:
    """A fault that was done, or a worker's start. `victim` is a worker's name in the store; empty for all of them.

    `until` is None for the end of a process. `owned` are the turns that a killed worker had: id and epoch.
    """

    kind: str
    victim: str
    at: float
    until: float | None = None
    owned: list[list[Any]] = field(default_factory=list)


@dataclass(kw_only=True)
class Evidence:
    """Everything about a run."""

    seed: int
    accepted: list[Accepted] = field(default_factory=list)
    jobs: list[Inserted] = field(default_factory=list)
    renewals: list[Renewal] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    """Answers of the API that no client should get: a 500, or a 4xx to a request that is right."""
    reads: list[Read] = field(default_factory=list)
    faults: list[Injected] = field(default_factory=list)
    owners: list[list[Any]] = field(default_factory=list)
    """Who was seen as a turn's owner: [turn id, epoch, worker]."""
    effects: list[Json] = field(default_factory=list)
    """Lines of the tools' own log."""
    logs: dict[str, list[Entry]] = field(default_factory=dict)
    turns: dict[str, Json] = field(default_factory=dict)
    """Each turn, and each job, as GET has it."""
    sessions: dict[str, list[str]] = field(default_factory=dict)
    """The turn ids of each session as GET has it, in that order."""
    writers: dict[str, int] = field(default_factory=dict)
    """The place among its bank's writers of each job whose note was seen."""
    banks: dict[str, list[Json]] = field(default_factory=dict)
    """Each bank's chunks as they lie in its file: `{document_id, writer, position, content, metadata}`."""
    strays: list[str] = field(default_factory=list)
    """What else lies in the file: words or vectors of no chunk, or of a bank that is not there."""
    listed: list[str] = field(default_factory=list)
    """The ids of all jobs as the API lists them."""
    asked: list[Json] = field(default_factory=list)
    """What the model was asked: `{key, round, context, earlier}`, the context as its SHA-256."""
    replies_lost: int = 0
    connections_cut: int = 0
    seconds: float = 0.0

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    def work(self) -> list[Work]:
        """Turns and jobs."""
        return [*self.accepted, *self.jobs]

    @classmethod
    def load(cls, path: Path) -> "Evidence":
        data = json.loads(path.read_text())
        return cls(
            **{
                **data,
                "accepted": [Accepted(**one) for one in data["accepted"]],
                "jobs": [Inserted(**one) for one in data.get("jobs", ())],
                "renewals": [Renewal(**one) for one in data.get("renewals", ())],
                "reads": [Read(**one) for one in data["reads"]],
                "faults": [Injected(**one) for one in data["faults"]],
                "logs": {turn_id: [Entry(*entry) for entry in log] for turn_id, log in data["logs"].items()},
            }
        )
