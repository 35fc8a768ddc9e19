"""One run of the campaign: rooms, clients, faults, then the oracle."""

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import redis
from rooms import Room, Rooms
from stack_process import free_port

from chaos.clients import PLAIN, REMEMBERING, SEARCHING, Clients, Visit, tool_config
from chaos.collect import ASKED, BANKS, EFFECTS, collect
from chaos.evidence import Evidence, Injected
from chaos.faults import HERE, Faults, Slot, seen_owners, seen_writers, serves, start_proxy
from chaos.memory_clients import Inserts
from chaos.memory_plans import PROVIDER, JobPlan, random_burst
from chaos.mutants import launcher
from chaos.oracle import Verdict, judge
from chaos.plans import random_plan
from chaos.schedule import START_WORKER, schedule
from shared.queues import MEMORY_QUEUE

MODEL = "planned"
TOOLS = "effects"
ROOT = HERE.parent.parent


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A run. `kinds` gives other numbers of faults than follow from `kills`; `silence_s` makes every provider silent
    for so long in each turn; `quiet_s` bounds the wait for the last turns once faults and submits are over. The bank
    that passes is made anew `renewals` times."""

    seed: int
    turns: int = 500
    jobs: int = 120
    renewals: int = 3
    kills: int = 50
    duration_s: float = 70.0
    workers: int = 3
    memory_workers: int = 2
    apis: int = 2
    lease_s: float = 3.0
    quiet_s: float = 90.0
    silence_s: float = 0.0
    mutant: str | None = None
    kinds: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a run gave. `folder` has its logs, data and evidence."""

    settings: Settings
    evidence: Evidence
    verdict: Verdict
    folder: Path


Tell = Callable[[str], None]


def run(settings: Settings, folder: Path, tell: Tell = lambda _: None) -> Result:
    """One whole run, with `folder` for all that it writes. `tell` hears how far it is, often."""
    begun = time.time()
    evidence = Evidence(seed=settings.seed)
    tools_port, model_port = free_port(), free_port()
    config = _config(settings, folder, tools_port, model_port)
    with Rooms(folder, config, environ={"PYTHONPATH": str(ROOT)}) as rooms:
        rooms.helper("model-server", [str(HERE / "model_server.py"), str(model_port), str(folder / ASKED)])
        rooms.helper("tools-server", [str(HERE / "tools_server.py"), str(tools_port), str(folder / EFFECTS)])
        campaign = _Run(settings, rooms, evidence, tell)
        asyncio.run(campaign.main())
        with rooms.store() as store:
            collect(evidence, store=store, api_url=campaign.apis[0].room.url, folder=folder)  # type: ignore[union-attr]
        evidence.replies_lost = campaign.proxy.count("lost")
        evidence.connections_cut = campaign.proxy.count("cut")
    evidence.seconds = time.time() - begun
    evidence.save(folder / "evidence.json")
    return Result(settings=settings, evidence=evidence, verdict=judge(evidence), folder=folder)


def _config(settings: Settings, folder: Path, tools_port: int, model_port: int) -> dict[str, object]:
    """The run config."""

    def provider(name: str, kind: str, **config: object) -> dict[str, object]:
        return {"provider_id": name, "provider_type": kind, "config": config}

    return {
        "providers": {
            "inference": [provider("model", "remote::openai", url=f"http://127.0.0.1:{model_port}/v1")],
            "tool_runtime": [tool_config(tools_port)],
            "memory": [provider(PROVIDER, "inline::sqlite", path=str(folder / BANKS))],
        },
        # A turn is to end by itself, however often it is taken over.
        "turns": {"lease_s": settings.lease_s, "max_attempts": 50},
    }


