"""Keeps the processes of a stack running, and stops them in order."""

import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from shared.cli.child import Child, ChildSpec
from shared.cli.console import Console
from shared.cli.guard import Guard

POLL_S = 0.1
STEADY_S = 20.0
LONGEST_DELAY_S = 10.0
# One request can arrive twice, from the terminal and passed on by make: a second one is meant only if it is
# later than that.
SAME_REQUEST_S = 0.5


@dataclass(frozen=True, slots=True)
class Ended:
    """A child has ended."""

    child: Child


@dataclass(frozen=True, slots=True)
class StopRequested:
    """Somebody wants the stack stopped, at `at` on the monotonic clock."""

    at: float


@dataclass(frozen=True, slots=True)
class WatchdogEnded:
    """The watchdog has ended after `lived` seconds, though nobody let it go."""

    lived: float


Event = Ended | StopRequested | WatchdogEnded


def restart_delay(deaths: int) -> float:
    """Seconds to wait for the start after `deaths` deaths in a row: none, then 0.5, doubled up to 10."""
    return 0.0 if deaths <= 1 else min(LONGEST_DELAY_S, 0.5 * 2.0 ** min(deaths - 2, 10))


class Supervisor:
    """Runs children, starts again those that die, and on request stops all of them, stage by stage.

    `request_stop` may be called from a signal handler and from any thread; everything else from one thread.
    `held` are file descriptors that stay open until everything has ended, whatever becomes of the supervisor.
    """

    def __init__(self, *, console: Console, held: Sequence[int] = ()) -> None:
        self._console = console
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._children: dict[str, Child] = {}
        self._deaths: dict[str, int] = {}
        self._due: dict[str, tuple[float, Callable[[], None]]] = {}
        self._stop_requested: float | None = None
        self._hurry = False
        self._guard = Guard(on_exit=lambda lived: self._events.put(WatchdogEnded(lived)), held=held)

    @property
    def stop_requested(self) -> bool:
        return self._stop_requested is not None

    def deaths(self, name: str) -> int:
        """How often the child of this name has died in a row."""
        return self._deaths.get(name, 0)

    def request_stop(self) -> None:
        """Stop the stack; asked a second time, kill it."""
        self._events.put(StopRequested(time.monotonic()))

    def start(self, spec: ChildSpec) -> None:
        """Start a child and keep it running."""
        child = Child(spec, on_line=self._console.line, on_exit=lambda ended: self._events.put(Ended(ended)))
        self._children[spec.name] = child
        self._guard.add(child.pid, last=spec.stage == 0)
        child.go()
        self._console.say(f"started {spec.name} (pid {child.pid}): {shlex.join(spec.command)}")

    def run_until(self, condition: Callable[[], bool]) -> bool:
        """Keep the children running until `condition` holds: True, or a stop is requested: False."""
        while not self.stop_requested:
            if condition():
                return True
            self._step()
        return False

    def stop(self) -> None:
        """Stop all children, the highest stage first, and the watchdog. Nothing is left when this returns."""
        self._stop_requested = self._stop_requested or time.monotonic()
        self._due.clear()
        for stage in sorted({child.spec.stage for child in self._children.values()}, reverse=True):
            self._stop_stage([child for child in self._children.values() if child.spec.stage == stage])
        self._guard.close()

    def _step(self) -> None:
        """Handle one event, or what has become due meanwhile."""
        try:
            self._handle(self._events.get(timeout=self._patience()))
        except Empty:
            pass
        now = time.monotonic()
        for name, (at, restart) in list(self._due.items()):
            if at <= now and not self.stop_requested:
                del self._due[name]
                restart()

    def _patience(self) -> float:
        soonest = min((at for at, _ in self._due.values()), default=float("inf"))
        return max(0.0, min(POLL_S, soonest - time.monotonic()))

    def _handle(self, event: Event) -> None:
        match event:
            case Ended(child):
                # One that was killed here is buried already.
                if self._unburied([child]):
                    self._bury(child)
            case StopRequested(at):
                self._note_stop(at)
            case WatchdogEnded(lived):
                self._plan_restart("watchdog", self._revive_watchdog, lived=lived)

    def _note_stop(self, at: float) -> None:
        if self._stop_requested is None:
            self._stop_requested = at
        elif at - self._stop_requested > SAME_REQUEST_S:
            self._hurry = True

    def _bury(self, child: Child) -> None:
        """Clear up after a child that has ended, and unless everything is being stopped, plan its return."""
        child.kill()
        child.drain()
        self._guard.remove(child.pid)
        del self._children[child.spec.name]
        self._console.say(f"{child.spec.name} (pid {child.pid}) ended: {child.ending()}")
        self._plan_restart(child.spec.name, lambda: self.start(child.spec), lived=time.monotonic() - child.started)

    def _revive_watchdog(self) -> None:
        self._guard.revive()
        self._console.say(f"started watchdog (pid {self._guard.pid})")

    def _plan_restart(self, name: str, restart: Callable[[], None], *, lived: float) -> None:
        if self.stop_requested:
            return
        self._deaths[name] = 1 if lived >= STEADY_S else self._deaths.get(name, 0) + 1
        delay = restart_delay(self._deaths[name])
        self._due[name] = (time.monotonic() + delay, restart)
        self._console.say(f"starting {name} again {f'in {delay:g} s' if delay else 'now'}")

    def _stop_stage(self, children: list[Child]) -> None:
        for child in children:
            child.terminate()
        deadline = time.monotonic() + max((child.spec.grace_s for child in children), default=0.0)
        while self._unburied(children) and not self._hurry and (left := deadline - time.monotonic()) > 0:
            try:
                self._handle(self._events.get(timeout=left))
            except Empty:
                break
        for child in self._unburied(children):
            self._console.say(f"{child.spec.name} (pid {child.pid}) takes too long; killing it")
            self._bury(child)

    def _unburied(self, children: list[Child]) -> list[Child]:
        return [child for child in children if self._children.get(child.spec.name) is child]
