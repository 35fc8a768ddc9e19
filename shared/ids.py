"""Identifiers. Session and turn ids carry their shard, so an id alone says where its keys lie."""

import secrets
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256

from shared.errors import InvalidRequest

SHARDS = 64
DEFAULT_TENANT = "default"
_RANDOM_BYTES = 12  # 96 bits: no two ids of a tenant ever meet
_JOB = "job_"


def new_agent_id() -> str:
    return f"agent_{secrets.token_hex(_RANDOM_BYTES)}"


def new_session_id() -> str:
    """A session id in a random shard: `sess_<shard>_<random>`."""
    return f"sess_{secrets.randbelow(SHARDS):02d}_{secrets.token_hex(_RANDOM_BYTES)}"


def new_turn_id(session_id: str) -> str:
    """A turn id in the shard of its session: `turn_<shard>_<random>`."""
    return f"turn_{shard_of(session_id):02d}_{secrets.token_hex(_RANDOM_BYTES)}"


def new_job_id(session_id: str) -> str:
    """An insert job's id in the shard of its session: `job_<shard>_<random>`. It is a turn to the log."""
    return f"{_JOB}{shard_of(session_id):02d}_{secrets.token_hex(_RANDOM_BYTES)}"


def job_ids_for(seed: str) -> tuple[str, str]:
    """The session's id and the job's for a request that may come again: the same for the same seed."""
    digest = sha256(seed.encode()).hexdigest()
    shard, random = int(digest[:8], 16) % SHARDS, digest[8 : 8 + 2 * _RANDOM_BYTES]
    return f"sess_{shard:02d}_{random}", f"{_JOB}{shard:02d}_{random}"


def new_file_id() -> str:
    return f"file_{secrets.token_hex(_RANDOM_BYTES)}"


def file_id_for(seed: str) -> str:
    """A file's id for a seed that may come again: the same for the same seed."""
    return f"file_{sha256(seed.encode()).hexdigest()[: 2 * _RANDOM_BYTES]}"


def new_step_id() -> str:
    return f"step_{secrets.token_hex(_RANDOM_BYTES)}"


def new_call_id() -> str:
    return f"call_{secrets.token_hex(_RANDOM_BYTES)}"


def new_token() -> str:
    """An owner's token. Random, so that it fences also where a failover issues an epoch twice."""
    return secrets.token_hex(8)


def is_job(member: str) -> bool:
    """Whether a turn's `member` is that of an insert job: its last part says so."""
    return f"/{_JOB}" in member


def is_job_id(identifier: str) -> bool:
    """Whether a turn's id is that of an insert job."""
    return identifier.startswith(_JOB)


@lru_cache(10_000)
def shard_of(identifier: str) -> int:
    """The shard in a session or turn id. Raises InvalidRequest where there is none."""
    parts = identifier.split("_")
    if len(parts) == 3 and len(parts[1]) == 2 and parts[1].isascii() and parts[1].isdigit():
        shard = int(parts[1])
        if shard < SHARDS:
            return shard
    raise InvalidRequest(f"'{identifier}' is not an id that this service issued.")


@dataclass(frozen=True, slots=True)
class SessionRef:
    """Where a session's keys lie."""

    tenant: str
    session_id: str

    @property
    def shard(self) -> int:
        return shard_of(self.session_id)

    @property
    def member(self) -> str:
        """The session as a member of its shard's due index (a turn's member has a third part)."""
        return f"{self.tenant}/{self.session_id}/"


@dataclass(frozen=True, slots=True)
class TurnRef:
    """Where a turn's keys lie. `member` is the text form, used in indexes, notices and hints."""

    tenant: str
    session_id: str
    turn_id: str

    @property
    def shard(self) -> int:
        return shard_of(self.turn_id)

    @property
    def session(self) -> SessionRef:
        return SessionRef(self.tenant, self.session_id)

    @property
    def member(self) -> str:
        return f"{self.tenant}/{self.session_id}/{self.turn_id}"

    @property
    def is_job(self) -> bool:
        """Whether it is an insert job: a turn to the log, with indexes, a queue and routes of its own."""
        return is_job(self.member)

    @classmethod
    def parse(cls, member: str) -> "TurnRef":
        """The inverse of `member`."""
        tenant, session_id, turn_id = member.split("/")
        return cls(tenant, session_id, turn_id)
