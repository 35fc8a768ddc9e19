"""How fast documents go into a bank as jobs, how much memory that takes, and what turns feel of it meanwhile."""

import asyncio
import json
import time
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import dataclass

import psutil

from bench.context import Context
from bench.figures import OURS, Goal, Section
from bench.load.plan import Plan
from bench.load.reply import Reply
from bench.load.words import Words
from bench.stats import percentile
from bench.systems.processes import Started
from bench.systems.turnstone import BANK, EVENTS, Shape, Turnstone

TITLE = "Memory: documents of 2 KB inserted as jobs, and turns beside them"
DOCUMENT_BYTES = 2000
JOBS = 4
MEMORY_MB = 600
SHARE, SLACK_MS = 2.0, 5.0
"""Two halves of the machine, turns and insert: turns may be so many times slower than without, and so many ms more."""
CLIENTS = 8
TURN = Plan(tokens=16, token_ms=20)
_LOOK_S = 0.5


@dataclass(slots=True)
class Job:
    """An insert job as its reader saw it."""

    path: str
    progress: int = 0


@dataclass(frozen=True, slots=True)
class Stretch:
    """Turns of a stretch of time."""

    first_ms: list[float]
    per_s: float


async def measure(context: Context) -> None:
    """Turns alone, then the same beside the insert, until the last document is stored."""
    section, count = context.results.section(TITLE), context.sizes.documents
    for repeat in range(context.sizes.insert_repeats):
        with context.stack(Shape(memory=True)) as stack:
            assert stack.memory is not None
            ours = Turnstone(stack)
            await _turns(ours, asyncio.sleep(min(1.0, context.sizes.insert_calm_s)))
            calm = await _turns(ours, asyncio.sleep(context.sizes.insert_calm_s))
            bodies = _bodies(count)
            watch = asyncio.create_task(_watched(stack.memory))
            started = time.perf_counter()
            jobs = asyncio.create_task(_inserted(ours, bodies))
            beside = await _turns(ours, jobs)
            seconds = time.perf_counter() - started
            watch.cancel()
            _note(section, calm, beside)
            section.figure(f"{count:,} documents", "documents/s").add(OURS, count / seconds)
            section.figure("progress events that readers saw", "").add(OURS, sum(job.progress for job in jobs.result()))
            goal = Goal(at_most=MEMORY_MB)
            section.figure("worker of the jobs with its children, most memory", "MB", goal).add(OURS, await watch)
        context.say(f"{count:,} documents in {seconds:.0f} s, {repeat + 1} of {context.sizes.insert_repeats}")
    section.note(
        f"{JOBS} jobs at once, each tailed; {CLIENTS} turns in flight of {TURN.tokens} tokens, {TURN.token_ms:.0f} ms "
        f"apart. Counted as no more than their share: half as many turns, and first tokens after {SHARE:.0f} times as "
        f"long plus {SLACK_MS:.0f} ms."
    )


def _note(section: Section, calm: Stretch, beside: Stretch) -> None:
    section.figure("turns without an insert", "turns/s").add(OURS, calm.per_s)
    section.figure("turns beside it", "turns/s", Goal(at_least=calm.per_s / SHARE)).add(OURS, beside.per_s)
    for part in (0.5, 0.99):
        before, after = percentile(calm.first_ms, part), percentile(beside.first_ms, part)
        section.figure(f"first token without an insert, p{part * 100:.0f}", "ms").add(OURS, before)
        goal = Goal(at_most=SHARE * before + SLACK_MS)
        section.figure(f"first token beside it, p{part * 100:.0f}", "ms", goal).add(OURS, after)


async def _turns(ours: Turnstone, until: Awaitable[object]) -> Stretch:
    """Turns, some in flight at any time, until something has ended. Raises what that raises."""
    ending = asyncio.ensure_future(until)
    times: list[float] = []

    async def client() -> None:
        while not ending.done():
            session, reply = await ours.new_session(), Reply()
            await ours.follow(await ours.submit(session, TURN), reply)
            if not reply.complete or reply.tokens != TURN.tokens:
                raise RuntimeError("a turn beside the insert was not whole")
            times.append(reply.first_token / 1000)

    started = time.perf_counter()
    try:
        await asyncio.gather(ending, *(client() for _ in range(CLIENTS)))
    finally:
        ending.cancel()
    return Stretch(times, len(times) / (time.perf_counter() - started))


def _bodies(count: int) -> list[bytes]:
    """Bodies below `limits.body_mb` (8), one for each job."""
    words, bodies = Words(seed=3), []
    for job in range(JOBS):
        numbers = range(job, count, JOBS)
        documents = [{"document_id": f"d{number}", "content": _text(words)} for number in numbers]
        bodies.append(json.dumps({"bank_id": BANK, "documents": documents}).encode())
    return bodies


def _text(words: Words) -> str:
    return words.text(DOCUMENT_BYTES // 4)[:DOCUMENT_BYTES]


async def _inserted(ours: Turnstone, bodies: list[bytes]) -> list[Job]:
    return list(await asyncio.gather(*(_job(ours, body) for body in bodies)))


async def _job(ours: Turnstone, body: bytes) -> Job:
    """An insert job, followed to its end. Raises RuntimeError where it has not stored everything."""
    status, answer = await ours.client.fetch("POST", "/memory/insert", body)
    if status != 202:
        raise RuntimeError(f"POST /memory/insert: {status} {answer.decode()}")
    job = Job(f"/jobs/{json.loads(answer)['job_id']}")

    def hear(data: bytes, at: int) -> None:
        job.progress += data.count(b'"type":"progress"')

    await ours.client.stream("GET", f"{job.path}/events", on_body=hear, accept=EVENTS)
    status, answer = await ours.client.fetch("GET", job.path)
    found = json.loads(answer)
    if status != 200 or found["status"] != "completed" or found["failed"] or found["done"] != found["documents"]:
        raise RuntimeError(f"GET {job.path}: {status} {answer.decode()[:500]}")
    return job


async def _watched(started: Started) -> float:
    """The most memory that a process and all below it had until this is cancelled, in MB."""
    peak = 0.0
    with suppress(asyncio.CancelledError):
        while True:
            used = 0.0
            for process in started.family():
                with suppress(psutil.NoSuchProcess):
                    used += process.memory_info().rss / 2**20
            peak = max(peak, used)
            await asyncio.sleep(_LOOK_S)
    return peak
