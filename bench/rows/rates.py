"""How much goes through, with an upstream that never pauses."""

from bench.context import Context
from bench.figures import Goal
from bench.load.plan import Plan
from bench.load.runner import Load, Outcome
from bench.rows.cpu import note_cpu
from bench.systems.base import System

TITLE = "Throughput, an upstream without delay"
SHORT = Plan(tokens=64)
LIMIT_S = 15.0


def short_load(replies: int) -> Load:
    return Load(plan=SHORT, in_flight=64, replies=replies, limit_s=LIMIT_S)


async def short(context: Context) -> None:
    """64-token replies, 64 in flight."""
    figure = context.results.section(TITLE).figure("64-token turns, 64 in flight", "turns/s", Goal(at_least=200))
    for repeat in range(context.sizes.repeats):
        for system in context.systems.values():
            fast = system.name in ("direct", context.ours.name)
            load = short_load(context.sizes.short if fast else context.sizes.short_slow)
            rate = await _rate(context, "64 in flight, 64 tokens", system, load)
            figure.add(system.name, rate.replies_per_s)
            context.results.point("turns/s", system.name, 64, rate.replies_per_s)
        context.say(f"64-token turns, {repeat + 1} of {context.sizes.repeats}")


async def long(context: Context) -> None:
    """2,000-token replies, 8 in flight."""
    section = context.results.section(TITLE)
    figure = section.figure("2,000-token replies, 8 in flight", "tokens/s", Goal(at_least=25_000))
    for repeat in range(context.sizes.repeats):
        for system in context.systems.values():
            tokens = system.able.long_tokens
            if tokens != 2000:
                section.note(f"{system.name} was asked for replies of {tokens} tokens, not 2,000.")
            load = Load(plan=Plan(tokens=tokens), in_flight=8, replies=context.sizes.long, limit_s=LIMIT_S)
            rate = await _rate(context, "8 in flight, 2,000 tokens", system, load)
            figure.add(system.name, rate.tokens_per_s)
            context.results.point("tokens/s", system.name, 8, rate.tokens_per_s)
        context.say(f"2,000-token replies, {repeat + 1} of {context.sizes.repeats}")


async def _rate(context: Context, words: str, system: System, load: Load) -> Outcome:
    outcome, cpu_s = await context.measure(system, load)
    note_cpu(context, words, system, outcome, cpu_s)
    if outcome.errors or outcome.unfinished:
        section = context.results.section(TITLE)
        section.note(f"{system.name}, {words}: {outcome.errors} replies failed, {outcome.unfinished} were late.")
    return outcome
