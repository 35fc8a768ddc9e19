"""What tests of the turn log share: a log whose clock the test sets, an owner, and the log's invariants.

The invariants are read from the raw keys, by none of the code that they judge.
"""

import os
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha1
from pathlib import Path
from typing import Any, cast

import pytest
from redis import Redis
from shardcheck import check_shard
from waiting import wait_for

from shared import ids
from shared.cli.binaries import ServerBinary
from shared.cli.store import LocalStore
from shared.events import (
    Event,
    Json,
    StepComplete,
    StepProgress,
    StepStart,
    TurnAwaitingInput,
    TurnComplete,
    TurnCreated,
    TurnResumed,
)
from shared.ids import SessionRef, TurnRef
from shared.log import scripts, snapshots
from shared.log.keys import Keys
from shared.log.reader import LogReader
from shared.log.sessions import Session, SessionStore
from shared.log.turn_log import Accepted, Claim, TurnLog, Write, Written
from shared.redis_client import connect
from shared.status import TurnStatus

SECOND = 1_000_000
START = 1_700_000_000 * SECOND
"""Where every test's clock begins, in µs."""

LEASE_S = 15
MAX_ATTEMPTS = 3
INPUT_TIMEOUT_S = 600
EVENTS_TTL_S = 3600

TERMINAL_TYPES = {"turn_complete": "completed", "turn_failed": "failed", "turn_canceled": "canceled"}

# Put in front of a script, it refuses every key that the caller did not declare. The server itself lets a script
# touch any key that its node holds, so one node with all slots would not notice.
DECLARED_KEYS_ONLY = """
local redis = (function(server, keys)
  local keyless, declared = {TIME = true, PUBLISH = true}, {}
  for _, key in ipairs(keys) do declared[key] = true end
  return {call = function(command, key, ...)
    if keyless[command] then return server.call(command, key, ...) end
    if not declared[key] then error('undeclared key: ' .. command .. ' ' .. tostring(key)) end
    return server.call(command, key, ...)
  end}
end)(redis, KEYS)
"""


def text_step(step_id: str, text: str = "hi") -> list[Event]:
    """A whole inference step as its three events."""
    details: Json = {
        "step_type": "inference",
        "step_id": step_id,
        "started_at": "2026-01-01T00:00:00.000001Z",
        "completed_at": "2026-01-01T00:00:00.000002Z",
        "model_response": {"role": "assistant", "content": text, "stop_reason": "end_of_turn", "tool_calls": []},
    }
    return [
        started(step_id),
        delta(step_id, text),
        StepComplete(step_type="inference", step_id=step_id, step_details=details),
    ]


def started(step_id: str = "s1") -> StepStart:
    return StepStart(step_type="inference", step_id=step_id, started_at="2026-01-01T00:00:00.000001Z", metadata={})


def delta(step_id: str = "s1", text: str = "hi") -> StepProgress:
    return StepProgress(step_type="inference", step_id=step_id, delta={"type": "text", "text": text})


def tool_call(call_id: str) -> Json:
    return {"call_id": call_id, "tool_name": "look", "arguments": {}, "arguments_json": "{}"}


