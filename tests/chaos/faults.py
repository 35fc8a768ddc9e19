"""Does to a running set of rooms what a schedule says, and notes what it really did."""

import json
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import redis
from rooms import Room, Rooms, is_healthy
from stack_process import free_port

from chaos import schedule as kinds
from chaos.collect import turn_key
from chaos.evidence import Evidence, Injected
from chaos.schedule import Fault
from shared.queues import MEMORY_QUEUE, TURNS_QUEUE, broker_name

HERE = Path(__file__).parent
_READY_S = 20.0


class Proxy:
    """The links between rooms and the store, as a process of its own."""

    def __init__(self, room: Room) -> None:
        self._room = room

    def tell(self, command: str, port: int, *number: float) -> None:
        pipe = self._room.process.stdin
        assert pipe is not None
        pipe.write(" ".join(map(str, (command, port, *number))).encode() + b"\n")
        pipe.flush()

    def count(self, what: str) -> int:
        """How many replies were `lost`, or connections `cut`."""
        return self._room.written().count(f"{what} ")


@dataclass
class Slot:
    """A place for one room: whoever dies there is replaced, on the same port and behind the same link."""

    kind: str
    link: int
    port: int
    start: Callable[["Slot"], Room]
    room: Room | None = None
    stopped: bool = False
    leaving: bool = False

    @property
    def up(self) -> bool:
        return self.room is not None and self.room.alive and not self.stopped and not self.leaving


