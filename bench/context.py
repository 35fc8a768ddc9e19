"""What every row of the benchmark works with."""

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.figures import OURS, Results
from bench.load.runner import Load, Outcome, run_load
from bench.sizes import Sizes
from bench.systems.base import System
from bench.systems.processes import Processes
from bench.systems.turnstone import PLAIN, Shape, Stack, Turnstone

_STEP_S = 0.2
_QUIET = 0.1
"""Of a core: what is still at work on the load before uses more."""


class Context:
    """One run. `systems` are up all the time, by name; a row that needs a stack of its own asks for one."""

    def __init__(
        self, *, folder: Path, sizes: Sizes, systems: Mapping[str, System], upstream_url: str, results: Results
    ) -> None:
        self.folder = folder
        self.sizes = sizes
        self.systems = systems
        self.upstream_url = upstream_url
        self.results = results
        self._stacks = 0
        self._started = time.monotonic()

    @property
    def direct(self) -> System:
        return self.systems["direct"]

    @property
    def ours(self) -> Turnstone:
        ours = self.systems[OURS]
        assert isinstance(ours, Turnstone)
        return ours

    @contextmanager
    def stack(self, shape: Shape = PLAIN, *, leaves_turns: bool = False) -> Iterator[Stack]:
        """A stack that nothing has used yet, for as long as the block lasts; in a quick run the one that is up, unless
        the row leaves turns behind."""
        if shape == PLAIN and (self.sizes.share_always or (self.sizes.share_stack and not leaves_turns)):
            yield self.ours.stack
            return
        self._stacks += 1
        with ExitStack() as ends:
            processes = ends.enter_context(Processes(self.folder / f"stack-{self._stacks}"))
            stack = Stack(processes, self.upstream_url, shape)
            stack.until_ready()
            yield stack

    async def measure(self, system: System, load: Load) -> tuple[Outcome, dict[str, float]]:
        """A load on a system that is at rest, and the CPU seconds that it took there, by room."""
        await system.prepare(load.replies)
        await self.settle(system)
        before = system.usage()
        outcome = await run_load(system.ask, load)
        await self.settle(system)  # what is left to do after the last byte belongs to the load
        system.close()
        return outcome, system.usage().cpu_since(before)

    async def settle(self, system: System) -> None:
        """Return when the system is at rest, or does not come to rest."""
        deadline = time.monotonic() + self.sizes.settle_s
        used = _total(system, look_again=True)
        while time.monotonic() < deadline:
            await asyncio.sleep(_STEP_S)
            before, used = used, _total(system, look_again=False)
            if used - before <= _QUIET * _STEP_S:
                return

    def say(self, words: str) -> None:
        """Tell who waits at the terminal how far it is."""
        print(f"{time.monotonic() - self._started:6.0f} s  {words}", flush=True)


def _total(system: System, *, look_again: bool) -> float:
    return sum(system.usage(look_again=look_again).cpu_s.values())