@dataclass
class LogKit:
    """A turn log under a prefix of its own. `now` is its time in µs, and moves only when the test moves it."""

    client: Redis
    prefix: str
    now: int = START
    seen: list[SessionRef] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.keys = Keys(self.prefix)
        self.reader = LogReader(client=self.client, keys=self.keys)

    @property
    def log(self) -> TurnLog:
        return self.log_with()

    def log_with(self, **options: Any) -> TurnLog:
        """A log with other options than the usual ones."""
        usual: dict[str, Any] = {
            "lease_s": LEASE_S,
            "max_attempts": MAX_ATTEMPTS,
            "input_timeout_s": INPUT_TIMEOUT_S,
            "events_ttl_s": EVENTS_TTL_S,
            "now_us": self.now,
        }
        return TurnLog(client=self.client, keys=self.keys, **(usual | options))

    @property
    def sessions(self) -> SessionStore:
        return SessionStore(client=self.client, keys=self.keys, log=self.log, now_us=self.now)

    def pass_time(self, seconds: float) -> None:
        self.now += int(seconds * SECOND)

    # What a test does

    def session(
        self, *, idle_ttl_s: float | None = None, agent_id: str = "agent_a", strategy: str = "enqueue"
    ) -> SessionRef:
        ref = SessionRef(ids.DEFAULT_TENANT, ids.new_session_id())
        self.seen.append(ref)
        session = Session(
            session_id=ref.session_id,
            agent_id=agent_id,
            session_name="a name",
            started_at="2026-01-01T00:00:00.000000Z",
            idle_ttl_s=idle_ttl_s,
            multitask_strategy=strategy,
        )
        self.sessions.create(ref, session)
        return ref

    def new_turn(self, session: SessionRef) -> TurnRef:
        return TurnRef(session.tenant, session.session_id, ids.new_turn_id(session.session_id))

    def submit(self, ref: TurnRef, *, text: str = "hello", config: Json | None = None, **options: Any) -> Accepted:
        event = TurnCreated(
            turn_id=ref.turn_id,
            session_id=ref.session_id,
            agent_id="agent_a",
            input_messages=[{"role": "user", "content": text}],
            documents=options.pop("documents", []),
            created_at="2026-01-01T00:00:00.000000Z",
        )
        digest = options.pop("digest", sha1(text.encode(), usedforsecurity=False).hexdigest())
        return self.log.accept(ref, event=event, config=config or {"model": "m"}, digest=digest, **options)

    def accept(self, session: SessionRef | None = None, **options: Any) -> TurnRef:
        """A new turn in the session's queue."""
        ref = self.new_turn(session or self.session())
        accepted = self.submit(ref, **options)
        assert accepted.turn_id == ref.turn_id
        return ref

    def claim(self, ref: TurnRef, token: str | None = None) -> "Owner":
        return Owner(self, self.log.claim(ref, token=token or ids.new_token(), worker="w1"))

    def running(self, session: SessionRef | None = None) -> "Owner":
        """The owner of a new turn that it has just claimed."""
        return self.claim(self.accept(session))

    def awaiting(self, *call_ids: str, session: SessionRef | None = None) -> TurnRef:
        """A turn that waits for the client's answers to these calls."""
        owner = self.running(session)
        assert owner.pause(*call_ids)
        return owner.ref

    def resume(self, ref: TurnRef, *call_ids: str, digest: str = "d1") -> int:
        responses = [{"call_id": call_id, "tool_name": "look", "content": "x"} for call_id in call_ids]
        event = TurnResumed(turn_id=ref.turn_id, tool_responses=responses, resumed_at="2026-01-01T00:00:01.000000Z")
        return self.log.resume(ref, event=event, call_ids=call_ids, digest=digest)

    # What lies in the store

    def hash(self, ref: TurnRef) -> dict[str, str]:
        raw = cast(dict[bytes, bytes], self.client.hgetall(self.keys.turn(ref).turn))
        return {name.decode(): value.decode(errors="replace") for name, value in raw.items()}

    def status(self, ref: TurnRef) -> str:
        return self.hash(ref)["status"]

    def types(self, ref: TurnRef) -> list[str]:
        return [kind for _, _, kind in self.raw_events(ref)]

    def raw_events(self, ref: TurnRef) -> list[tuple[int, int, str]]:
        """(seq, epoch, type) of every entry, as XRANGE gives them."""
        return [(*_split(entry_id), values[b"t"].decode()) for entry_id, values in self._xrange(ref, "events")]

    def raw_private(self, ref: TurnRef) -> list[tuple[int, int, str]]:
        """(seq, epoch, kind) of every private record, as XRANGE gives them."""
        return [(*_split(entry_id), values[b"k"].decode()) for entry_id, values in self._xrange(ref, "private")]

    def _xrange(self, ref: TurnRef, stream: str) -> list[tuple[bytes, dict[bytes, bytes]]]:
        return cast(Any, self.client.xrange(getattr(self.keys.turn(ref), stream)))

    def queue(self, session: SessionRef) -> list[str]:
        raw = cast(list[bytes], self.client.lrange(self.keys.session(session).queue, 0, -1))
        return [turn_id.decode() for turn_id in raw]

    def index(self, shard: int, name: str) -> dict[str, int]:
        """One of a shard's indexes: due, leases or ended."""
        raw = self.client.zrange(getattr(self.keys.shard(shard), name), 0, -1, withscores=True)
        return {member.decode(): int(score) for member, score in cast(list[tuple[bytes, float]], raw)}

    def due(self, ref: TurnRef | SessionRef) -> int | None:
        return self.index(ref.shard, "due").get(ref.member)

    def lease(self, ref: TurnRef) -> int | None:
        return self.index(ref.shard, "leases").get(ref.member)

    def unfolded(self, ref: TurnRef) -> bool:
        """Whether the turn waits for the janitor to make its snapshot."""
        return ref.member in self.index(ref.shard, "ended")

    def everything(self) -> list[str]:
        """Every key of this test."""
        return sorted(cast(bytes, key).decode() for key in self.client.scan_iter(f"{self.prefix}:*"))

    # The invariants

    def check(self) -> None:
        """Fail where a session of this test, or a turn in it, contradicts itself."""
        for session in self.seen:
            if self.client.exists(self.keys.session(session).session):
                self._check_session(session)
        for shard in {session.shard for session in self.seen}:
            check_shard(self, shard)

    def _check_session(self, session: SessionRef) -> None:
        raw = cast(list[bytes], self.client.zrange(self.keys.session(session).turns, 0, -1))
        turns = [TurnRef(session.tenant, session.session_id, turn_id.decode()) for turn_id in raw]
        rows = {ref: self.hash(ref) for ref in turns}
        alive = [ref for ref in turns if rows[ref]["status"] not in TERMINAL_TYPES.values()]
        assert self.queue(session) == [ref.turn_id for ref in alive], "the queue is not the unfinished turns in order"
        for ref in turns:
            self._check_log(ref, rows[ref])
            self._check_indexes(ref, rows[ref], is_head=bool(alive) and ref == alive[0])
        self._check_rest(session, idle=not alive)

    def _check_log(self, ref: TurnRef, row: dict[str, str]) -> None:
        events, private = self.raw_events(ref), self.raw_private(ref)
        assert [seq for seq, _, _ in events] == list(range(1, len(events) + 1)), f"{ref}: seq has a gap: {events}"
        assert events[0][2] == "turn_created"
        for records in (events, private):
            epochs = [epoch for _, epoch, _ in records]
            assert epochs == sorted(epochs), f"{ref}: an epoch falls: {records}"
        assert events[-1][1] <= int(row["epoch"]), f"{ref}: an entry's epoch is beyond the last claim's"
        assert int(row["last"]) == events[-1][0], f"{ref}: the hash ends elsewhere than the stream"
        ends = [kind for _, _, kind in events if kind in TERMINAL_TYPES]
        if row["status"] in TERMINAL_TYPES.values():
            assert [TERMINAL_TYPES[kind] for kind in ends] == [row["status"]], f"{ref}: {row['status']} after {ends}"
            assert events[-1][2] == ends[0], f"{ref}: something follows the terminal record"
        else:
            assert ends == [], f"{ref}: {row['status']} after {ends}"
        folded = any(field in row for field in snapshots.FIELDS)
        kept = 0 if row["status"] == "completed" else 1  # the config, for running it again
        assert [seq for seq, _, _ in private] == list(range(1, (kept if folded else int(row["plast"])) + 1))
        expires = self.client.ttl(self.keys.turn(ref).private) > 0
        assert expires == (folded and bool(kept)), f"{ref}: the config stays as long as the events"
        assert (self.client.ttl(self.keys.turn(ref).events) > 0) == folded, f"{ref}: events expire with a snapshot only"

    def _check_indexes(self, ref: TurnRef, row: dict[str, str], *, is_head: bool) -> None:
        status, lease = row["status"], self.lease(ref)
        ended = status in TERMINAL_TYPES.values()
        owned = "token" in row and not ended
        assert not (owned and status != "in_progress"), f"{ref}: {status} with an owner"
        assert ("deadline" in row) == owned, f"{ref}: a deadline without an owner, or the reverse"
        assert lease == (int(row["deadline"]) if owned else None), f"{ref}: the index of leases says {lease}"
        assert not (owned and not is_head), f"{ref}: two turns of a session run at once"
        waits = is_head and not owned
        assert (self.due(ref) is not None) == waits, f"{ref}: {status}, head: {is_head}, but due: {self.due(ref)}"
        folded = any(field in row for field in snapshots.FIELDS)
        assert self.unfolded(ref) == (ended and not folded), f"{ref}: not handed to the janitor, or for ever"
        assert ("pending" in row) == (status == "awaiting_input"), f"{ref}: {status} with or without pending calls"

    def _check_rest(self, session: SessionRef, *, idle: bool) -> None:
        row = cast(dict[bytes, bytes], self.client.hgetall(self.keys.session(session).session))
        expires = bool(row.get(b"idle_ttl_us")) and idle
        assert (self.due(session) is not None) == (expires or b"deleted" in row), f"{session}: due {self.due(session)}"


