"""Thousands of clients that wait for turns on which nothing happens, half with a tail and half with a long poll."""

import asyncio
from collections.abc import Sequence

from bench.context import Context
from bench.figures import OURS, Goal, Section
from bench.load.client import Connection
from bench.load.plan import Plan
from bench.load.runner import Load, run_load
from bench.stats import added_ms
from bench.systems.turnstone import EVENTS, Turnstone

TITLE = "Clients of quiet turns on one API process"
SLEEPING = Plan(tokens=1, first_ms=600_000)
SESSIONS = 25
BATCH = 100


async def measure(context: Context) -> None:
    """On a stack of its own, which goes with its sleeping turns."""
    section, count = context.results.section(TITLE), context.sizes.quiet_clients
    with context.stack(leaves_turns=True) as stack:
        ours = Turnstone(stack)
        await context.measure(ours, Load(plan=Plan(tokens=16), in_flight=8, replies=context.sizes.warm))
        turns = await quiet_turns(ours, count)
        await context.settle(ours)
        before = ours.usage().rss_mb["api"]
        connections = await connect_all(ours, turns)
        await asyncio.sleep(context.sizes.quiet_s)
        held = sum(connection.open for connection in connections)
        grown = ours.usage().rss_mb["api"] - before
        section.figure("clients held", f"of {count}", Goal(at_least=count)).add(OURS, held)
        memory = grown * 1024 / max(1, held)
        section.figure("memory of the API per client", "KB", Goal(at_most=40)).add(OURS, memory)
        await _first_token(context, section, ours)
        for connection in connections:
            connection.abort()
    section.note("gunicorn's worker_connections of the API is 10,000; open files are raised to the hard limit.")
    context.say(f"{held} of {count} quiet clients held")


async def quiet_turns(ours: Turnstone, count: int) -> list[str]:
    """Turns that wait behind the first of their session, which sleeps in the upstream."""
    sessions = [await ours.new_session() for _ in range(min(SESSIONS, count))]
    for session in sessions:
        await ours.submit(session, SLEEPING)
    turns: list[str] = []
    while len(turns) < count:
        batch = [sessions[number % len(sessions)] for number in range(min(BATCH, count - len(turns)))]
        turns += await asyncio.gather(*(ours.submit(session, SLEEPING) for session in batch))
    return turns


async def connect_all(ours: Turnstone, turns: Sequence[str], *, polls: bool = True) -> list[Connection]:
    """A client for each turn: a tail, and with `polls` a long poll for every other one. Each tail has had its first
    event."""
    connections: list[Connection] = []
    for start in range(0, len(turns), BATCH):
        batch = turns[start : start + BATCH]
        begun = [_begin(ours, turn, poll=polls and number % 2 == 1) for number, turn in enumerate(batch)]
        connections += await asyncio.gather(*begun)
    return connections


async def _begin(ours: Turnstone, turn: str, *, poll: bool) -> Connection:
    connection = await ours.client.connect()
    heard = asyncio.Event()
    if poll:
        connection.begin(ours.client.request("GET", f"{turn}?wait=600"), lambda data, at: None)
    else:
        request = ours.client.request("GET", f"{turn}/events", accept=EVENTS)
        connection.begin(request, lambda data, at: heard.set())
        await asyncio.wait_for(heard.wait(), 30)
    return connection


async def _first_token(context: Context, section: Section, ours: Turnstone) -> None:
    """What a turn feels of them."""
    load = Load(plan=Plan(tokens=8), in_flight=1, replies=context.sizes.samples)
    direct = await run_load(context.direct.ask, load)
    await ours.prepare(load.replies)
    outcome = await run_load(ours.ask, load)
    for part in (0.5, 0.99):
        if outcome.replies:
            added = added_ms(outcome.first_us, direct.first_us, part)
            section.figure(f"first token of a turn beside them, added, p{part * 100:.0f}", "ms").add(OURS, added)
