"""The port that every measured system stands behind."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from bench.load.plan import Plan
from bench.load.reply import Reply
from bench.systems.processes import Usage


class Unavailable(Exception):
    """The system cannot be measured here; the reason is printed in place of its figures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Able:
    """What a system is asked for: more would only show that it cannot, for minutes."""

    long_tokens: int = 2000
    streams: int = 1000
    alone: int = 1
    """One of so many replies of the load that goes one at a time."""


class System(ABC):
    """Answers plans. To build one starts its processes. `prepare` is called before the clock starts, `ask` by many
    tasks at once."""

    name: str
    able = Able()

    @abstractmethod
    def until_ready(self) -> None:
        """Wait until it serves; its processes have been started. Raises RuntimeError."""

    @abstractmethod
    async def prepare(self, count: int) -> None:
        """Have ready what `count` replies need and what is not part of a reply's cost."""

    @abstractmethod
    async def ask(self, plan: Plan, reply: Reply) -> None:
        """Fill one reply. Raises OSError and RuntimeError for what is none."""

    @abstractmethod
    def close(self) -> None:
        """Drop idle connections: the server will, and a request could be lost in that."""

    @abstractmethod
    def usage(self, *, look_again: bool = True) -> Usage:
        """What the system's processes have used so far, by room; not `look_again`: of those known, as cheaply as can
        be."""
