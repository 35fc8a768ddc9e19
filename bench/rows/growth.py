"""What a turn costs as its session grows, and as the store fills with finished turns."""

import time
from dataclasses import dataclass, field
from datetime import datetime
from statistics import median

from bench.context import Context
from bench.figures import OURS, Goal, Section
from bench.load.plan import Plan, now_us
from bench.load.reply import Reply
from bench.load.runner import Load
from bench.rows.clones import clone, settle
from bench.systems.turnstone import Turnstone

SESSION = "A turn as its session grows"
HISTORY = "A turn as finished turns pile up"
TURN = Plan(tokens=16)
FLAT = 1.5
"""What counts as flat: at most so many times the first one, of medians."""
HISTORY_SESSIONS = 50


@dataclass(slots=True, kw_only=True)
class Costs:
    """Medians of what single turns took, in ms."""

    submit: list[float] = field(default_factory=list)
    claim: list[float] = field(default_factory=list)
    first_token: list[float] = field(default_factory=list)
    tail: list[float] = field(default_factory=list)


WHAT = {
    "submit": "submit, until 202",
    "claim": "from acceptance to claim",
    "first_token": "first token after the submit",
    "tail": "tail of the finished turn",
}


async def session(context: Context) -> None:
    """Its first turn, and later ones; the turns between are copies."""
    section = context.results.section(SESSION)
    found: dict[int, Costs] = {}
    reads: list[tuple[float, float]] = []
    with context.stack() as stack:
        ours = Turnstone(stack)
        await context.measure(ours, _warm(context))
        for place in context.sizes.session_turns:
            found[place] = await _turns_at(ours, place, context.sizes.samples)
            path = await _session_of(ours, place)
            milliseconds = await _read(ours, path)
            section.figure(f"reading the session with {place} turns", "ms").add(OURS, milliseconds)
            reads.append((place, milliseconds))
            context.say(f"turn {place} of a session")
    _note_costs(section, {f"turn {place:,}": costs for place, costs in found.items()}, flat=("submit", "claim", "tail"))
    if len(reads) > 2:
        (_, _), (x, y), (x_last, y_last) = reads
        per_turn = (y_last / x_last) / (y / x)
        section.figure("reading: time per turn, largest against second largest", "ratio", Goal(at_most=FLAT)).add(
            OURS, per_turn
        )
    section.note("A session's later turns send its earlier ones to the model: their first token comes later.")


async def history(context: Context) -> None:
    """Before and after the store holds many finished turns."""
    section, count = context.results.section(HISTORY), context.sizes.finished
    found: dict[str, Costs] = {}
    with context.stack() as stack:
        ours = Turnstone(stack)
        await context.measure(ours, _warm(context))
        found["none"] = await _turns_at(ours, 1, context.sizes.samples)
        started = time.perf_counter()
        await _fill(ours, count)
        section.note(
            f"{count:,} finished turns were made in {time.perf_counter() - started:.0f} s by copying real ones of 16 "
            f"tokens inside the store (bench/rows/clones.py), in {min(HISTORY_SESSIONS, count)} sessions."
        )
        await context.settle(ours)
        found[f"{count:,}"] = await _turns_at(ours, 1, context.sizes.samples)
    _note_costs(section, {f"{name} finished": costs for name, costs in found.items()},
                flat=("submit", "claim", "first_token", "tail"))  # fmt: skip
    context.say(f"{count:,} finished turns")


def _warm(context: Context) -> Load:
    return Load(plan=TURN, in_flight=8, replies=context.sizes.warm)


async def _fill(ours: Turnstone, count: int) -> None:
    sessions = min(HISTORY_SESSIONS, count)
    with ours.stack.store() as store:
        for _ in range(sessions):
            turn = await _finished(ours, await ours.new_session())
            clone(store, turn, count // sessions - 1)
        settle(store)


async def _session_of(ours: Turnstone, turns: int) -> str:
    """A session with so many finished turns."""
    path = await ours.new_session()
    turn = await _finished(ours, path)
    if turns > 1:
        with ours.stack.store() as store:
            clone(store, turn, turns - 1)
    return path


async def _finished(ours: Turnstone, session: str) -> str:
    turn = await ours.submit(session, TURN)
    await ours.turn(turn, wait_s=30)
    return turn


async def _turns_at(ours: Turnstone, place: int, samples: int) -> Costs:
    """The `place`-th turn of a session; where that is late, in one session, with the next ones."""
    costs = Costs()
    grown = await _session_of(ours, place - 1) if place > 1 else ""
    for _ in range(samples):
        await _one(ours, grown or await ours.new_session(), costs)
    return costs


async def _one(ours: Turnstone, session: str, costs: Costs) -> None:
    begun = now_us()
    turn = await ours.submit(session, TURN)
    costs.submit.append((now_us() - begun) / 1000)
    await ours.follow(turn, reply := Reply(started=begun))
    costs.first_token.append(reply.first_token / 1000)
    rested = await ours.turn(turn, wait_s=30)
    costs.claim.append(_ms(rested["created_at"], rested["started_at"]))
    begun = now_us()
    await ours.follow(turn, Reply())
    costs.tail.append((now_us() - begun) / 1000)


async def _read(ours: Turnstone, session: str) -> float:
    times = []
    for _ in range(3):
        begun = now_us()
        status, _ = await ours.client.fetch("GET", session)
        if status != 200:
            raise RuntimeError(f"GET {session}: {status}")
        times.append((now_us() - begun) / 1000)
    return median(times)


def _ms(start: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds() * 1000


def _note_costs(section: Section, found: dict[str, Costs], *, flat: tuple[str, ...]) -> None:
    columns = list(found)
    for what, words in WHAT.items():
        medians = {column: median(getattr(found[column], what)) for column in columns}
        for column in columns:
            goal = Goal(at_most=FLAT * medians[columns[0]]) if what in flat and column != columns[0] else None
            section.figure(f"{words}, {column}", "ms", goal).add(OURS, medians[column])
