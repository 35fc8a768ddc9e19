"""One run of the campaign: rooms, clients, faults, then the oracle."""

import asyncio
import contextlib
import random
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import redis
from rooms import Room, Rooms
from stack_process import free_port

from chaos.clients import Clients, Visit, tool_config
from chaos.collect import collect
from chaos.evidence import Evidence, Injected
from chaos.faults import HERE, Faults, Slot, seen_owners, start_proxy
from chaos.oracle import Verdict, judge
from chaos.plans import random_plan
from chaos.schedule import START_WORKER, schedule

MODEL = "planned"
TOOLS = "effects"
ROOT = HERE.parent.parent


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A run. `kinds` gives other numbers of faults than follow from `kills`; `silence_s` makes every provider silent
    for so long in each turn; `quiet_s` bounds the wait for the last turns once faults and submits are over."""

    seed: int
    turns: int = 500
    kills: int = 50
    duration_s: float = 70.0
    workers: int = 3
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
    tools_port, model_port, effects = free_port(), free_port(), folder / "effects.jsonl"
    config = {
        "providers": {
            "inference": [
                {
                    "provider_id": "model",
                    "provider_type": "remote::openai",
                    "config": {"url": f"http://127.0.0.1:{model_port}/v1"},
                }
            ],
            "tool_runtime": [tool_config(tools_port)],
        },
        # A turn is to end by itself, however often it is taken over.
        "turns": {"lease_s": settings.lease_s, "max_attempts": 50},
    }
    with Rooms(folder, config, environ={"PYTHONPATH": str(ROOT)}) as rooms:
        rooms.helper("model-server", [str(HERE / "model_server.py"), str(model_port)])
        rooms.helper("tools-server", [str(HERE / "tools_server.py"), str(tools_port), str(effects)])
        campaign = _Run(settings, rooms, evidence, tell)
        asyncio.run(campaign.main())
        with rooms.store() as store:
            collect(evidence, store=store, api_url=campaign.apis[0].room.url, effects=effects)  # type: ignore[union-attr]
        evidence.replies_lost = campaign.proxy.count("lost")
        evidence.connections_cut = campaign.proxy.count("cut")
    evidence.seconds = time.time() - begun
    evidence.save(folder / "evidence.json")
    return Result(settings=settings, evidence=evidence, verdict=judge(evidence), folder=folder)


class _Run:
    def __init__(self, settings: Settings, rooms: Rooms, evidence: Evidence, tell: Tell) -> None:
        self._settings = settings
        self._rooms = rooms
        self._evidence = evidence
        self._tell = tell
        self._done = 0
        self.proxy, links = start_proxy(rooms, settings.workers + settings.apis)
        self.workers = [Slot("worker", link, 0, self._worker) for link in links[: settings.workers]]
        self.apis = [Slot("api", link, free_port(), self._api) for link in links[settings.workers :]]
        for slot in (*self.workers, *self.apis):
            slot.room = slot.start(slot)
        rooms.until_healthy()
        ports = [slot.port for slot in self.apis]
        self._clients = Clients(ports=ports, evidence=evidence, seed=settings.seed)
        self._faults = Faults(
            rooms=rooms,
            proxy=self.proxy,
            evidence=evidence,
            workers=self.workers,
            apis=self.apis,
            active=lambda: list(self._clients.active),
        )

    async def main(self) -> None:
        """Submits and faults together, then the wait for the last turns."""
        settings = self._settings
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
        visits = [asyncio.create_task(self._begin(at, visit)) for at, visit in self._visits()]
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

    async def _begin(self, at: float, visit: Visit) -> None:
        await self._until(at)
        await self._clients.visit(visit)

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
            plans = []
            for _ in range(size):
                number += 1
                plans.append(random_plan(chance, f"t{settings.seed}x{number}", quiet_s=settings.silence_s))
            visits.append((chance.uniform(0, settings.duration_s), Visit(plans=plans, at_once=chance.random() < 0.7)))
            left -= size
        return visits

    def _watch_owners(self) -> None:
        """Note who owns what, every now and then: the oracle wants to know from whom a turn was taken."""
        seen: set[tuple[object, ...]] = set()
        started: set[str] = set()
        while not self._faults.closing.wait(0.25):
            with contextlib.suppress(redis.RedisError):
                self._note_starts(started)
                for owner in seen_owners(self._rooms, list(self._clients.active)):
                    if tuple(owner) not in seen:
                        seen.add(tuple(owner))
                        self._evidence.owners.append(owner)

    def _note_starts(self, started: set[str]) -> None:
        for slot in self.workers:
            room = slot.room
            if room is not None and room.worker_name not in started and self._rooms.is_known(room):
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
                f" {len(self._clients.active)} under way"
            )
            await asyncio.sleep(0.5)

    def _worker(self, slot: Slot) -> Room:
        launcher = None
        if self._settings.mutant is not None:
            launcher = (sys.executable, str(HERE / "mutants.py"), self._settings.mutant)
        return self._rooms.worker(launcher=launcher, environ=self._link(slot))

    def _api(self, slot: Slot) -> Room:
        return self._rooms.api(port=slot.port, environ=self._link(slot))

    def _link(self, slot: Slot) -> dict[str, str]:
        url = f"redis://127.0.0.1:{slot.link}/0"
        return {"TURNSTONE_REDIS_URL": url, "TURNSTONE_BROKER_URL": url}