class _Run:
    def __init__(self, settings: Settings, rooms: Rooms, evidence: Evidence, tell: Tell) -> None:
        self._settings = settings
        self._rooms = rooms
        self._evidence = evidence
        self._tell = tell
        self._done = 0
        workers, memory = settings.workers, settings.memory_workers
        self.proxy, links = start_proxy(rooms, workers + memory + settings.apis)
        self.workers = [Slot("worker", link, 0, self._worker) for link in links[:workers]]
        self.memory = [Slot("memory", link, 0, self._memory_worker) for link in links[workers : workers + memory]]
        self.apis = [Slot("api", link, free_port(), self._api) for link in links[workers + memory :]]
        for slot in (*self.workers, *self.memory, *self.apis):
            slot.room = slot.start(slot)
        for slot in (*self.workers, *self.memory, *self.apis):
            rooms.until(lambda slot=slot: serves(rooms, slot), f"a {slot.kind} serves")  # type: ignore[misc]
        # Banks are registered and deleted by it. Nothing is done to it, and it gives no sign of life.
        rooms.calls_worker()
        ports = [slot.port for slot in self.apis]
        self._clients = Clients(ports=ports, evidence=evidence, seed=settings.seed)
        self._inserts = Inserts(clients=self._clients, evidence=evidence, seed=settings.seed)
        self._faults = Faults(
            rooms=rooms,
            proxy=self.proxy,
            evidence=evidence,
            workers=self.workers,
            memory=self.memory,
            apis=self.apis,
            active=lambda: list(self._clients.active),
        )

    async def main(self) -> None:
        """Submits and faults together, then the wait for the last turns."""
        settings = self._settings
        await self._inserts.open()
        await self._clients.open(model=MODEL, toolgroup=TOOLS)
        faults = schedule(
            settings.seed,
            kills=settings.kills,
            duration_s=settings.duration_s,
            lease_s=settings.lease_s,
            kinds=settings.kinds,
        )
        watcher = threading.Thread(target=self._watch_owners, daemon=True)
        watcher.start()
        injecting = asyncio.create_task(asyncio.to_thread(self._faults.run, faults, self._count))
        telling = asyncio.create_task(self._report(len(faults)))
        visits = [asyncio.create_task(self._begin(at, self._clients.visit(visit))) for at, visit in self._visits()]
        visits += [asyncio.create_task(self._begin(at, self._inserts.burst(plans))) for at, plans in self._bursts()]
        for number in range(settings.renewals):
            at = settings.duration_s * (number + 1) / (settings.renewals + 1)
            visits.append(asyncio.create_task(self._begin(at, self._inserts.renew())))
        try:
            await injecting
            await self._until(settings.duration_s)
            ended, unended = await asyncio.wait(visits, timeout=settings.quiet_s)
            for task in unended:
                task.cancel()
            await asyncio.gather(*unended, return_exceptions=True)
            for task in ended:
                task.result()
        finally:
            self._faults.closing.set()
            telling.cancel()
            await asyncio.to_thread(self._faults.settle)
            await asyncio.to_thread(watcher.join)
        self._rooms.until_healthy(*(slot.room for slot in self.apis if slot.room is not None))

    async def _begin(self, at: float, doing: Coroutine[None, None, None]) -> None:
        try:
            await self._until(at)
        except asyncio.CancelledError:
            doing.close()
            raise
        await doing

    async def _until(self, at: float) -> None:
        """Wait for a moment of the schedule's time: submits and faults go on side by side, however slowly."""
        while (left := at - self._faults.clock()) > 0:  # noqa: ASYNC110 - a clock that may stand wakes nobody
            await asyncio.sleep(max(0.1, left))

    def _visits(self) -> list[tuple[float, Visit]]:
        """Sessions of one to four turns, spread over the time of the faults."""
        settings = self._settings
        chance = random.Random(f"visits {settings.seed}")
        visits, left, number = [], settings.turns, 0
        while left > 0:
            size = min(left, chance.choice((1, 1, 2, 3, 4)))
            agent = chance.choices((PLAIN, REMEMBERING, SEARCHING), (6, 2, 2))[0]
            plans = []
            for _ in range(size):
                number += 1
                key, searches = f"t{settings.seed}x{number}", agent == SEARCHING
                plans.append(random_plan(chance, key, quiet_s=settings.silence_s, searches=searches))
            visit = Visit(plans=plans, at_once=chance.random() < 0.7, agent=agent)
            visits.append((chance.uniform(0, settings.duration_s), visit))
            left -= size
        return visits

    def _bursts(self) -> list[tuple[float, list[JobPlan]]]:
        """Insert jobs, spread over the time of the faults but for its end: a key that is in use is so for 30 s."""
        settings = self._settings
        chance = random.Random(f"bursts {settings.seed}")
        bursts: list[tuple[float, list[JobPlan]]] = []
        left = settings.jobs
        while left > 0:
            plans = random_burst(chance, f"j{settings.seed}x{len(bursts)}", left)
            bursts.append((chance.uniform(0, 0.8) * settings.duration_s, plans))
            left -= len(plans)
        return bursts

    def _watch_owners(self) -> None:
        """Note who owns what, every now and then: the oracle wants to know from whom a turn was taken."""
        seen: set[tuple[object, ...]] = set()
        started: set[str] = set()
        while not self._faults.closing.wait(0.25):
            with contextlib.suppress(redis.RedisError):
                self._note_starts(started)
                active = list(self._clients.active)
                jobs = [work_id for work_id in active if work_id.startswith("job_")]
                self._evidence.writers.update(seen_writers(self._rooms, jobs))
                for owner in seen_owners(self._rooms, active):
                    if tuple(owner) not in seen:
                        seen.add(tuple(owner))
                        self._evidence.owners.append(owner)

    def _note_starts(self, started: set[str]) -> None:
        for slot in (*self.workers, *self.memory):
            room = slot.room
            if room is not None and room.worker_name not in started and serves(self._rooms, slot):
                started.add(room.worker_name)
                now, patience_s = time.time(), self._settings.lease_s + 2
                started_now = Injected(kind=START_WORKER, victim=room.worker_name, at=now, until=now + patience_s)
                self._evidence.faults.append(started_now)

    def _count(self) -> None:
        self._done += 1

    async def _report(self, faults: int) -> None:
        while True:
            self._tell(
                f"{self._done}/{faults} faults, {self._clients.ended}/{self._settings.turns} turns ended,"
                f" {len(self._evidence.jobs)}/{self._settings.jobs} jobs accepted,"
                f" {len(self._clients.active)} under way"
            )
            await asyncio.sleep(0.5)

    def _worker(self, slot: Slot) -> Room:
        return self._rooms.worker(launcher=launcher(self._settings.mutant), environ=self._link(slot))

    def _memory_worker(self, slot: Slot) -> Room:
        environ = {**self._link(slot), "TURNSTONE_CONCURRENCY": "4"}
        return self._rooms.worker(queue=MEMORY_QUEUE, launcher=launcher(self._settings.mutant), environ=environ)

    def _api(self, slot: Slot) -> Room:
        return self._rooms.api(port=slot.port, environ=self._link(slot))

    def _link(self, slot: Slot) -> dict[str, str]:
        url = f"redis://127.0.0.1:{slot.link}/0"
        return {"TURNSTONE_REDIS_URL": url, "TURNSTONE_BROKER_URL": url}
