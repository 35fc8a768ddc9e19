"""Which fault comes when: decided before a run, by its seed alone."""

import random
from collections.abc import Mapping
from dataclasses import dataclass

KILL_WORKER = "kill worker"
KILL_HEARTBEAT = "kill heartbeat"
KILL_API = "kill api"
KILL_STORE = "kill store"
STOP_WORKER = "stop worker"
DRAIN_WORKER = "drain worker"
DRAIN_API = "drain api"
DROP_HINTS = "drop hints"
LOSE_REPLIES = "lose replies"
STALL_LINK = "stall link"
CUT_LINK = "cut link"
KILL_MEMORY = "kill memory worker"
STOP_MEMORY = "stop memory worker"
DRAIN_MEMORY = "drain memory worker"
START_WORKER = "start worker"
"""No fault, but for some seconds a reason: on a busy machine a worker has turns before its heartbeat beats."""

KILLS = {KILL_WORKER: 0.54, KILL_HEARTBEAT: 0.26, KILL_API: 0.1, KILL_STORE: 0.1}
"""Which part of the SIGKILLs each kind is."""
OTHERS = {STOP_WORKER: 0.08, DRAIN_WORKER: 0.05, DRAIN_API: 0.03, DROP_HINTS: 0.2, LOSE_REPLIES: 0.8, STALL_LINK: 0.12,
          CUT_LINK: 0.1}  # fmt: skip
"""How many of each other kind come on one SIGKILL."""
MEMORY = {KILL_MEMORY: 0.2, STOP_MEMORY: 0.1, DRAIN_MEMORY: 0.04}
"""The same of workers for insert jobs: their SIGKILLs come on top."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """`at` seconds after the beginning. `pick` in [0, 1) chooses among the processes that serve just then.

    `seconds` is how long a stop or stall lasts, or how long what was ended stays away; `count` is how many replies
    are lost.
    """

    at: float
    kind: str
    pick: float
    seconds: float = 0.0
    count: int = 0


def schedule(seed: int, *, kills: int, duration_s: float, lease_s: float, kinds: Mapping[str, int] = {}) -> list[Fault]:
    """The faults of a run, in their order. `kinds` gives other numbers for some kinds than follow from `kills`."""
    chance = random.Random(f"schedule {seed}")
    numbers = {**_kills(kills), **{kind: round(part * kills) for kind, part in (OTHERS | MEMORY).items()}, **kinds}
    faults = [_fault(chance, kind, duration_s, lease_s) for kind, number in numbers.items() for _ in range(number)]
    return sorted(faults, key=lambda fault: fault.at)


def _kills(kills: int) -> dict[str, int]:
    others = {kind: round(part * kills) for kind, part in KILLS.items() if kind != KILL_WORKER}
    return {KILL_WORKER: kills - sum(others.values()), **others}


def _fault(chance: random.Random, kind: str, duration_s: float, lease_s: float) -> Fault:
    away = chance.choice((0.0, 0.0, 0.2, 1.0))
    if kind in (STOP_WORKER, STOP_MEMORY):
        # Long past the lease: another worker has gone on with the turns by the time that this one wakes up.
        away = lease_s * chance.uniform(1.4, 2.5)
    elif kind == STALL_LINK:
        # Around the lease and around the five seconds that a client of the store waits for an answer.
        away = chance.choice((0.3, 1.0, lease_s * 1.1, 6.0))
    elif kind == KILL_STORE:
        away = chance.choice((0.0, 0.0, 0.5, 2.0))
    return Fault(
        at=chance.uniform(0.02, 1.0) * duration_s,
        kind=kind,
        pick=chance.random(),
        seconds=away,
        count=chance.choice((1, 1, 2, 4)),
    )
