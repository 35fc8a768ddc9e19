"""How much later the first token comes where a turn looks into a large memory bank before it."""

import asyncio
import sys

from bench.context import Context
from bench.figures import OURS, Section
from bench.load.plan import Plan
from bench.load.runner import Load, Outcome, run_in_turns
from bench.stats import percentile
from bench.systems.direct import ROOT
from bench.systems.remembering import MAX_CHUNKS, Remembering
from bench.systems.turnstone import BANK, Shape, Stack

WITHOUT = "without memory"
MODES = ("vector", "keyword", "hybrid")


async def measure(context: Context) -> None:
    """Turns without memory and with each mode: one at a time, in turn; then 50 in flight, as row `fifty`."""
    chunks = context.sizes.chunks
    section = context.results.section(f"Memory: first token of turns that search {chunks:,} chunks before it")
    with context.stack(Shape(memory=True)) as stack:
        await _fill(context, stack)
        systems = {WITHOUT: Remembering(stack), **{f"mode {mode}": Remembering(stack, mode) for mode in MODES}}
        for name, system in systems.items():
            await _check(system, looks=name != WITHOUT)
            await context.measure(system, Load(plan=Plan(tokens=8), in_flight=4, replies=context.sizes.warm // 4))
        for repeat in range(context.sizes.repeats):
            await _alone(context, section, systems)
            await _fifty(context, section, systems)
            context.say(f"retrieval, {repeat + 1} of {context.sizes.repeats}")
    section.note(
        f"The bank was filled through its provider (bench/bank.py): {chunks:,} documents of one chunk each. The time "
        "includes the embedding of the question by the upstream, and 5 chunks more for the model to read."
    )


async def _fill(context: Context, stack: Stack) -> None:
    """In a process of its own, which is gone when anything is measured."""
    command = [sys.executable, "-m", "bench.bank", str(stack.memory_file), BANK, str(context.sizes.chunks)]
    filling = await asyncio.create_subprocess_exec(*command, cwd=ROOT)
    try:
        if await filling.wait():
            raise RuntimeError(f"the bank could not be filled: exit status {filling.returncode}")
    finally:
        if filling.returncode is None:
            filling.kill()
    context.say(f"a bank of {context.sizes.chunks:,} chunks")


async def _check(system: Remembering, *, looks: bool) -> None:
    """Raises RuntimeError where turns do not do what is to be measured."""
    turn = await system.turn(await system.submit(await system.new_session(), Plan(tokens=1)), wait_s=30)
    found = [len(step["citations"]) for step in turn["steps"] if step["step_type"] == "memory_retrieval"]
    if found != ([MAX_CHUNKS] if looks else []):
        raise RuntimeError(f"a turn's looks into memory found {found} chunks")


async def _alone(context: Context, section: Section, systems: dict[str, Remembering]) -> None:
    count = context.sizes.asked
    for system in systems.values():
        await system.prepare(count)
    outcomes = await run_in_turns([system.ask for system in systems.values()], Plan(tokens=8), count)
    for system in systems.values():
        system.close()
    _note(section, "one at a time", dict(zip(systems, outcomes, strict=True)))


async def _fifty(context: Context, section: Section, systems: dict[str, Remembering]) -> None:
    plan = Plan(tokens=context.sizes.fifty_tokens, token_ms=50)
    load = Load(plan=plan, in_flight=50, replies=context.sizes.fifty, ramp_s=plan.seconds, limit_s=60)
    outcomes = {}
    for name, system in systems.items():
        outcomes[name], _ = await context.measure(system, load)
    _note(section, "50 in flight", outcomes)


def _note(section: Section, load: str, outcomes: dict[str, Outcome]) -> None:
    for name, outcome in outcomes.items():
        if outcome.errors or outcome.unfinished:
            section.note(f"{name}, {load}: {outcome.errors} replies failed, {outcome.unfinished} were late.")
    calm = outcomes.pop(WITHOUT)
    for part in (0.5, 0.99):
        floor = percentile(calm.first_us, part) / 1000
        section.figure(f"{load}, {WITHOUT}, p{part * 100:.0f}", "ms").add(OURS, floor)
        for name, outcome in outcomes.items():
            if outcome.replies:
                first = percentile(outcome.first_us, part) / 1000
                section.figure(f"{load}, {name}, p{part * 100:.0f}", "ms").add(OURS, first)
                section.figure(f"{load}, {name}, p{part * 100:.0f}, added", "ms").add(OURS, first - floor)
