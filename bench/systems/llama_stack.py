"""The server of llama-stack 0.2.12, with its own agents in front of the upstream as a vLLM server.

Tracing goes nowhere and logs hold errors only: less than it does by itself.
"""

import json
from typing import Any

from bench.load.client import Client
from bench.load.plan import MODEL, Plan
from bench.load.reply import Reader, Reply
from bench.systems.base import Able, System
from bench.systems.environments import python_of
from bench.systems.processes import Processes, Usage, free_port, get


class LlamaStack(System):
    """Turns posted with `stream: true`, the only way that it has, in sessions of their own."""

    name = "llama-stack"
    able = Able(long_tokens=200, streams=200, alone=4)

    def __init__(self, processes: Processes, upstream_url: str) -> None:
        python = python_of("llama-stack")
        self._processes = processes
        port = free_port()
        config = processes.folder / "run.yaml"
        config.write_text(json.dumps(_run_config(upstream_url, processes, port)))
        command = [python, "-m", "llama_stack.distribution.server.server", "--config", str(config)]
        environ = {"LLAMA_STACK_LOGGING": "all=error", "OTEL_SDK_DISABLED": "true", "HF_HUB_OFFLINE": "1"}
        processes.start("server", [*command, "--port", str(port)], environ=environ)
        self._url = f"http://127.0.0.1:{port}/v1"
        self._client = Client(self._url)
        self._agent = ""
        self._sessions: list[str] = []

    def until_ready(self) -> None:
        self._processes.until(lambda: MODEL in get(f"{self._url}/models"), "llama-stack serves the model")

    async def prepare(self, count: int) -> None:
        if not self._agent:
            config = {"model": MODEL, "instructions": "", "enable_session_persistence": False}
            self._agent = (await self._created("/agents", {"agent_config": config}))["agent_id"]
        path = f"/agents/{self._agent}/session"
        while len(self._sessions) < count:
            session = await self._created(path, {"session_name": "bench"})
            self._sessions.append(f"{path}/{session['session_id']}/turn")

    async def ask(self, plan: Plan, reply: Reply) -> None:
        body = json.dumps({"messages": [{"role": "user", "content": plan.prompt()}], "stream": True}).encode()
        reader = Reader(reply, token_sign=b'"event_type":"step_progress"', end_sign=b'"event_type":"turn_complete"')
        await self._client.stream("POST", self._sessions.pop(), body, on_body=reader.feed)

    def close(self) -> None:
        self._client.close()

    def usage(self, *, look_again: bool = True) -> Usage:
        return self._processes.usage(look_again=look_again)

    async def _created(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        status, answer = await self._client.fetch("POST", path, json.dumps(body).encode())
        if status not in (200, 201):
            raise RuntimeError(f"POST {path}: {status} {answer.decode()}")
        created: dict[str, Any] = json.loads(answer)
        return created


def _run_config(upstream_url: str, processes: Processes, port: int) -> dict[str, Any]:
    def sqlite(name: str) -> dict[str, str]:
        return {"type": "sqlite", "db_path": str(processes.folder / f"{name}.db")}

    vllm = {"url": upstream_url, "max_tokens": 100_000, "api_token": "none", "tls_verify": False}
    agents = {"persistence_store": sqlite("agents"), "responses_store": sqlite("responses")}
    return {
        "version": "2",
        "image_name": "bench",
        "apis": ["agents", "inference", "safety", "telemetry", "vector_io", "tool_runtime"],
        "providers": {
            "inference": [{"provider_id": "bench", "provider_type": "remote::vllm", "config": vllm}],
            "agents": [{"provider_id": "own", "provider_type": "inline::meta-reference", "config": agents}],
            "telemetry": [{"provider_id": "own", "provider_type": "inline::meta-reference", "config": {"sinks": []}}],
            "safety": [],
            "vector_io": [],
            "tool_runtime": [],
        },
        "metadata_store": sqlite("registry"),
        "inference_store": sqlite("inference"),
        "models": [
            {"model_id": MODEL, "provider_id": "bench", "provider_model_id": MODEL, "model_type": "llm"},
        ],
        "server": {"port": port, "host": "127.0.0.1"},
    }
