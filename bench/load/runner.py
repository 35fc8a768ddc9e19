"""Puts load on a system and collects what its readers saw."""

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from bench.load.plan import Plan
from bench.load.reply import Reply

Ask = Callable[[Plan, Reply], Awaitable[None]]
"""Asks a system for one reply and fills it. Raises OSError and RuntimeError for what is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """`replies` replies by `plan`, `in_flight` of them at any time, begun one after the other within `ramp_s`.

    After `limit_s` the readers hang up, and what has not ended counts as unfinished.
    """

    plan: Plan
    in_flight: int
    replies: int
    ramp_s: float = 0.0
    limit_s: float = 60.0

    @property
    def tokens(self) -> int:
        return self.replies * self.plan.tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a load. `errors` counts replies that failed or were wrong, `unfinished` those left at the limit."""

    replies: list[Reply]
    errors: int
    unfinished: int
    tokens: int
    seconds: float
    client_cpu_s: float = 0.0
    """What reading them took here."""

    @property
    def first_us(self) -> list[int]:
        return [reply.first_token for reply in self.replies]

    @property
    def ages_us(self) -> list[int]:
        return [age for reply in self.replies for age in reply.ages]

    @property
    def replies_per_s(self) -> float:
        return len(self.replies) / self.seconds

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds


async def run_load(ask: Ask, load: Load) -> Outcome:
    """All replies of a load; what it needs has been prepared."""
    begun: list[Reply] = []
    failures: list[str] = []
    left = iter(range(load.replies))

    async def slot(number: int) -> None:
        await asyncio.sleep(number * load.ramp_s / load.in_flight)
        for _ in left:
            begun.append(reply := Reply())
            await _one(ask, load.plan, reply, failures)

    started, cpu_s = time.perf_counter(), time.process_time()
    gc.disable()  # its pauses would be taken for the system's
    tasks = [asyncio.create_task(slot(number)) for number in range(load.in_flight)]
    _, late = await asyncio.wait(tasks, timeout=load.limit_s)
    seconds = time.perf_counter() - started
    gc.enable()
    for task in late:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    _show(failures)
    outcome = outcome_of(begun, load.plan, seconds, cut_short=bool(late), wanted=load.replies)
    return replace(outcome, client_cpu_s=time.process_time() - cpu_s)


async def run_in_turns(asks: Sequence[Ask], plan: Plan, replies: int) -> list[Outcome]:
    """One reply at a time, from each system in turn: what disturbs one disturbs the others alike."""
    found: list[list[Reply]] = [[] for _ in asks]
    failures: list[str] = []
    started = time.perf_counter()
    for _ in range(replies):
        for ask, its in zip(asks, found, strict=True):
            its.append(reply := Reply())
            await _one(ask, plan, reply, failures)
    seconds = time.perf_counter() - started
    _show(failures)
    return [outcome_of(its, plan, seconds, cut_short=False, wanted=replies) for its in found]


def outcome_of(begun: Sequence[Reply], plan: Plan, seconds: float, *, cut_short: bool, wanted: int) -> Outcome:
    """Sorts replies: those that are whole, those that were wrong, and those that the limit cut short or kept away."""
    good = [reply for reply in begun if reply.complete and reply.tokens == plan.tokens]
    bad = [reply for reply in begun if reply.complete and reply.tokens != plan.tokens]
    lost = wanted - len(good) - len(bad)
    return Outcome(
        replies=good,
        errors=len(bad) + (0 if cut_short else lost),
        unfinished=lost if cut_short else 0,
        tokens=sum(reply.tokens for reply in begun),
        seconds=seconds,
    )


async def _one(ask: Ask, plan: Plan, reply: Reply, failures: list[str]) -> None:
    try:
        await asyncio.wait_for(ask(plan, reply), plan.seconds + 30)
    except (OSError, RuntimeError, TimeoutError) as error:
        failures.append(f"{type(error).__name__} {error}")


def _show(failures: Sequence[str]) -> None:
    for words in dict.fromkeys(failures):
        print(f"    {failures.count(words)} x {words[:200]}")
