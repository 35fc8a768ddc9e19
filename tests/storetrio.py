"""A primary and two replicas that really replicate, links between them that can be cut, and one address for clients.

with StoreTrio(tmp_path) as trio:
    trio.isolate()   # from here on the primary writes for itself
    trio.promote()   # replica 1 is the primary, replica 2 follows it, and the address leads there
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from redis import Redis
from redis.exceptions import RedisError
from stack_process import free_port
from stalling_proxy import StallingProxy
from waiting import wait_for

from shared.cli.binaries import find_binary
from shared.cli.guard import Guard

DEADLINE_S = 60.0


class Address(StallingProxy):
    """Where clients find the store: a proxy that can lead elsewhere, as an address does that follows failovers."""

    def lead_to(self, port: int) -> None:
        """New connections go there; the open ones are cut."""
        self._target = port
        self.cut()


class StoreTrio:
    """Three servers on loopback; everything ends with the block. `url` is the address for clients.

    `max_lag_s`: for so long the primary writes on without a word of its replicas.
    """

    def __init__(self, *, max_lag_s: int = 10, appendfsync: str = "always") -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="ts-"))
        self._max_lag_s = max_lag_s
        self._appendfsync = appendfsync
        self._servers: list[subprocess.Popen[bytes]] = []
        self._clients: list[Redis] = []
        self._guard = Guard(on_exit=lambda _: None)

    def __enter__(self) -> Self:
        try:
            self.primary = self._start("primary")
            self._links = [StallingProxy(port_of(self.primary)).__enter__() for _ in range(2)]
            self.replicas = [self._start(f"replica-{i}", of=link.port) for i, link in enumerate(self._links, 1)]
            self.until_replicated()
            self.address = Address(port_of(self.primary)).__enter__()
        except BaseException:
            self._end()
            raise
        self.url = f"redis://127.0.0.1:{self.address.port}/0"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.address.__exit__(kind, error, trace)
        for link in self._links:
            link.__exit__(kind, error, trace)
        self._end()

    def until_replicated(self) -> None:
        """Until both replicas have all that the primary has written so far."""

        def offset(client: Redis) -> int:
            return int(_info(client)["master_repl_offset"])

        def up(client: Redis) -> bool:
            return _info(client).get("master_link_status") == "up"

        goal = offset(self.primary)
        wait_for(
            lambda: all(up(one) and offset(one) >= goal for one in self.replicas),
            "the replicas have everything",
            seconds=DEADLINE_S,
        )

    def isolate(self) -> None:
        """Hold back all that goes between the primary and its replicas, both ways. It writes on: for
        `min-replicas-max-lag` seconds it takes them for alive."""
        for link in self._links:
            link.stall()

    def rejoin(self) -> None:
        """Let the replicas have what was held back, and all that comes."""
        for link in self._links:
            link.flow()
        self.until_replicated()

    def good_replicas(self) -> int:
        """How many replicas the old primary counts on."""
        return int(_info(self.primary)["min_slaves_good_slaves"])

    def promote(self) -> None:
        """What a failover does: replica 1 becomes the primary, replica 2 follows it, clients are led there.

        The old primary lives on, and keeps the clients that know it by itself.
        """
        for link in self._links:
            link.refuse(True)
            link.cut()
        promoted, follower = self.replicas
        promoted.execute_command("REPLICAOF", "NO", "ONE")
        follower.execute_command("REPLICAOF", "127.0.0.1", port_of(promoted))
        wait_for(
            lambda: int(_info(promoted).get("min_slaves_good_slaves", 0)) >= 1,
            "the promoted one has a replica and takes writes",
            seconds=DEADLINE_S,
        )
        self.address.lead_to(port_of(promoted))
        # One that was being connected at that moment is still led to the old primary.
        self.primary.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    @property
    def promoted(self) -> Redis:
        """The new primary itself."""
        return self.replicas[0]

    def _start(self, name: str, *, of: int | None = None) -> Redis:
        folder, port = self._folder / name, free_port()
        folder.mkdir()
        options = {
            "port": port, "bind": "127.0.0.1", "dir": folder, "save": "", "daemonize": "no", "loglevel": "notice",
            "appendonly": "yes", "appendfsync": self._appendfsync, "maxmemory-policy": "noeviction",
            "min-replicas-to-write": 1, "min-replicas-max-lag": self._max_lag_s,
            "repl-diskless-sync-delay": 0, "repl-ping-replica-period": 1,
        }  # fmt: skip
        flags = [part for key, value in options.items() for part in (f"--{key}", str(value))]
        replicaof = [] if of is None else ["--replicaof", "127.0.0.1", str(of)]
        with (folder / "server.log").open("wb") as log:
            server = subprocess.Popen(
                [str(find_binary().path), *flags, *replicaof],
                env={**os.environ, "LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )
        self._servers.append(server)
        self._guard.add(server.pid, last=True)
        client = Redis(port=port, socket_timeout=10)
        self._clients.append(client)
        wait_for(lambda: server.poll() is not None or _answers(client), f"{name} answers", seconds=DEADLINE_S)
        assert server.poll() is None, (folder / "server.log").read_text()
        return client

    def _end(self) -> None:
        for client in self._clients:
            client.close()
        for server in self._servers:
            server.kill()
            server.wait()
            self._guard.remove(server.pid)
        self._guard.close()
        shutil.rmtree(self._folder)


def port_of(client: Redis) -> int:
    return int(client.connection_pool.connection_kwargs["port"])


def _info(client: Redis) -> dict[str, Any]:
    return cast(dict[str, Any], client.info("replication"))


def _answers(client: Redis) -> bool:
    try:
        return bool(client.ping())
    except RedisError:
        return False
