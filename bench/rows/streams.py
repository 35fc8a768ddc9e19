"""Steady streams held: so many turns at once, all followed, in one worker process and one API process."""

import asyncio
import contextlib

from bench.context import Context
from bench.figures import OURS, Goal
from bench.load.plan import Plan
from bench.load.runner import Load, Outcome, run_load
from bench.rows.cpu import note_cpu
from bench.stats import added_ms
from bench.systems.base import System
from bench.systems.turnstone import Turnstone

TITLE = "Steady streams, one worker process and one API process"
WATCH_S = 1.0
LIMIT = 2.5
"""Of the time that a reply takes by itself: what has not ended by then has not been held."""


async def measure(context: Context) -> None:
    """The goal's thousand at 5 tokens/s, then streams of 10 tokens/s by number, with the peers as far as they go."""
    levels = [(context.sizes.streams, 5, repeat) for repeat in range(context.sizes.repeats)]
    levels += [(level, 10, 0) for level in context.sizes.levels]
    while levels:
        with context.stack(leaves_turns=True) as stack:
            ours = Turnstone(stack)
            await context.measure(ours, Load(plan=Plan(tokens=16), in_flight=8, replies=context.sizes.warm))
            clean = True
            while levels and clean:
                streams, rate, repeat = levels.pop(0)
                peers = [system for system in context.systems.values() if rate == 10 and system.able.streams >= streams]
                others = [system for system in peers if system.name not in (OURS, "direct")]
                clean = await _held(context, streams, rate, [context.direct, ours, *others])
                context.say(f"{streams} streams of {rate} tokens/s, repeat {repeat + 1}")


async def _held(context: Context, streams: int, rate: int, systems: list[System]) -> bool:
    """Measure one level. False where turns were left behind that still run: the next level wants another stack."""
    plan = Plan(tokens=max(2, int(context.sizes.stream_s * rate)), first_ms=1000 / rate, token_ms=1000 / rate)
    ramp_s = streams / context.sizes.ramp_per_s
    limit_s = ramp_s + LIMIT * plan.seconds + 5
    load = Load(plan=plan, in_flight=streams, replies=streams, ramp_s=ramp_s, limit_s=limit_s)
    clean = True
    for system in systems:
        await system.prepare(streams)
        await context.settle(system)
        before = system.usage()
        watch = asyncio.create_task(_watched(system))
        outcome = await run_load(system.ask, load)
        watch.cancel()
        peak = await watch
        cpu_s = system.usage().cpu_since(before)
        await context.settle(system)
        system.close()
        if system.name == "direct":
            direct = outcome
        clean = clean and (system.name != OURS or not outcome.unfinished)
        note_cpu(context, f"{streams} streams of {rate} tokens/s", system, outcome, cpu_s)
        _note(context, f"{streams} of {rate} tokens/s", streams, system.name, (outcome, direct), peak, cpu_s)
    return clean


async def _watched(system: System) -> dict[str, float]:
    """The most memory that the rooms had until this is cancelled, in MB."""
    peak: dict[str, float] = {}
    with contextlib.suppress(asyncio.CancelledError):
        while True:
            for room, used in system.usage(look_again=False).rss_mb.items():
                peak[room] = max(peak.get(room, 0.0), used)
            await asyncio.sleep(WATCH_S)
    return peak


def _note(
    context: Context,
    load: str,
    streams: int,
    name: str,
    outcomes: tuple[Outcome, Outcome],
    peak: dict[str, float],
    cpu_s: dict[str, float],
) -> None:
    outcome, direct = outcomes
    section = context.results.section(TITLE)
    goals = load.endswith("of 5 tokens/s")
    section.figure(f"{load}, finished", "of them", Goal(at_least=streams) if goals else None).add(
        name, len(outcome.replies)
    )
    if outcome.replies and name != "direct":
        goal = Goal(at_most=250) if goals else None
        delay = added_ms(outcome.ages_us, direct.ages_us, 0.99)
        section.figure(f"{load}, added delay between tokens, p99", "ms", goal).add(name, delay)
        section.figure(f"{load}, added delay between tokens, p50", "ms").add(
            name, added_ms(outcome.ages_us, direct.ages_us, 0.5)
        )
        context.results.point("added delay", name, streams, delay)
    rooms = {room: used for room, used in peak.items() if room != "store"}
    goal = Goal(at_most=450) if goals else None
    if name != "direct":
        section.figure(f"{load}, memory without store", "MB", goal).add(name, sum(rooms.values()))
        context.results.point("memory", name, streams, sum(rooms.values()))
    used = {room: spent / outcome.seconds for room, spent in cpu_s.items()}
    section.figure(f"{load}, cores in use", "").add(name, sum(used.values()))
