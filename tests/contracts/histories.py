"""The state machine of the turn log in its long form: `make histories HISTORIES=100000`.

A history is forty operations of test_turn_log_machine.py on two sessions, drawn from its number alone: clients that
submit, cancel, resume and delete, workers that claim, write, pause, end, lose their lease and go on as if they had not,
the reaper, a clock that goes forward and back. Two things come on top:

- The reply to an operation is lost, and its last script is called again with the same arguments: nothing may change.
- The store is put back to where it was some operations ago, as by a failover to a replica that had not heard of them.
  Owners from both pasts go on writing.

Every answer is compared with the model's. At a history's end, and after one operation in twelve by chance, the
invariants are checked and the operation's last script is repeated. A history that fails is run again from its number,
with that after each operation, and told.
"""

import argparse
import copy
import multiprocessing
import os
import random
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent.parent), str(HERE.parent), str(HERE)]

import pytest  # noqa: E402
import test_turn_log_machine as machine_module  # noqa: E402
from hypothesis.control import BuildContext  # noqa: E402
from hypothesis.internal.conjecture.data import ConjectureData  # noqa: E402
from logkit import running_server  # noqa: E402
from redis import BlockingConnectionPool  # noqa: E402
from redis.exceptions import ResponseError  # noqa: E402
from storedump import difference, dump, frozen  # noqa: E402

from shared.cli.binaries import find_binary  # noqa: E402
from shared.log.reader import LogReader  # noqa: E402
from shared.log.scripts import Call, Scripts  # noqa: E402
from shared.redis_client import Store  # noqa: E402
from shared.round_trips import Command  # noqa: E402

STEPS = 40
LOOK_ONE_IN = 12
REMEMBER_ONE_IN = 40
FAIL_OVER_ONE_IN = 20
_POOL = 2000  # values that Hypothesis draws of each strategy; a history takes from these
FAULTS = (Exception, pytest.fail.Exception)  # the latter, by which pytest.raises says that nothing was, is none
_AT_ONCE = 50  # histories between two reports of a process


class QuickClient(Store):
    """redis-py on one connection, without its pool, retries and measurements: half the time of each command."""

    def __init__(self, url: str) -> None:
        super().__init__(BlockingConnectionPool.from_url(url, protocol=2))
        self.connection = self.connection_pool.get_connection()

    def execute_command(self, *args: Any, **options: Any) -> Any:
        connection: Any = self.connection
        connection.send_packed_command(connection.pack_command(*args), check_health=False)
        return self.parse_response(connection, args[0], **options)

    def together(self, commands: Sequence[Command]) -> list[Any]:
        connection: Any = self.connection
        replies = []
        for command in commands:
            connection.send_packed_command(connection.pack_command(*command), check_health=False)
            try:
                replies.append(connection.read_response())
            except ResponseError as error:
                replies.append(error)
        return replies


class History:
    """One history on a store of the caller's own."""

    def __init__(self, client: Store, number: int, *, look_each: bool = False) -> None:
        self.story: list[str] = []
        self._chance = random.Random(f"history {number}")
        self._look_each = look_each
        self._past: tuple[dict[str, Any], dict[bytes, tuple[int, bytes]]] | None = None
        self._calls: list[tuple[Scripts, Sequence[Call]]] = []
        self.machine = _new_machine(client)

    def run(self) -> None:
        """Raises AssertionError where a promise is broken; `story` has the operations then."""
        with _recording(self._calls):
            for start in type(self.machine).setup_state().initializers:
                start.function(self.machine)
            for _ in range(STEPS):
                self._step()
            self._look()
        self.machine.kit.client.flushall()

    def _step(self) -> None:
        self._calls.clear()
        if self._comes(REMEMBER_ONE_IN):
            self._remember()
        if self._past is not None and self._comes(FAIL_OVER_ONE_IN):
            self._fail_over()
        else:
            self._something_happens()
        if self._comes(LOOK_ONE_IN) or self._look_each:
            self._look()

    def _something_happens(self) -> None:
        operation, strategies = self._chance.choice(machine_module.OPERATIONS)
        drawn = {name: self._chance.choice(_pool(strategy)) for name, strategy in strategies.items()}
        self.story.append(f"{operation.__name__} {drawn}")
        operation(self.machine, **drawn)

    def _comes(self, one_in: int) -> bool:
        return self._chance.randrange(one_in) == 0

    # What comes on top of the machine's own operations

    def _look(self) -> None:
        """Check the invariants; then the last script again, as by a caller that never heard its reply."""
        content = dump(self.machine.kit.client, self.machine.kit.prefix)
        with frozen(self.machine.kit, content):
            for invariant in type(self.machine).setup_state().invariants:
                invariant.function(self.machine)
        if self._calls:
            scripts, calls = self._calls.pop()
            self.story.append(f"the reply of {calls[-1].script} is lost")
            scripts.call_many(calls)
            changed = difference(content, dump(self.machine.kit.client, self.machine.kit.prefix))
            assert not changed, f"{calls[-1].script}, repeated with the same arguments, changes {changed}"

    def _remember(self) -> None:
        self.story.append("the replica has heard of all this")
        client, kit = self.machine.kit.client, self.machine.kit
        keys = list(client.scan_iter(f"{kit.prefix}:*", count=1000))
        pipe = client.pipeline(transaction=False)
        for key in keys:
            pipe.pttl(key)
            pipe.dump(key)
        replies = pipe.execute()
        stored = {key: (max(0, replies[2 * n]), replies[2 * n + 1]) for n, key in enumerate(keys)}
        self._past = (copy.deepcopy(self._memory()), stored)

    def _fail_over(self) -> None:
        """The store forgets what came after; owners do not."""
        assert self._past is not None
        self.story.append("the replica takes over")
        memory, stored = self._past
        client = self.machine.kit.client
        client.flushall()
        pipe = client.pipeline(transaction=False)
        for key, (ttl, value) in stored.items():
            pipe.restore(key, ttl, value)
        pipe.execute()
        vars(self.machine).update(copy.deepcopy(memory))
        known = self.machine.models
        self.machine.owners = [owner for owner in self.machine.owners if owner.ref in known]

    def _memory(self) -> dict[str, Any]:
        """What the machine knows of the store, and not what its workers believe."""
        left_out = {"kit", "owners"}
        return {name: value for name, value in vars(self.machine).items() if name not in left_out and name[0] != "_"}


