"""Where things lie in the store.

Keys of a session and its turns carry the tag `{s<n>}` of their shard, so one script touches one slot of a Redis
Cluster. The shard's indexes hold members `tenant/session/turn`; every other key names its tenant itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from shared.ids import SHARDS, SessionRef, TurnRef
from shared.queues import TURNS_QUEUE


@dataclass(frozen=True, slots=True)
class TurnKeys:
    """Keys of one turn, and what else each of its batches names: its shard's leases and channel, and the turn there."""

    turn: str
    events: str
    private: str
    blobs: str
    leases: str
    channel: str
    member: str


@dataclass(frozen=True, slots=True)
class SessionKeys:
    """Keys of one session."""

    session: str
    queue: str
    turns: str


@dataclass(frozen=True, slots=True)
class ShardKeys:
    """Keys of one shard: what is due when, whose lease ends when, which limit of a turn is reached when, what ended
    without a snapshot, and how many turns nobody has taken up yet (a hash: `total`, and one field for each agent)."""

    due: str
    leases: str
    limits: str
    ended: str
    queued: str
    channel: str


@dataclass(frozen=True, slots=True)
class IndexKeys:
    """A tenant's turns (or insert jobs) in one shard, for listing: all and the active ones by their acceptance, the
    failed ones by their end. Never the truth about a turn."""

    all: str
    active: str
    failed: str


@dataclass(frozen=True, slots=True)
class CallKeys:
    """Keys of one call that a client waits for. Both go with the call, or expire."""

    request: str
    reply: str


@dataclass(frozen=True, slots=True)
class FileKeys:
    """Keys of a tenant's files: when each is over, what is told of each, how many bytes each counts with, and by their
    creation all of them and those of each purpose. All are in one slot, the bytes of the files too."""

    expiry: str
    rows: str
    sizes: str
    indexes: tuple[str, ...]
    bytes: str
    """What the keys of the files' bytes begin with."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Builds all keys of one installation. `prefix` lets several share a server."""

    prefix: str

    def turn(self, ref: TurnRef) -> TurnKeys:
        return _turn_keys(self.prefix, ref)

    def session(self, ref: SessionRef) -> SessionKeys:
        base = f"{self.prefix}:{{s{ref.shard:02d}}}:{ref.tenant}:session:{ref.session_id}"
        return SessionKeys(base, f"{base}:queue", f"{base}:turns")

    def shard(self, number: int) -> ShardKeys:
        return _shard_keys(self.prefix, number)

    def index(self, number: int, tenant: str, *, jobs: bool = False) -> IndexKeys:
        base = f"{self.prefix}:{{s{number:02d}}}:{tenant}:{'jobs' if jobs else 'index'}"
        return IndexKeys(f"{base}:all", f"{base}:active", f"{base}:failed")

    def index_of(self, ref: TurnRef) -> IndexKeys:
        """The indexes that list a turn."""
        return self.index(ref.shard, ref.tenant, jobs=ref.is_job)

    def channel(self, number: int) -> str:
        """Carries a notice for each turn of the shard whose log grew: see shared/log/notices.py."""
        return self.shard(number).channel

    @property
    def reaper(self) -> str:
        """The lock of the reaper that looks at all shards now."""
        return f"{self.prefix}:reaper"

    @property
    def control(self) -> str:
        """Carries the member of each running turn that somebody canceled, to its owner."""
        return f"{self.prefix}:control"

    def turn_idempotency(self, ref: SessionRef, key: str) -> str:
        return f"{self.session(ref).session}:idem:{key}"

    def idempotency(self, tenant: str, route: str, key: str) -> str:
        return f"{self.prefix}:{tenant}:idem:{route}:{key}"

    def agent(self, tenant: str, agent_id: str) -> str:
        return f"{self.prefix}:{tenant}:agent:{agent_id}"

    def agents(self, tenant: str) -> str:
        """Index of a tenant's agents, by time of creation."""
        return f"{self.prefix}:{tenant}:agents"

    def agent_sessions(self, tenant: str, agent_id: str) -> str:
        """Index of an agent's sessions, by time of creation."""
        return f"{self.agent(tenant, agent_id)}:sessions"

    def registry(self, digest: str) -> str:
        """What the providers of one run config serve."""
        return f"{self.prefix}:registry:{digest}"

    def registrations(self, tenant: str) -> str:
        """What a tenant has registered with providers, kept until it is deleted."""
        return f"{self.prefix}:{tenant}:registrations"

    @property
    def session_banks(self) -> str:
        """The memory banks of sessions (a hash by the session's member), until they are deleted."""
        return f"{self.prefix}:session_banks"

    def call(self, call_id: str) -> CallKeys:
        base = f"{self.prefix}:call:{{{call_id}}}"
        return CallKeys(f"{base}:request", f"{base}:reply")

    def workers(self, queue: str) -> str:
        """Worker processes that serve a queue, by the time of their last sign of life."""
        return f"{self.prefix}:workers" if queue == TURNS_QUEUE else f"{self.prefix}:workers:{queue}"

    def files(self, tenant: str, purposes: Sequence[str]) -> FileKeys:
        base = f"{self.prefix}:{{files:{tenant}}}"
        indexes = tuple(f"{base}:index:{name}" for name in ("all", *purposes))
        return FileKeys(f"{base}:expiry", f"{base}:rows", f"{base}:sizes", indexes, f"{base}:file:")


# Remembered: every batch of every turn asks for them.


@lru_cache(4096)
def _turn_keys(prefix: str, ref: TurnRef) -> TurnKeys:
    base = f"{prefix}:{{s{ref.shard:02d}}}:{ref.tenant}:turn:{ref.turn_id}"
    shard = _shard_keys(prefix, ref.shard)
    return TurnKeys(
        turn=base,
        events=f"{base}:events",
        private=f"{base}:private",
        blobs=f"{base}:blobs",
        leases=shard.leases,
        channel=shard.channel,
        member=ref.member,
    )


@lru_cache(SHARDS * 16)
def _shard_keys(prefix: str, number: int) -> ShardKeys:
    base = f"{prefix}:{{s{number:02d}}}"
    return ShardKeys(
        due=f"{base}:due",
        leases=f"{base}:leases",
        limits=f"{base}:limits",
        ended=f"{base}:ended",
        queued=f"{base}:queued",
        channel=f"{base}:notify",
    )
