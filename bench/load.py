"""Puts load on a target and collects what its readers saw."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from targets import Reply, Target
from upstream import Plan

REPLY_S = 30.0
"""No reply takes that long: one that does is counted as an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """`replies` replies by `plan`, `in_flight` of them at any time."""

    plan: Plan
    in_flight: int
    replies: int

    @property
    def tokens(self) -> int:
        return self.replies * self.plan.tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a load. `errors` counts replies that were cut short, wrong or late."""

    replies: list[Reply]
    errors: int
    seconds: float


async def run_load(target: Target, load: Load) -> Outcome:
    """All replies of a load from one target; `prepare` has been called."""
    replies: list[Reply] = []
    left = iter(range(load.replies))

    async def slot(number: int) -> None:
        # Paced replies begin one after the other: a burst of submits would be another load.
        await asyncio.sleep(number * load.plan.seconds / load.in_flight)
        for _ in left:
            replies.append(await one_reply(target, load.plan))  # noqa: PERF401 - shared by all slots

    started = time.perf_counter()
    await asyncio.gather(*(slot(number) for number in range(load.in_flight)))
    return _outcome(replies, load.plan, time.perf_counter() - started)


async def run_in_turns(targets: Sequence[Target], plan: Plan, replies: int) -> dict[str, Outcome]:
    """One reply at a time, from each target in turn: what disturbs one disturbs the others alike."""
    found: dict[str, list[Reply]] = {target.name: [] for target in targets}
    started = time.perf_counter()
    for _ in range(replies):
        for target in targets:
            found[target.name].append(await one_reply(target, plan))
    seconds = time.perf_counter() - started
    return {name: _outcome(replies_of, plan, seconds) for name, replies_of in found.items()}


async def one_reply(target: Target, plan: Plan) -> Reply:
    """A reply; an incomplete one where it failed."""
    try:
        return await asyncio.wait_for(target.ask(plan), REPLY_S)
    except (OSError, RuntimeError, TimeoutError) as error:
        print(f"{target.name}: {type(error).__name__} {error}")
        return Reply()


def _outcome(replies: list[Reply], plan: Plan, seconds: float) -> Outcome:
    good = [reply for reply in replies if reply.complete and reply.tokens == plan.tokens]
    return Outcome(replies=good, errors=len(replies) - len(good), seconds=seconds)
