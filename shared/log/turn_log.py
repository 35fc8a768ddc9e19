"""The turn log: every operation on a turn, each one script, each safe to repeat."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson
from redis.exceptions import RedisError

from shared.clock import now_iso
from shared.errors import Conflict, Fenced, InvalidRequest, LogError, NotFound, QueueFull, StoreError, TailMismatch
from shared.events import (
    SCHEMA_VERSION,
    Entry,
    Event,
    Json,
    PrivateEntry,
    TurnCreated,
)
from shared.fold import CONFIG_RECORD
from shared.ids import TurnRef
from shared.log import endings, snapshots
from shared.log.blobs import BlobStore, RedisBlobs
from shared.log.keys import Keys
from shared.log.reader import decode_entries, decode_private
from shared.log.scripts import Argument, Call, Scripts
from shared.redis_client import Store
from shared.status import TurnStatus

_SECOND_US = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """What `accept` did. `turn_id` is the first one where the request was a repetition."""

    turn_id: str
    repeated: bool
    is_head: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What holds for one turn beside its session's and the agent's configuration.

    `strategy` is what becomes of the session's unfinished turns (None: as the session says). Times are in seconds from
    acceptance: until somebody has taken it up, and until it has ended. `counted` has it counted among its agent's
    queued turns. `retry_of` is the turn that it repeats. `refusal` is why no new turn is taken now, if so: what was
    accepted before is found all the same.
    """

    strategy: str | None = None
    queue_ttl_s: float | None = None
    deadline_s: float | None = None
    counted: bool = False
    retry_of: str = ""
    refusal: str = ""


PLAIN = Terms()