@dataclass
class Faults:
    """Does faults, one after the other; what takes time (a stop, a replacement) goes on beside them."""

    rooms: Rooms
    proxy: Proxy
    evidence: Evidence
    workers: list[Slot]
    memory: list[Slot]
    """Workers for insert jobs."""
    apis: list[Slot]
    active: Callable[[], list[str]]
    closing: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _begun: float = 0.0
    _halted_at: float | None = 0.0
    _store_lock: threading.Lock = field(default_factory=threading.Lock)

    def clock(self) -> float:
        """Seconds of the schedule's time: it stands while a fault waits for somebody to be hit."""
        halted = self._halted_at
        return time.time() - self._begun if halted is None else halted

    def run(self, faults: Sequence[Fault], on_fault: Callable[[], None]) -> None:
        """All faults, each at its time or, where those before it took longer, as soon as they are done."""
        self._begun, self._halted_at = time.time(), None
        do = {
            kinds.KILL_WORKER: self._kill_worker,
            kinds.KILL_HEARTBEAT: self._kill_heartbeat,
            kinds.KILL_API: self._kill_api,
            kinds.KILL_STORE: self._kill_store,
            kinds.STOP_WORKER: self._stop_worker,
            kinds.DRAIN_WORKER: self._drain_worker,
            kinds.DRAIN_API: self._drain_api,
            kinds.DROP_HINTS: self._drop_hints,
            kinds.LOSE_REPLIES: self._lose_replies,
            kinds.STALL_LINK: self._stall_link,
            kinds.CUT_LINK: self._cut_link,
            kinds.KILL_MEMORY: self._kill_worker,
            kinds.STOP_MEMORY: self._stop_worker,
            kinds.DRAIN_MEMORY: self._drain_worker,
        }
        for fault in faults:
            while (left := fault.at - self.clock()) > 0:
                if self.closing.wait(left):
                    return
            # On a busy machine all come later: several at once, for one that had to wait, would leave nobody to kill.
            self._halted_at = fault.at
            do[fault.kind](fault)
            self._begun, self._halted_at = time.time() - fault.at, None
            on_fault()

    def settle(self) -> None:
        """Return when everything that was stopped goes on and everything that was ended is replaced."""
        for thread in self._threads:
            thread.join()

    def _kill_worker(self, fault: Fault) -> None:
        # Of several, as a rule: the last one that serves has more to lose, and is killed now and then.
        if (slot := self._chosen(self._pool(fault), fault, least=1 if fault.count > 2 else 2)) is not None:
            room = _room(slot)
            noted = self._note(fault.kind, room.worker_name)
            room.kill()
            noted.owned = self._owned_by(room.worker_name)
            self._replace(slot, fault.seconds)

    def _kill_heartbeat(self, fault: Fault) -> None:
        while (slot := self._chosen([*self.workers, *self.memory], fault)) is not None:
            if (heartbeat := _room(slot).heartbeat()) is not None:
                # On a busy machine the next one takes a while to come up.
                self._note(fault.kind, _room(slot).worker_name, lasts=5.0)
                with suppress(psutil.NoSuchProcess):
                    heartbeat.kill()
                return
            time.sleep(0.1)  # it was killed a moment ago, and the next one has not begun

    def _kill_api(self, fault: Fault) -> None:
        """The whole gunicorn, or one of its processes, which it replaces itself."""
        if (slot := self._chosen(self.apis, fault)) is None:
            return
        room = _room(slot)
        self._note(fault.kind, "api", lasts=0.0)
        children = room.children()
        if fault.count < 4 and children:
            with suppress(psutil.NoSuchProcess):
                children[0].kill()
            return
        room.kill_all()
        self._replace(slot, fault.seconds)

    def _kill_store(self, fault: Fault) -> None:
        with self._store_lock:
            noted = self._note(fault.kind, "")
            self.rooms.kill_store()
            time.sleep(fault.seconds)
            self.rooms.start_store()
            # Whoever waits for the store with growing pauses comes back later than it does.
            noted.until = time.time() + 3.0

    def _stop_worker(self, fault: Fault) -> None:
        if (slot := self._chosen(self._pool(fault), fault)) is None:
            return
        room, slot.stopped = _room(slot), True
        noted = self._note(fault.kind, room.worker_name)
        room.pause()

        def go_on() -> None:
            time.sleep(fault.seconds)
            room.go_on()
            noted.until = time.time() + 3.0
            slot.stopped = False

        self._beside(go_on)

    def _drain_worker(self, fault: Fault) -> None:
        if (slot := self._chosen(self._pool(fault), fault)) is not None:
            self._note(fault.kind, _room(slot).worker_name)
            self._drain(slot, fault)

    def _drain_api(self, fault: Fault) -> None:
        if (slot := self._chosen(self.apis, fault)) is not None:
            self._note(fault.kind, "api", lasts=0.0)
            self._drain(slot, fault)

    def _drain(self, slot: Slot, fault: Fault) -> None:
        room, slot.leaving = _room(slot), True
        room.terminate()

        def ended() -> None:
            with suppress(subprocess.TimeoutExpired):
                room.wait(15)
            room.kill_all()
            slot.leaving = False
            self._replace(slot, fault.seconds)

        self._beside(ended)

    def _drop_hints(self, fault: Fault) -> None:
        with suppress(redis.RedisError), self.rooms.store() as store:
            store.delete(*(broker_name(queue, self.rooms.key_prefix) for queue in (TURNS_QUEUE, MEMORY_QUEUE)))
            self._note(fault.kind, "hints", lasts=0.0)

    def _lose_replies(self, fault: Fault) -> None:
        self._link_fault(fault, "lose", float(fault.count), lasts=3.0)

    def _stall_link(self, fault: Fault) -> None:
        self._link_fault(fault, "stall", fault.seconds, lasts=fault.seconds + 5.0)

    def _cut_link(self, fault: Fault) -> None:
        self._link_fault(fault, "cut", lasts=3.0)

    def _link_fault(self, fault: Fault, command: str, *number: float, lasts: float) -> None:
        if (slot := self._chosen([*self.workers, *self.workers, *self.memory, *self.apis], fault)) is not None:
            victim = _room(slot).worker_name if slot.kind != "api" else "api"
            self._note(fault.kind, victim, lasts=lasts)
            self.proxy.tell(command, slot.link, *(int(n) if n == int(n) else n for n in number))

    def _pool(self, fault: Fault) -> list[Slot]:
        return self.memory if fault.kind in kinds.MEMORY else self.workers

    def _chosen(self, slots: Sequence[Slot], fault: Fault, *, least: int = 1) -> Slot | None:
        """One of the slots that serve now; waits until so many do."""
        deadline = time.time() + _READY_S
        while time.time() < deadline and not self.closing.is_set():
            ready = [slot for slot in slots if slot.up and self._serves(slot)]
            if len(ready) >= least:
                return ready[int(fault.pick * len(ready))]
            time.sleep(0.1)
        return None

    def _serves(self, slot: Slot) -> bool:
        return serves(self.rooms, slot)

    def _replace(self, slot: Slot, pause_s: float) -> None:
        def start() -> None:
            time.sleep(pause_s)
            slot.room = slot.start(slot)

        self._beside(start)

    def _beside(self, act: Callable[[], None]) -> None:
        thread = threading.Thread(target=act, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _note(self, kind: str, victim: str, *, lasts: float | None = None) -> Injected:
        now = time.time()
        noted = Injected(kind=kind, victim=victim, at=now, until=None if lasts is None else now + lasts)
        self.evidence.faults.append(noted)
        return noted

    def _owned_by(self, worker: str) -> list[list[object]]:
        """The turns that a dead worker still has: nobody takes them from it before its lease ends."""
        try:
            return [
                [turn_id, epoch] for turn_id, epoch, owner in seen_owners(self.rooms, self.active()) if owner == worker
            ]
        except redis.RedisError:
            return []


def serves(rooms: Rooms, slot: Slot) -> bool:
    """Whether who is there takes work. One for insert jobs gives no sign of life: its first child is its heartbeat."""
    room = _room(slot)
    if slot.kind == "api":
        return is_healthy(room.port)
    return rooms.is_known(room) if slot.kind == "worker" else bool(room.children())


def seen_owners(rooms: Rooms, turn_ids: Sequence[str]) -> list[list[object]]:
    """[turn id, epoch, worker] of each of these turns that somebody runs now."""
    with rooms.store() as store:
        pipe = store.pipeline(transaction=False)
        for turn_id in turn_ids:
            pipe.hmget(turn_key(turn_id), "epoch", "worker", "status", "token")
        rows = pipe.execute()
    return [
        [turn_id, int(epoch), worker.decode()]
        for turn_id, (epoch, worker, status, token) in zip(turn_ids, rows, strict=True)
        if worker and token and status == b"in_progress"
    ]


def seen_writers(rooms: Rooms, job_ids: Sequence[str]) -> dict[str, int]:
    """The place of each of these jobs among its bank's writers, where it is noted: the note goes with the job's end."""
    with rooms.store() as store:
        pipe = store.pipeline(transaction=False)
        for job_id in job_ids:
            pipe.xrevrange(f"{turn_key(job_id)}:private", count=1)
        rows = pipe.execute()
    notes = {job_id: row[0][1] for job_id, row in zip(job_ids, rows, strict=True) if row}
    return {
        job_id: json.loads(note[b"p"])["writer"] for job_id, note in notes.items() if note[b"k"] == b"insert_writer"
    }


def start_proxy(rooms: Rooms, links: int) -> tuple[Proxy, list[int]]:
    """So many links to the store, each on a port of its own."""
    ports = [free_port() for _ in range(links)]
    room = rooms.helper("store-proxy", [str(HERE / "store_proxy.py"), str(rooms.store_port), *map(str, ports)])
    rooms.until(lambda: "ready" in room.written(), "the proxy listens")
    return Proxy(room), ports


def _room(slot: Slot) -> Room:
    assert slot.room is not None
    return slot.room
