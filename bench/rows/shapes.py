"""Short turns with more worker and API processes: 2 workers against 1, and what serves best."""

from bench.context import Context
from bench.figures import OURS, Goal
from bench.rows.rates import short_load
from bench.systems.turnstone import Shape, Turnstone

TITLE = "Worker and API processes, 64-token turns at 64 in flight"


async def measure(context: Context) -> None:
    """Each shape on a stack of its own, one after the other, as often as the rest."""
    section = context.results.section(TITLE)
    found: dict[tuple[int, int], list[float]] = {}
    for workers, api_processes in context.sizes.shapes:
        figure = section.figure(f"{workers} worker, {api_processes} API", "turns/s")
        with context.stack(Shape(workers=workers, api_processes=api_processes)) as stack:
            ours = Turnstone(stack)
            await context.measure(ours, short_load(context.sizes.warm))
            for _ in range(context.sizes.repeats):
                outcome, cpu_s = await context.measure(ours, short_load(context.sizes.short))
                figure.add(OURS, outcome.replies_per_s)
                found.setdefault((workers, api_processes), []).append(outcome.replies_per_s)
            rooms = ", ".join(f"{room} {used / outcome.seconds:.2f}" for room, used in cpu_s.items())
            section.note(f"Cores in use with {workers} worker and {api_processes} API: {rooms}.")
        context.say(f"{workers} worker and {api_processes} API processes")
    best = max(found, key=lambda shape: max(found[shape]))
    name = "as many processes as serve best"
    for value in found[best]:
        section.figure(name, "turns/s", Goal(at_least=200)).add(OURS, value)
    section.note(f"Best: {best[0]} worker and {best[1]} API processes.")
    if (2, 1) in found and (1, 1) in found:
        ratio = max(found[2, 1]) / max(found[1, 1])
        section.figure("2 workers against 1", "ratio").add(OURS, ratio)
