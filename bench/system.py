"""The processes that a measurement needs, and how much CPU each room of the stack has used."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from upstream import MODEL

HERE = Path(__file__).parent
TURNSTONE = str(Path(sys.executable).with_name("turnstone"))
START_S = 60.0
STOP_S = 20.0
ROOMS = ("worker", "api", "store")
_FOREIGN = ("TURNSTONE_", "OPENAI_", "OLLAMA_")


@contextmanager
def fake_upstream() -> Iterator[str]:
    """The URL of a fake upstream that runs in a process of its own."""
    command = [sys.executable, str(HERE / "upstream.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.kill()


class Stack:
    """A running `turnstone dev`."""

    def __init__(self, process: "subprocess.Popen[bytes]", url: str) -> None:
        self.url = url
        self._root = psutil.Process(process.pid)

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds so far, by room; `rest` is the supervisor and what belongs to it."""
        used = dict.fromkeys((*ROOMS, "rest"), 0.0)
        for process in (self._root, *self._root.children(recursive=True)):
            times = process.cpu_times()
            used[_room(process)] += times.user + times.system
        return used

    def rss_mb(self) -> dict[str, float]:
        """Resident memory, by room."""
        used = dict.fromkeys((*ROOMS, "rest"), 0.0)
        for process in (self._root, *self._root.children(recursive=True)):
            used[_room(process)] += process.memory_info().rss / 2**20
        return used


@contextmanager
def stack(upstream_url: str, folder: Path, *, workers: int = 1, api_processes: int = 1) -> Iterator[Stack]:
    """A healthy stack that serves the upstream's model, with its data in `folder`; stopped with the block."""
    port = _free_port()
    provider = {"provider_id": "bench", "provider_type": "remote::openai", "config": {"url": upstream_url}}
    config = folder / "turnstone.yaml"
    config.write_text(json.dumps({"providers": {"inference": [provider]}}))
    command = [
        TURNSTONE, "dev", "--with-parent", "--port", str(port), "--config", str(config), "--data", str(folder / "data"),
        "--workers", str(workers), "--api-processes", str(api_processes),
    ]  # fmt: skip
    environ = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    log = folder / "stack.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, env=environ, stdout=output, stderr=output)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_served(url, process, log)
        yield Stack(process, url)
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _room(process: psutil.Process) -> str:
    words = " ".join(process.cmdline())
    if "gunicorn" in words:
        return "api"
    if "-m worker" in words:
        return "worker"
    return "store" if "appendonly" in words or "-server" in process.name() else "rest"


def _wait_until_served(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        if MODEL in _get(f"{url}/v1/models") and _get(f"{url}/v1/health"):
            return
        time.sleep(0.1)
    raise SystemExit(f"The stack does not serve the model. It wrote:\n{log.read_text()}")


def _get(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            answer: bytes = response.read()
            return answer.decode()
    except (urllib.error.URLError, OSError):
        return ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