@cache
def _pool(strategy: Any) -> list[Any]:
    """What a strategy gives, the same in every process. Drawn anew each time it would take a third of the time."""
    chance, drawn = random.Random(repr(strategy)), []
    for _ in range(_POOL):
        data = ConjectureData(random=chance)
        with BuildContext(data, wrapped_test=lambda: None):
            drawn.append(data.draw(strategy))
    return drawn


def _new_machine(client: Store) -> Any:
    machine_module.connect = lambda url: client
    machine = machine_module.TurnLogMachine()
    machine.kit.reader = LogReader(client=client, keys=machine.kit.keys)
    return machine


@contextmanager
def _recording(calls: list[tuple[Scripts, Sequence[Call]]]) -> Iterator[None]:
    """In this block `calls` gets every call of a script."""
    plain = Scripts.call_many

    def recorded(self: Scripts, these: Sequence[Call]) -> list[Any]:
        calls.append((self, these))
        return plain(self, these)

    Scripts.call_many = recorded  # type: ignore[method-assign]
    try:
        yield
    finally:
        Scripts.call_many = plain  # type: ignore[method-assign]


def run_histories(url: str, numbers: Sequence[int]) -> str:
    """Run these; what the first one that fails has to say, or nothing."""
    with QuickClient(url) as client:
        for number in numbers:
            try:
                History(client, number).run()
            except FAULTS:
                return _told(client, number, traceback.format_exc())
    return ""


def _told(client: Store, number: int, first: str) -> str:
    """The story of a history that failed, as far as it gets with a check after each operation."""
    client.flushall()
    again = History(client, number, look_each=True)
    try:
        again.run()
    except FAULTS:
        first = traceback.format_exc()
    return f"history {number} fails\n" + "\n".join(again.story) + f"\n\n{first}"


def _work(url: str, numbers: Sequence[int], report: "Connection") -> None:
    """The life of one process: its share of the histories, in small parts."""
    for start in range(0, len(numbers), _AT_ONCE):
        part = numbers[start : start + _AT_ONCE]
        report.send((len(part), run_histories(url, part)))
    report.send((0, None))


def main() -> int:
    parser = argparse.ArgumentParser(description="Run many histories of the turn log's state machine.")
    parser.add_argument("--histories", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="the first one's number (default: 0)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    with ExitStack() as stack:
        urls = [stack.enter_context(running_server(find_binary())) for _ in range(options.processes)]
        return _run(urls, range(options.first, options.first + options.histories))


def _run(urls: Sequence[str], numbers: range) -> int:
    """A process for each store; 1 as soon as a history fails."""
    context, readers, processes = multiprocessing.get_context("spawn"), [], []
    for share, url in enumerate(urls):
        reader, writer = context.Pipe(duplex=False)
        readers.append(reader)
        processes.append(context.Process(target=_work, args=(url, numbers[share :: len(urls)], writer), daemon=True))
    for process in processes:
        process.start()
    try:
        return _watch(readers, len(numbers))
    finally:
        for process in processes:
            process.kill()
            process.join()


def _watch(readers: "list[Connection]", total: int) -> int:
    begun, done, told = time.monotonic(), 0, 0.0
    while readers:
        for reader in wait(readers):
            count, failure = reader.recv()  # type: ignore[union-attr]
            done += count
            if failure:
                sys.stdout.write(failure)
                return 1
            if failure is None:
                readers.remove(reader)  # type: ignore[arg-type]
        if time.monotonic() - told > 10 or not readers:
            told, rate = time.monotonic(), done / (time.monotonic() - begun)
            left = (total - done) / rate / 60 if rate else 0
            sys.stdout.write(f"{done} of {total} histories, {rate:.1f} a second, {left:.0f} min left\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
