"""How many turns are accepted per second, and what a write to this machine's disk costs."""

import asyncio
import os
import time
from itertools import product
from pathlib import Path

from bench.context import Context
from bench.figures import OURS, Goal
from bench.load.plan import Plan
from bench.stats import percentile
from bench.systems.turnstone import Shape, Turnstone, turn_body

TITLE = "Submits: 202 per second, 32 clients"
CLIENTS = 32
WRITES = 200
WRITE_BYTES = 4096


async def measure(context: Context) -> None:
    """Without and with durability, on one API process and on two. API and store by themselves, their worker has been
    stopped; and with it."""
    section = context.results.section(TITLE)
    for durability, processes in product(context.sizes.durabilities, context.sizes.api_processes):
        goal = Goal(at_least=1000) if durability == "none" and processes == max(context.sizes.api_processes) else None
        how = f"durability {durability}, {processes} API process{'es' if processes > 1 else ''}"
        try:
            with context.stack(Shape(durability=durability, api_processes=processes), leaves_turns=True) as stack:
                ours = Turnstone(stack)
                await _submits(ours, 0.1)
                await context.settle(ours)
                if durability == "none" and processes == 1:
                    for _ in range(context.sizes.repeats):
                        rate = await _submits(ours, context.sizes.submit_s)
                        section.figure(f"{how}, while one worker runs them", "202/s").add(OURS, rate)
                        await context.settle(ours)
                for worker in stack.workers:
                    worker.suspend()
                for _ in range(context.sizes.repeats):
                    rate = await _submits(ours, context.sizes.submit_s)
                    section.figure(how, "202/s", goal).add(OURS, rate)
                for worker in stack.workers:
                    worker.resume()
                if processes == 1:
                    _note_disk(context, stack.processes.folder / "data")
        except RuntimeError as error:
            section.note(f"{how} could not be measured: {str(error)[-300:]}")
        context.say(f"submits: {how}")


async def _submits(ours: Turnstone, seconds: float) -> float:
    """202 per second of all clients together, each with a session of its own."""
    sessions = [await ours.new_session() for _ in range(CLIENTS)]
    body, accepted = turn_body(Plan(tokens=1)), 0
    started = time.perf_counter()

    async def client(session: str) -> None:
        nonlocal accepted
        while time.perf_counter() - started < seconds:
            status, answer = await ours.client.fetch("POST", f"{session}/turn", body)
            if status != 202:
                raise RuntimeError(f"POST {session}/turn: {status} {answer.decode()}")
            accepted += 1

    await asyncio.gather(*map(client, sessions))
    return accepted / (time.perf_counter() - started)


def _note_disk(context: Context, folder: Path) -> None:
    """The time of one fdatasync after 4 KB, in the folder where the store keeps its log."""
    times = []
    descriptor = os.open(folder / "fdatasync", os.O_CREAT | os.O_WRONLY)
    for _ in range(WRITES):
        os.write(descriptor, bytes(WRITE_BYTES))
        before = time.perf_counter()
        os.fdatasync(descriptor)
        times.append((time.perf_counter() - before) * 1000)
    os.close(descriptor)
    section = context.results.section(TITLE)
    for part in (0.5, 0.99):
        section.figure(f"this disk's fdatasync of 4 KB, p{part * 100:.0f}", "ms").add("disk", percentile(times, part))