Durability = Literal["none", "fsync", "replicated"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A claimed turn. `kind` is start, recovered or resumed; `ordinal` counts the session's turns from 1.

    `first` and `config` are event 1 and the config record, given for `start` only.
    """

    ref: TurnRef
    token: str
    kind: str
    epoch: int
    last: int
    private_last: int
    attempts: int
    ordinal: int
    claimed_at: str
    first: list[Entry]
    config: list[PrivateEntry]


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """A batch for one turn's log, with what the writer believes of it."""

    ref: TurnRef
    token: str
    last: int
    private_last: int
    events: Sequence[Event] = ()
    private: Sequence[tuple[str, bytes]] = ()


@dataclass(frozen=True, slots=True)
class Written:
    """Where the log ends after a write, and whether cancel was asked for."""

    last: int
    private_last: int
    cancel: bool


class NotClaimable(LogError):
    """The turn cannot be claimed now. `reason` is busy, ended, awaiting, not_head, newer, expired or gone."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"The turn cannot be claimed: {reason}.")
        self.reason = reason


class TurnLog:
    """Writes and ends turns. One per process; safe to share between greenlets and threads.

    Every method raises StoreError where the store cannot be reached. `lease_s` is how long an owner may be
    silent, `events_ttl_s` how long the events of an ended turn stay. `confirming` is for `confirm`, which keeps a
    connection for as long as it waits: a client of its own takes none from the others.
    """

    def __init__(
        self,
        *,
        client: Store,
        keys: Keys,
        blobs: BlobStore | None = None,
        lease_s: float = 15,
        max_attempts: int = 5,
        input_timeout_s: float = 86400,
        events_ttl_s: float = 86400,
        durability: Durability = "none",
        confirming: Store | None = None,
        now_us: int | None = None,
    ) -> None:
        self._durability = durability
        self._scripts = Scripts(client=client, now_us=now_us)
        self._confirming = Scripts(client=confirming or client, now_us=now_us)
        self._keys = keys
        self._blobs = blobs or RedisBlobs(client=client, keys=keys)
        self._lease_us = int(lease_s * _SECOND_US)
        self._max_attempts = max_attempts
        self._input_timeout_us = int(input_timeout_s * _SECOND_US)
        self._events_ttl_ms = int(events_ttl_s * 1000)

    def accept(
        self,
        ref: TurnRef,
        *,
        event: TurnCreated,
        config: Json,
        digest: str,
        idempotency_key: str | None = None,
        keyless_retry: bool = False,
        terms: Terms = PLAIN,
    ) -> Accepted:
        """Accept a turn into its session's queue.

        `digest` names the request's body. Raises NotFound for a session that is not there, InvalidRequest for an
        idempotency key that came with another body, Conflict where the session takes one turn at a time, QueueFull for
        `terms` with a refusal.
        """
        session = self._keys.session(ref.session)
        scope = self._keys.turn_idempotency(ref.session, idempotency_key) if idempotency_key else session.session
        record = self._blobs.store(ref, orjson.dumps(config))
        keys = [*self._end_keys(ref), self._keys.turn(ref).private, session.turns,
                self._keys.index_of(ref).all, scope]  # fmt: skip
        args: list[Argument] = [
            ref.turn_id, ref.member, ref.tenant, ref.session_id, event.agent_id, digest,
            1 if idempotency_key else 0, 1 if keyless_retry else 0, SCHEMA_VERSION,
            self._keys.channel(ref.shard), self._keys.control, terms.strategy or "",
            _in_us(terms.queue_ttl_s), _in_us(terms.deadline_s),
            f"{ref.tenant}/{event.agent_id}" if terms.counted else "", terms.retry_of, 1 if terms.refusal else 0,
            *self._event_args(ref, [event]), CONFIG_RECORD, record.field, record.value,
        ]  # fmt: skip
        reply = self._scripts.call("accept", keys, args)
        while reply[0] == b"MAKE_WAY":
            # Which turns a script touches is to be known before it runs; so it says which, and is called again.
            earlier = [TurnRef(ref.tenant, ref.session_id, raw.decode()) for raw in reply[1:]]
            reply = self._scripts.call(
                "accept", [*keys, *self._ways(earlier)], [*args, *self._make_way(ref, earlier)]
            )  # fmt: skip
        if reply[0] == b"FULL":
            self._blobs.delete(ref)
            raise QueueFull(terms.refusal)
        return self._accepted(ref, event.agent_id, reply)

    def _ways(self, turns: Sequence[TurnRef]) -> list[str]:
        return [key for turn in map(self._keys.turn, turns) for key in (turn.turn, turn.events)]

    def _make_way(self, ref: TurnRef, turns: Sequence[TurnRef]) -> list[Argument]:
        args: list[Argument] = []
        for turn in turns:
            reason = f"Turn '{ref.turn_id}' of its session took its place."
            args += [turn.turn_id, *self._event_args(turn, [endings.canceled(turn, reason)])]
        return args

    def confirm(self, ref: TurnRef) -> bool:
        """Whether what was written to a turn is as safe as `durability` asks for; waits two seconds for it at the most.

        For `none` and `fsync` it is, once the store has answered. For `replicated` it is on two machines' disks.
        """
        if self._durability != "replicated":
            return True
        return self._confirming.call_replicated("touch", [self._keys.turn(ref).turn], [])

    def _accepted(self, ref: TurnRef, agent_id: str, reply: list[bytes]) -> Accepted:
        outcome = reply[0]
        if outcome == b"ACCEPTED":
            return Accepted(turn_id=ref.turn_id, repeated=False, is_head=reply[2] == b"1")
        if outcome == b"REPEATED" and reply[1].decode() == ref.turn_id:
            return Accepted(turn_id=ref.turn_id, repeated=True, is_head=True)
        self._blobs.delete(ref)
        if outcome == b"REPEATED":
            return Accepted(turn_id=reply[1].decode(), repeated=True, is_head=False)
        if outcome == b"BUSY":
            raise Conflict(
                f"The session takes no turn now: turn '{reply[1].decode()}' has not ended. Wait for its end, cancel it,"
                " or submit with another multitask_strategy.",
                code="session_busy",
            )
        if outcome == b"MISMATCH":
            raise InvalidRequest(
                "This Idempotency-Key came with another body before. Use a new key for a new request.",
                param="Idempotency-Key",
                code="idempotency_key_reused",
            )
        raise NotFound("session", ref.session_id, listing=f"GET /v1/agents/{agent_id}/sessions")

    def claim(self, ref: TurnRef, *, token: str, worker: str, claimed_at: str | None = None) -> Claim:
        """Become the turn's owner, or raise NotClaimable with the reason.

        Who repeats a claim gives the same `claimed_at` (default: now), which is what the log has then.
        """
        turn, session, shard = (
            self._keys.turn(ref),
            self._keys.session(ref.session),
            self._keys.shard(ref.shard),
        )
        claimed_at = claimed_at or now_iso()
        reply = self._scripts.call(
            "claim",
            [turn.turn, turn.events, session.queue, shard.due, shard.leases, turn.private, shard.limits, shard.queued],
            [ref.turn_id, ref.member, token, self._lease_us, SCHEMA_VERSION, worker, claimed_at, shard.channel,
             SCHEMA_VERSION],
        )  # fmt: skip
        if reply[0] != b"CLAIMED":
            raise NotClaimable(reply[0].decode().lower())
        numbers = [int(value) for value in reply[2:7]]
        started = len(reply) > 7
        return Claim(
            ref=ref,
            token=token,
            kind=reply[1].decode(),
            epoch=numbers[0],
            last=numbers[1],
            private_last=numbers[2],
            attempts=numbers[3],
            ordinal=numbers[4],
            claimed_at=claimed_at,
            first=decode_entries(ref, reply[7], self._blobs) if started else [],
            config=decode_private(ref, reply[8], self._blobs) if started else [],
        )

    def append(self, write: Write) -> Written:
        """Append one batch. Raises Fenced or TailMismatch."""
        result = self.append_many([write])[0]
        if isinstance(result, Exception):
            raise result
        return result

    def append_many(self, writes: Sequence[Write]) -> list[Written | LogError | StoreError]:
        """Append many turns' batches in one round trip; each result stands for itself."""
        replies = self._scripts.call_many([self._append_call(write) for write in writes])
        return [self._written(write, reply) for write, reply in zip(writes, replies, strict=True)]

    def _append_call(self, write: Write) -> Call:
        ref, turn = write.ref, self._keys.turn(write.ref)
        private: list[Argument] = []
        for kind, payload in write.private:
            private += [kind, *self._blobs.store(ref, payload)]
        return Call(
            "append",
            [turn.turn, turn.events, turn.private, turn.leases],
            [turn.member, write.token, write.last, write.private_last, self._lease_us, turn.channel,
             len(write.events), len(write.private), *self._event_args(ref, write.events), *private],
        )  # fmt: skip

    def renew(self, owned: Sequence[tuple[TurnRef, str]]) -> list[str]:
        """Extend the leases of (turn, token) pairs: `OK`, `CANCEL` (extended, cancel asked for) or `LOST`."""
        calls = [
            Call(
                "renew",
                [self._keys.turn(ref).turn, self._keys.shard(ref.shard).leases],
                [ref.member, token, self._lease_us],
            )
            for ref, token in owned
        ]
        replies = self._scripts.call_many(calls) if calls else []
        for reply in replies:
            if isinstance(reply, RedisError):
                raise StoreError(f"The store refused to renew leases: {reply}") from reply
        return [reply.decode() for reply in replies]

    def release(self, ref: TurnRef, *, token: str) -> None:
        """Give the lease back at once: somebody else may go on with the turn now."""
        shard = self._keys.shard(ref.shard)
        keys = [self._keys.turn(ref).turn, shard.due, shard.leases]
        self._scripts.call("release", keys, [ref.member, token])

    def finish(self, write: Write, *, status: TurnStatus, snapshot: bytes) -> tuple[TurnStatus, str | None]:
        """End a turn; the batch's last event is the terminal one.

        `snapshot` is the whole turn, as `snapshots.pack` makes it. Returns the status that it really ended with
        (canceled where cancel was asked for) and the id of the session's next turn, if any. Raises Fenced or
        TailMismatch.
        """
        ref = write.ref
        stored, field = self._stored_snapshot(ref, snapshot)
        reply = self._scripts.call(
            "finish",
            [*self._end_keys(ref), self._keys.turn(ref).private],
            [ref.turn_id, ref.member, write.token, write.last, write.private_last, status, stored,
             self._keys.channel(ref.shard), self._events_ttl_ms, field, len(write.events),
             *self._event_args(ref, [endings.canceled(ref)]), *self._event_args(ref, write.events)],
        )  # fmt: skip
        self._raise_refusal(write, reply)
        return TurnStatus(reply[1].decode()), reply[2].decode() or None

    def pause(self, write: Write, *, call_ids: Sequence[str]) -> bool:
        """Rest until the client answers these calls; the batch's last event is `turn_awaiting_input`.

        False: nothing was written, because cancel was asked for; end the turn instead.
        """
        ref, turn, shard = write.ref, self._keys.turn(write.ref), self._keys.shard(write.ref.shard)
        reply = self._scripts.call(
            "pause",
            [turn.turn, turn.events, turn.private, shard.due, shard.leases],
            [ref.member, write.token, write.last, write.private_last, _id_set(call_ids), self._input_timeout_us,
             shard.channel, len(write.events), *self._event_args(ref, write.events)],
        )  # fmt: skip
        self._raise_refusal(write, reply)
        return bool(reply[0] == b"OK")

    def resume(self, ref: TurnRef, *, event: Event, call_ids: Sequence[str], digest: str) -> int:
        """Bring a paused turn back into the queue. Returns the seq of its `turn_resumed`, old or new.

        Raises InvalidRequest for call ids that are not exactly the pending ones, Conflict for a turn that does
        not wait.
        """
        turn, shard = self._keys.turn(ref), self._keys.shard(ref.shard)
        reply = self._scripts.call(
            "resume",
            [turn.turn, turn.events, shard.due],
            [ref.member, _id_set(call_ids), digest, shard.channel, *self._event_args(ref, [event])],
        )
        if reply[0] in (b"OK", b"REPEATED"):
            return int(reply[1])
        if reply[0] == b"CALLS":
            raise _wrong_calls(set(call_ids), set(orjson.loads(reply[1])))
        if reply[0] == b"STATUS":
            raise Conflict(
                f"Turn '{ref.turn_id}' does not wait for tool responses: it is {reply[1].decode()}.",
                code="not_awaiting_input",
            )
        self._blobs.delete(ref)
        raise NotFound("turn", ref.turn_id, listing="GET /v1/agents/{agent_id}/session/{session_id}")

    def cancel(self, ref: TurnRef, *, reason: str, end_running: bool = False) -> tuple[str, str | None]:
        """Cancel a turn: (`ended`, next turn), (`asked`, None), (`terminal`, its status) or (`gone`, None)."""
        event = endings.canceled(ref, reason)
        return self._end(ref, event, status=TurnStatus.CANCELED, mode="end" if end_running else "ask")

    def fail(self, ref: TurnRef, *, code: str, message: str) -> tuple[str, str | None]:
        """End a turn as failed, whoever runs it: (`ended`, next turn), (`terminal`, its status) or (`gone`, None)."""
        event = endings.failed(ref, code, message)
        return self._end(ref, event, status=TurnStatus.FAILED, mode="end")

    def _end(self, ref: TurnRef, event: Event, *, status: TurnStatus, mode: str) -> tuple[str, str | None]:
        args: list[Argument] = [
            ref.turn_id,
            ref.member,
            mode,
            self._keys.channel(ref.shard),
            self._keys.control,
            status,
        ]
        return self._outcome("cancel", ref, [*args, *self._event_args(ref, [event])])

    def reap(self, ref: TurnRef) -> tuple[str, str | None]:
        """Look at an overdue or lapsed turn: (`hint`, None), (`ended`, next turn) or (`nothing`, None)."""
        events = [endings.too_many_lapses(ref, self._max_attempts), endings.input_timeout(ref), endings.canceled(ref)]
        args: list[Argument] = [ref.turn_id, ref.member, self._max_attempts, self._keys.channel(ref.shard)]
        return self._outcome("reap", ref, [*args, *self._event_args(ref, events)])

    def expire(self, ref: TurnRef) -> tuple[str, str | None]:
        """Look at a turn that has reached one of its limits: (`ended`, next turn) or (`nothing`, None)."""
        events = [endings.queue_timeout(ref), endings.deadline_exceeded(ref), endings.canceled(ref)]
        args = [ref.turn_id, ref.member, self._keys.channel(ref.shard), self._keys.control]
        return self._outcome("expire", ref, [*args, *self._event_args(ref, events)])

    def _outcome(self, script: str, ref: TurnRef, args: Sequence[Argument]) -> tuple[str, str | None]:
        reply = self._scripts.call(script, self._end_keys(ref), args)
        detail = reply[1].decode() if len(reply) > 1 else ""
        return reply[0].decode().lower(), detail or None

    def keep_snapshot(self, ref: TurnRef, snapshot: bytes) -> None:
        """Store the snapshot of a turn that ended inside a script; its events may expire from now on."""
        turn, shard = self._keys.turn(ref), self._keys.shard(ref.shard)
        stored, field = self._stored_snapshot(ref, snapshot)
        reply = self._scripts.call(
            "snapshot",
            [turn.turn, turn.events, turn.private, shard.ended],
            [ref.member, stored, field, self._events_ttl_ms],
        )
        if reply == b"GONE":
            self._blobs.delete(ref)

    def _stored_snapshot(self, ref: TurnRef, snapshot: bytes) -> tuple[bytes, str]:
        """What goes into the turn's hash, and into which field."""
        stored = self._blobs.store(ref, snapshot)
        return stored.value, snapshots.field_of(snapshot, in_blob=stored.field == "b")

    def _written(self, write: Write, reply: Any) -> Written | LogError | StoreError:
        if isinstance(reply, RedisError):
            refusal = StoreError(f"The store refused a write: {reply}")
            refusal.__cause__ = reply
            return refusal
        try:
            self._raise_refusal(write, reply)
        except LogError as refusal:
            return refusal
        return Written(int(reply[1]), int(reply[2]), reply[3] == b"1")

    def _raise_refusal(self, write: Write, reply: list[bytes]) -> None:
        ref = write.ref
        if reply[0] == b"GONE":
            self._blobs.delete(ref)  # what was put there for this write has no turn to go with
            raise Fenced(f"Turn '{ref.turn_id}' was deleted.")
        if reply[0] == b"FENCED":
            raise Fenced(f"Turn '{ref.turn_id}' has another owner now, or has ended.")
        if reply[0] == b"TAIL":
            raise TailMismatch(
                f"The log of turn '{ref.turn_id}' ends at {reply[1].decode()}, not at {write.last}.",
                last=int(reply[1]),
                private_last=int(reply[2]),
            )

    def _end_keys(self, ref: TurnRef) -> list[str]:
        """The first keys of every script that may end a turn."""
        turn, session, shard = self._keys.turn(ref), self._keys.session(ref.session), self._keys.shard(ref.shard)
        index = self._keys.index_of(ref)
        return [turn.turn, turn.events, session.session, session.queue, shard.due, shard.leases, shard.limits,
                shard.ended, shard.queued, index.active, index.failed]  # fmt: skip

    def _event_args(self, ref: TurnRef, events: Sequence[Event]) -> list[Argument]:
        args: list[Argument] = []
        for event in events:
            args += [event.event_type, SCHEMA_VERSION, *self._blobs.store(ref, event.encode())]
        return args


def _id_set(call_ids: Sequence[str]) -> bytes:
    return orjson.dumps(sorted(call_ids))


def _wrong_calls(given: set[str], pending: set[str]) -> InvalidRequest:
    unknown, missing = sorted(given - pending), sorted(pending - given)
    parts = [f"unknown call_id: {', '.join(unknown)}"] if unknown else []
    parts += [f"missing call_id: {', '.join(missing)}"] if missing else []
    what = "; ".join(parts) or "each call_id once"
    return InvalidRequest(
        f"The turn waits for responses to exactly the calls {', '.join(sorted(pending))} ({what}).",
        param="tool_responses",
        code="wrong_call_ids",
    )


def _in_us(seconds: float | None) -> Argument:
    return "" if seconds is None else int(seconds * _SECOND_US)
