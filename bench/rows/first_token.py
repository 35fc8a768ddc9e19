"""How much later the first token comes than straight from the upstream."""

from bench.context import Context
from bench.figures import Goal, Section
from bench.load.plan import Plan
from bench.load.runner import Load, Outcome, run_in_turns
from bench.rows.cpu import note_cpu
from bench.stats import added_ms, percentile
from bench.systems.base import System
from bench.systems.turnstone import TurnstonePost

TITLE = "First token, added to the upstream's own"


async def alone(context: Context) -> None:
    """One reply at a time, from each system in turn."""
    section = context.results.section(TITLE)
    for repeat in range(context.sizes.repeats):
        systems = _with_post(context)
        for name, outcome in (await _alone(context, systems)).items():
            if name == "direct":
                direct = outcome
            goals = Goal(at_most=5), Goal(at_most=12)
            _note(section, "one at a time", name, outcome, direct, goals)
        context.say(f"first token alone, {repeat + 1} of {context.sizes.repeats}")


async def _alone(context: Context, systems: list[System]) -> dict[str, Outcome]:
    plan, count = Plan(tokens=8), context.sizes.alone
    fast = [system for system in systems if system.able.alone == 1]
    slow = [system for system in systems if system.able.alone > 1]
    for system in systems:
        await system.prepare(count)
    outcomes = await run_in_turns([system.ask for system in fast], plan, count)
    for system in slow:
        outcomes += await run_in_turns([system.ask], plan, max(2, count // system.able.alone))
    for system in systems:
        system.close()
    return {system.name: outcome for system, outcome in zip([*fast, *slow], outcomes, strict=True)}


async def fifty(context: Context) -> None:
    """50 in flight, 40 tokens at 20 tokens/s, begun one after the other."""
    section = context.results.section(TITLE)
    plan = Plan(tokens=context.sizes.fifty_tokens, token_ms=50)
    load = Load(plan=plan, in_flight=50, replies=context.sizes.fifty, ramp_s=plan.seconds, limit_s=30)
    for repeat in range(context.sizes.repeats):
        for system in _with_post(context):
            outcome, cpu_s = await context.measure(system, load)
            if system.name == "direct":
                direct = outcome
            _note(section, "50 in flight", system.name, outcome, direct, (Goal(at_most=8), Goal(at_most=40)))
            note_cpu(context, "50 in flight, 20 tokens/s each", system, outcome, cpu_s)
        context.say(f"first token with 50 in flight, {repeat + 1} of {context.sizes.repeats}")


def _with_post(context: Context) -> list[System]:
    post = [TurnstonePost(context.ours.stack)] if context.sizes.post else []
    return [*context.systems.values(), *post]


def _note(section: Section, load: str, name: str, outcome: Outcome, direct: Outcome, goals: tuple[Goal, Goal]) -> None:
    if outcome.errors or outcome.unfinished:
        section.note(f"{name}, {load}: {outcome.errors} replies failed, {outcome.unfinished} were late.")
    if not outcome.replies:
        return
    for part, goal in zip((0.5, 0.99), goals, strict=True):
        figure = section.figure(f"{load}, p{part * 100:.0f}", "ms", goal)
        if name == "direct":
            figure.add("direct (not added)", percentile(outcome.first_us, part) / 1000)
        else:
            figure.add(name, added_ms(outcome.first_us, direct.first_us, part))
