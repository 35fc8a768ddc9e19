"""What clients that behave badly do to those that do not."""

import asyncio
from abc import ABC, abstractmethod
from contextlib import suppress

from bench.context import Context
from bench.figures import OURS, Goal
from bench.load.client import Connection
from bench.load.plan import Plan
from bench.load.runner import Load, Outcome, run_load
from bench.rows.clones import clone, settle
from bench.rows.quiet import connect_all, quiet_turns
from bench.stats import percentile
from bench.systems.turnstone import EVENTS, Turnstone

TITLE = "Neighbours: delay of tokens for 50 others, 20 tokens/s each"
SLOWED, SLACK_MS = 1.5, 5.0
"""Not slowed: p99 at most so many times that without, measured right before, and so many ms more."""
LINK_BYTES_PER_S = 1_000_000
TRANSCRIPT_TURN_BYTES = 50_000


class Trouble(ABC):
    """A client, or many, that could slow the others down."""

    name: str

    def __init__(self, context: Context, ours: Turnstone) -> None:
        self._sizes = context.sizes
        self._ours = ours

    @abstractmethod
    async def prepare(self) -> None:
        """Set up what shall not count as the disturbance; both stretches have it."""

    @abstractmethod
    async def disturb(self) -> None:
        """Disturb the second stretch; cancelled at its end."""

    @abstractmethod
    async def clear(self) -> None:
        """Take away what this repeat has set up."""

    async def _tail(self, turn: str, *, receive_bytes: int | None = None) -> Connection:
        connection = await self._ours.client.connect(receive_bytes=receive_bytes)
        connection.begin(self._ours.client.request("GET", f"{turn}/events", accept=EVENTS), lambda data, at: None)
        return connection


class SlowClient(Trouble):
    """One that asks for a busy turn (0.5 MB/s) and reads nothing of it. Somebody else reads it all the time."""

    name = "a client that does not read"

    async def prepare(self) -> None:
        plan = Plan(tokens=6000, token_ms=10, token_bytes=5000)
        self._turn = await self._ours.submit(await self._ours.new_session(), plan)
        self._connections = [await self._tail(self._turn)]

    async def disturb(self) -> None:
        connection = await self._tail(self._turn, receive_bytes=4096)
        self._connections.append(connection)
        connection.transport.pause_reading()

    async def clear(self) -> None:
        for connection in self._connections:
            connection.abort()
        await self._ours.client.fetch("POST", f"{self._turn}/cancel")


class HangUps(Trouble):
    """Many tails that all end at once, half a second into the load."""

    name = "1,000 clients that hang up at once"

    def __init__(self, context: Context, ours: Turnstone) -> None:
        super().__init__(context, ours)
        self._turns: list[str] = []

    async def prepare(self) -> None:
        self._turns = self._turns or await quiet_turns(self._ours, self._sizes.hang_up)
        self._connections = await connect_all(self._ours, self._turns, polls=False)

    async def disturb(self) -> None:
        await asyncio.sleep(0.5)
        await self.clear()

    async def clear(self) -> None:
        for connection in self._connections:
            connection.abort()


class Transcript(Trouble):
    """A session of 50 MB (in full runs), read over a link of 1 MB/s."""

    name = "a 50 MB transcript at 1 MB/s"

    def __init__(self, context: Context, ours: Turnstone) -> None:
        super().__init__(context, ours)
        self._session = ""

    async def prepare(self) -> None:
        if not self._session:
            self._session = await self._ours.new_session()
            turn = await self._ours.submit(self._session, Plan(tokens=1, token_bytes=TRANSCRIPT_TURN_BYTES))
            await self._ours.turn(turn, wait_s=30)
            with self._ours.stack.store() as store:
                clone(store, turn, self._sizes.transcript - 1)
                settle(store)
        self._connection = await self._ours.client.connect(receive_bytes=65536)

    async def disturb(self) -> None:
        self._connection.bytes_per_s = LINK_BYTES_PER_S
        self._connection.begin(self._ours.client.request("GET", self._session), lambda data, at: None)

    async def clear(self) -> None:
        self._connection.abort()


TROUBLES: tuple[type[Trouble], ...] = (SlowClient, HangUps, Transcript)


async def measure(context: Context) -> None:
    """Each trouble in turn, and right before it a stretch of the same load without it."""
    section = context.results.section(TITLE)
    with context.stack(leaves_turns=True) as stack:
        ours = Turnstone(stack)
        await _others(context, ours, seconds=1)
        for kind in TROUBLES:
            trouble = kind(context, ours)
            pairs = [await _pair(context, ours, trouble) for _ in range(context.sizes.repeats)]
            calm = percentile([before for before, _ in pairs], 0.5)
            for before, after in pairs:
                section.figure(f"p99 without {trouble.name}", "ms").add(OURS, before)
                goal = Goal(at_most=SLOWED * calm + SLACK_MS)
                section.figure(f"p99 with {trouble.name}", "ms", goal).add(OURS, after)
            context.say(f"neighbours: {trouble.name}")
    section.note(f"Counted as not slowed: at most {SLOWED} times the p99 without, plus {SLACK_MS:.0f} ms.")


async def _pair(context: Context, ours: Turnstone, trouble: Trouble) -> tuple[float, float]:
    """The p99 of the others, in ms, without the trouble and with it."""
    await trouble.prepare()
    calm = _p99(await _others(context, ours))
    disturbing = asyncio.create_task(trouble.disturb())
    troubled = _p99(await _others(context, ours))
    disturbing.cancel()
    with suppress(asyncio.CancelledError):
        await disturbing
    await trouble.clear()
    return calm, troubled


async def _others(context: Context, ours: Turnstone, *, seconds: float = 0.0) -> Outcome:
    seconds = seconds or context.sizes.neighbours_s
    plan, count = Plan(tokens=max(2, int(20 * seconds)), token_ms=50), context.sizes.neighbours
    await ours.prepare(count)
    return await run_load(ours.ask, Load(plan=plan, in_flight=count, replies=count, ramp_s=0.5, limit_s=seconds + 20))


def _p99(outcome: Outcome) -> float:
    if not outcome.replies:
        raise RuntimeError("none of the other clients got a reply")
    return percentile(outcome.ages_us, 0.99) / 1000