@dataclass
class Owner:
    """A worker that holds a turn: its token, and where it believes that the log ends."""

    kit: LogKit
    claim: Claim

    def __post_init__(self) -> None:
        self.ref, self.token = self.claim.ref, self.claim.token
        self.last, self.private_last = self.claim.last, self.claim.private_last

    def batch(self, *events: Event, private: Sequence[tuple[str, bytes]] = ()) -> Write:
        return Write(
            ref=self.ref,
            token=self.token,
            last=self.last,
            private_last=self.private_last,
            events=events,
            private=private,
        )

    def append(self, *events: Event, private: Sequence[tuple[str, bytes]] = ()) -> Written:
        written = self.kit.log.append(self.batch(*events, private=private))
        self.last, self.private_last = written.last, written.private_last
        return written

    def renew(self) -> str:
        return self.kit.log.renew([(self.ref, self.token)])[0]

    def release(self) -> None:
        self.kit.log.release(self.ref, token=self.token)

    def finish(self, *events: Event, snapshot: bytes = b'{"whole":"turn"}') -> tuple[TurnStatus, str | None]:
        end = TurnComplete(turn_id=self.ref.turn_id, completed_at="2026-01-01T00:00:09.000000Z")
        return self.kit.log.finish(self.batch(*events, end), status=TurnStatus.COMPLETED, snapshot=snapshot)

    def pause(self, *call_ids: str) -> bool:
        event = TurnAwaitingInput(turn_id=self.ref.turn_id, tool_calls=[tool_call(call_id) for call_id in call_ids])
        return self.kit.log.pause(self.batch(event), call_ids=call_ids)


