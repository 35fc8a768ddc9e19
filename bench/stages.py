"""`make profile`: where a turn's time goes on its way to the first token, by stage, and where CPU goes, by function.

Nothing in the product is changed for it. The stages are cut by times that are there anyway: those in the turn's events,
the upstream's stamps in the first token (request came in, token was written), the moment at which the token's event can
be read in the store, and what the client sees. All processes share one machine, and so its clocks.
"""

import argparse
import asyncio
import contextlib
import resource
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from redis.asyncio import Redis

from bench.load.plan import Plan, ages_us, arrival_age_us, now_us
from bench.load.runner import Load, run_load
from bench.metrics import Means
from bench.spying import spy
from bench.stats import number, percentile
from bench.systems.direct import Direct
from bench.systems.processes import Processes
from bench.systems.turnstone import EVENTS, KEY_PREFIX, Stack, Turnstone
from shared.ids import DEFAULT_TENANT, TurnRef
from shared.log.keys import Keys

TURN = Plan(tokens=8)
STEADY = Plan(tokens=40, token_ms=50)
SPY_S = 6.0
STAGES = (
    ("accept", "request sent, until the API writes the turn", "sent", "created"),
    ("queue", "hint published, until a worker begins to claim", "created", "started"),
    ("claim", "claim, configuration, what to do", "started", "step"),
    ("request", "request made, until the provider has it", "step", "asked"),
    ("provider", "first byte from the provider", "asked", "written"),
    ("journal, store", "token read, journal, append, until it can be read", "written", "stored"),
    ("hub, client", "notice, hub, response, until the client has it", "stored", "seen"),
)
_WALL_US = time.time_ns() // 1000 - now_us()


@dataclass(slots=True, kw_only=True)
class Times:
    """One turn. All in µs of the monotonic clock."""

    sent: int = 0
    accepted: int = 0
    created: int = 0
    started: int = 0
    step: int = 0
    asked: int = 0
    written: int = 0
    stored: int = 0
    seen: int = 0


async def timed_turn(ours: Turnstone, store: "Redis") -> Times:
    """One turn in a session of its own, and when it passed what."""
    session, times = await ours.new_session(), Times()
    times.sent = now_us()
    turn = await ours.submit(session, TURN)
    times.accepted = now_us()
    watching = asyncio.create_task(_watch(store, turn, times))

    def read(data: bytes, at: int) -> None:
        if not times.seen and b"step_progress" in data and (ages := ages_us(data, at)):
            times.seen, times.written = at, at - ages[0]
            times.asked = at - (arrival_age_us(data, at) or 0)

    await ours.client.send("GET", f"{turn}/events", on_body=read, accept=EVENTS)
    await watching
    rested = await ours.turn(turn, wait_s=10)
    times.created, times.started = _moment(rested["created_at"]), _moment(rested["started_at"])
    times.step = _moment(rested["steps"][0]["started_at"])
    return times


async def _watch(store: "Redis", turn: str, times: Times) -> None:
    """Note when the first token's event can be read in the store."""
    parts = turn.split("/")
    key = Keys(KEY_PREFIX).turn(TurnRef(DEFAULT_TENANT, parts[-3], parts[-1])).events
    last = "0"
    while not times.stored:
        found = await store.xread({key: last}, block=5000)
        at = now_us()
        entries = found[0][1] if found else []
        if entries:
            last = entries[-1][0]
        if any(b"step_progress" in value for _, fields in entries for value in fields.values()):
            times.stored = at


def _moment(iso: str) -> int:
    return int(datetime.fromisoformat(iso).timestamp() * 1_000_000) - _WALL_US


def stage_table(turns: list[Times]) -> str:
    """Each stage's own time, and the time since the request at its end, as Markdown."""
    lines = ["| stage | | p50 ms | p99 ms | since the request, p50 ms |", "|---|---|---|---|---|"]
    for stage, words, begin, end in STAGES:
        own = [getattr(turn, end) - getattr(turn, begin) for turn in turns]
        since = [getattr(turn, end) - turn.sent for turn in turns]
        cells = (percentile(own, 0.5), percentile(own, 0.99), percentile(since, 0.5))
        lines.append(f"| {stage} | {words} | {' | '.join(number(cell / 1000) for cell in cells)} |")
    accepted = percentile([turn.accepted - turn.sent for turn in turns], 0.5) / 1000
    return "\n".join([*lines, "", f"The client had its 202 after {number(accepted)} ms (median)."])


async def profile(stack: Stack, turns: int) -> None:
    """Stages of single turns, the same among 50 others, then functions under two loads."""
    ours, store = Turnstone(stack), Redis.from_url(stack.store_url)
    await ours.prepare(64)
    await run_load(ours.ask, Load(plan=TURN, in_flight=8, replies=64))
    await _stages("One turn at a time", ours, store, turns)
    others = asyncio.create_task(_others(ours))
    await asyncio.sleep(STEADY.seconds)
    await _stages("Among 50 others of 20 tokens/s", ours, store, turns)
    others.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await others
    await store.aclose()
    await _functions("50 streams of 20 tokens/s", ours, Load(plan=STEADY, in_flight=50, replies=400, ramp_s=2))
    await _functions("64-token turns, 64 in flight", ours, Load(plan=Plan(tokens=64), in_flight=64, replies=3000))


async def _stages(words: str, ours: Turnstone, store: "Redis", turns: int) -> None:
    means = Means(ours.stack)
    found = [await timed_turn(ours, store) for _ in range(turns)]
    print(f"\n## {words}\n\n{stage_table(found)}\n\nMeans of the metrics meanwhile: {means.since()}", flush=True)


async def _others(ours: Turnstone) -> None:
    while True:
        await ours.prepare(100)
        await run_load(ours.ask, Load(plan=STEADY, in_flight=50, replies=100, ramp_s=2))


async def _functions(words: str, ours: Turnstone, load: Load) -> None:
    await ours.prepare(load.replies)
    running = asyncio.create_task(run_load(ours.ask, load))
    await asyncio.sleep(1)
    print(f"\n## CPU under {words}", flush=True)
    rooms = {"worker": ours.stack.workers[0].family()[0], "api": ours.stack.api.family()[-1]}
    found = await asyncio.gather(*(spy(process.pid, SPY_S) for process in rooms.values()))
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    for room, table in zip(rooms, found, strict=True):
        print(f"\n### {room}\n\n{table}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.stages", description=__doc__)
    parser.add_argument("--turns", type=int, default=60)
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        Processes(Path(folder) / "upstream") as upstream,
        Processes(Path(folder) / "turnstone") as rooms,
    ):
        stack = Stack(rooms, Direct(upstream).url)
        stack.until_ready()
        asyncio.run(profile(stack, options.turns))


if __name__ == "__main__":
    main()
