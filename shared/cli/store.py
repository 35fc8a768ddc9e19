"""The store of a stack: a server that runs already, or one that the stack starts for itself."""

import hashlib
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import redis

from shared.cli.binaries import ServerBinary, is_recent
from shared.errors import ConfigError
from shared.settings import masked_url

# A socket's address holds 104 bytes on macOS and 108 on Linux, with the final zero.
LONGEST_SOCKET_PATH = 100
CONNECT_TIMEOUT_S = 5.0


class LocalStore:
    """A server of our own: data in one folder, reached by a unix socket only.

    A socket and not a port: its folder's mode keeps other users of the machine out without a password, and
    no other process can take its place while the server is being restarted. `fsync`: it answers for a write when it is
    on the disk.
    """

    def __init__(self, *, binary: ServerBinary, data_dir: Path, fsync: bool = False) -> None:
        self.binary = binary
        self._fsync = fsync
        self.data_dir = data_dir.resolve()
        self.socket_path = socket_path(self.data_dir)
        self.url = f"unix://{quote(str(self.socket_path))}"

    def __str__(self) -> str:
        return f"{self.binary.name} {self.binary.version} ({self.binary.origin}), {self.url}"

    def prepare(self) -> None:
        """Make the folders, for this user alone. Raises ConfigError where that is not possible."""
        for folder in (self.data_dir, self.socket_path.parent):
            make_private(folder)

    def command(self) -> tuple[str, ...]:
        """The server's command line. Acknowledged writes survive its own death, and without `fsync` the last second's
        may be lost with the machine; it refuses writes sooner than it evicts a turn."""
        options = {
            "port": "0",
            "unixsocket": str(self.socket_path),
            "unixsocketperm": "700",
            "dir": str(self.data_dir),
            "appendonly": "yes",
            "appendfsync": "always" if self._fsync else "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
            "loglevel": "warning",
        }
        flags = [part for name, value in options.items() for part in (f"--{name}", value)]
        return (str(self.binary.path), *flags)

    def environ(self, inherited: Mapping[str, str]) -> dict[str, str]:
        """The server's environment: in a locale that is not installed it would refuse to start."""
        return {**inherited, "LC_ALL": "C"}

    def answers(self) -> bool:
        """Whether the server takes commands now; False while it starts or still loads its data."""
        with connect(self.url) as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False


def describe_server(url: str) -> str:
    """Name and version of the running server at `url`, for people; it has been found fit.

    Raises ConfigError, which names the variable to change.
    """
    info = _server_info(url)
    name, version = server_version(info)
    if not is_recent(version):
        raise ConfigError(
            f"The store at {masked_url(url)} (TURNSTONE_REDIS_URL) is {name} {version}. "
            "Turnstone needs Redis 7.2 or later, or Valkey."
        )
    return f"{name} {version}, {masked_url(url)}"


def server_version(info: dict[str, Any]) -> tuple[str, str]:
    """Name and version out of an INFO reply. Valkey also states the Redis version that it resembles."""
    if "valkey_version" in info:
        return "Valkey", str(info["valkey_version"])
    return "Redis", str(info.get("redis_version", "0"))


def connect(url: str) -> "redis.Redis":
    """A client for a few questions; it waits for nothing longer than five seconds."""
    return redis.Redis.from_url(url, socket_timeout=CONNECT_TIMEOUT_S)


def socket_path(data_dir: Path) -> Path:
    """Where the server of `data_dir` listens: in it, or where that is too long in the temporary folder."""
    path = data_dir / "store.sock"
    if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH:
        return path
    digest = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]
    name = Path(f"turnstone-{os.getuid()}") / f"{digest}.sock"
    short = Path(tempfile.gettempdir()) / name
    return short if len(os.fsencode(short)) <= LONGEST_SOCKET_PATH else Path("/tmp") / name  # noqa: S108


def make_private(folder: Path) -> None:
    """Make `folder` (mode 0700). Raises ConfigError where it is, or may be, in somebody else's hands."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise ConfigError(f"The folder {folder} cannot be made: {error.strerror}. Choose one with --data.") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise ConfigError(f"{folder} is not a folder of this user's. Remove it, or choose another with --data.")
    folder.chmod(0o700)


def _server_info(url: str) -> dict[str, Any]:
    try:
        with connect(url) as client:
            client.ping()
            return cast("dict[str, Any]", client.info("server"))
    except redis.RedisError as error:
        raise _no_answer(url, str(error)) from error
    except ValueError:
        # Its text would show the part of a password that was taken for a port.
        raise _no_answer(url, "the URL cannot be read") from None


def _no_answer(url: str, reason: str) -> ConfigError:
    return ConfigError(
        f"The store at {masked_url(url)} (TURNSTONE_REDIS_URL) does not answer: {reason}. "
        "Start it or correct the URL; without the variable, 'turnstone dev' starts a store of its own."
    )
