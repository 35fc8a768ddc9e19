"""The processes of a real run: llama.cpp's server and the whole stack, always ended with their block."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

ROOT = Path(__file__).resolve().parent.parent
SERVER_VENV = ROOT / ".real"
SERVER_PACKAGES = ("llama-cpp-python[server]==0.3.36", "gguf", "numpy")
BUILD_S = 1800.0
START_S = 90.0
STOP_S = 15.0


def server_python() -> Path:
    """The Python that has llama.cpp's server; made the first time, which compiles for some minutes."""
    python, made = SERVER_VENV / "bin" / "python", SERVER_VENV / ".made"
    if not made.exists() or made.read_text() != " ".join(SERVER_PACKAGES):
        print(f"Installing {SERVER_PACKAGES[0]} into {SERVER_VENV.name}/ (compiles for some minutes the first time)")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(SERVER_VENV)], check=True, timeout=BUILD_S)
        pip = [str(python), "-m", "pip", "-qq", "--disable-pip-version-check", "install", *SERVER_PACKAGES]
        subprocess.run(pip, check=True, timeout=BUILD_S)
        made.write_text(" ".join(SERVER_PACKAGES))
    return python


def free_port() -> int:
    """A loopback port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition: Callable[[], bool], what: str, *, seconds: float = START_S) -> None:
    """Return once `condition` holds; TimeoutError that names `what` if it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:.0f} s in vain until {what}")
        time.sleep(0.05)


class Process:
    """A command with a log file of its own, in a process group that is ended with the block."""

    def __init__(self, command: list[str], *, log: Path, cwd: Path, environ: dict[str, str] | None = None) -> None:
        self._command = command
        self._cwd = cwd
        self._environ = {**os.environ, **(environ or {})}
        self._running: subprocess.Popen[bytes] | None = None
        self.log = log

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def ended(self) -> bool:
        return self._running is None or self._running.poll() is not None

    def start(self) -> None:
        with self.log.open("ab") as output:
            self._running = subprocess.Popen(
                self._command,
                cwd=self._cwd,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                process_group=0,
            )

    def stop(self) -> None:
        """Ask first, kill what is left after a while."""
        if self._running is None:
            return
        self._running.send_signal(signal.SIGINT)
        try:
            self._running.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it as a crash would."""
        if self._running is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._running.pid, signal.SIGKILL)
        self._running.wait()

    def wait_until_it_answers(self, url: str, what: str, headers: dict[str, str] | None = None) -> None:
        """Return once `url` answers 200. Raises RuntimeError with the log's end if the process has ended."""
        wait_for(lambda: self.ended or _answers(url, headers), f"{what} answers at {url} (log: {self.log})")
        if self.ended:
            raise RuntimeError(f"{what} ended at its start:\n{self.log.read_text(errors='replace')[-2000:]}")


class LlamaServer(Process):
    """llama.cpp's server, serving `model` under the name `tiny` to whoever has `key`."""

    name = "tiny"

    def __init__(self, *, python: Path, model: Path, key: str, folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._key = key
        command = [
            *(str(python), "-m", "llama_cpp.server", "--model", str(model), "--model_alias", self.name),
            *("--host", "127.0.0.1", "--port", str(self.port), "--n_ctx", "4096", "--n_threads", "1"),
        ]
        # It prefers these two variables to its own flags; the key is kept out of the list of processes.
        environ = {"HOST": "127.0.0.1", "PORT": str(self.port), "API_KEY": key}
        super().__init__(command, log=folder / "llama.log", cwd=folder, environ=environ)

    def start(self) -> None:
        """Return once it answers."""
        super().start()
        headers = {"Authorization": f"Bearer {self._key}"}
        self.wait_until_it_answers(f"{self.url}/models", "llama.cpp's server", headers)

    def ask(self, messages: list[dict[str, str]]) -> str:
        """Its own answer, without anything in between: the likeliest 20 tokens."""
        body = {"model": self.name, "messages": messages, "temperature": 0, "max_tokens": 20}
        headers = {"Authorization": f"Bearer {self._key}"}
        reply = httpx.post(f"{self.url}/chat/completions", json=body, headers=headers, timeout=60)
        return str(reply.raise_for_status().json()["choices"][0]["message"]["content"])


class Stack(Process):
    """`turnstone dev` with a run config, on a free port, with data of its own."""

    def __init__(self, *, config: dict[str, Any], folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/v1"
        file = folder / "turnstone.yaml"
        file.write_text(json.dumps(config))  # JSON is YAML
        turnstone = str(Path(sys.executable).with_name("turnstone"))
        command = [turnstone, "dev", "--port", str(self.port), "--config", str(file), "--data", str(folder / "data")]
        environ = {"TURNSTONE_REDIS_URL": "", "TURNSTONE_BROKER_URL": ""}
        super().__init__(command, log=folder / "turnstone.log", cwd=folder, environ=environ)

    def start(self) -> None:
        """Return once it is healthy."""
        super().start()
        self.wait_until_it_answers(f"{self.url}/health", "the stack")


def _answers(url: str, headers: dict[str, str] | None) -> bool:
    try:
        return httpx.get(url, headers=headers, timeout=5).status_code == 200
    except httpx.TransportError:
        return False
