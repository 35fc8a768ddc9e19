"""A store of a system's own."""

from pathlib import Path

from bench.systems.processes import Processes, answers, free_port
from shared.cli.binaries import find_binary

DURABLE = ("--appendonly", "yes", "--appendfsync", "everysec")
FSYNC = ("--appendonly", "yes", "--appendfsync", "always")
NOT_DURABLE = ("--appendonly", "no")


def start_store(processes: Processes, *options: str) -> str:
    """The URL of an empty store on loopback, once it answers."""
    port, data = free_port(), processes.folder / "data"
    Path(data).mkdir(exist_ok=True)
    command = [str(find_binary().path), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(data), "--save", ""]
    command += ["--maxmemory-policy", "noeviction", "--loglevel", "warning", *options]
    # In a locale that is not installed it would refuse to start.
    processes.start("store", command, environ={"LC_ALL": "C"})
    processes.until(lambda: answers(port), "the store answers")
    return f"redis://127.0.0.1:{port}/0"