@contextmanager
def opened(url: str, prefix: str) -> Iterator[LogKit]:
    """A kit on a store; at its end the invariants hold for whatever the test did."""
    client = connect(url)
    kit = LogKit(client=client, prefix=prefix)
    try:
        yield kit
        kit.check()
    finally:
        client.connection_pool.disconnect()


@contextmanager
def running_server(binary: ServerBinary, *options: str) -> Iterator[str]:
    """The URL of an empty server of the caller's own."""
    folder = Path(tempfile.mkdtemp(prefix="ts-"))
    store = LocalStore(binary=binary, data_dir=folder)
    store.prepare()
    log = folder / "store.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*store.command(), *options],
            cwd=folder,
            env=store.environ(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        wait_for(lambda: store.answers() or process.poll() is not None, "the store answers")
        assert process.poll() is None, log.read_text()
        yield store.url
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder)


@contextmanager
def running_cluster(binary: ServerBinary) -> Iterator[str]:
    """A cluster of one node that holds all slots: keys of two slots in one script are refused."""
    ports = ("--port", str(free_port()), "--cluster-port", str(free_port()), "--bind", "127.0.0.1")
    with running_server(binary, "--cluster-enabled", "yes", *ports) as url, Redis.from_url(url) as client:
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        wait_for(lambda: b"cluster_state:ok" in _text(client.execute_command("CLUSTER", "INFO")), "the cluster is up")
        yield url


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def guard_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every script fail that touches a key which its caller did not declare."""
    plain = scripts._source

    def guarded(name: str) -> tuple[str, str]:
        text = DECLARED_KEYS_ONLY + plain(name)[0]
        return text, sha1(text.encode(), usedforsecurity=False).hexdigest()

    monkeypatch.setattr(scripts, "_source", guarded)


def fresh_prefix() -> str:
    return f"t{secrets.token_hex(6)}"


def _split(entry_id: bytes) -> tuple[int, int]:
    match = re.fullmatch(rb"(\d+)-(\d+)", entry_id)
    assert match is not None, entry_id
    return int(match[1]), int(match[2])


def _text(reply: Any) -> bytes:
    return reply if isinstance(reply, bytes) else str(reply).encode()
