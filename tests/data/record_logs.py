"""Records the logs of turns as this release writes them, for the releases to come: `make record-logs`.

Real rooms run every kind of turn; what lies in the store then goes into tests/data/logs/<version>.json, with the turn
that this release folds it to. `--tree` takes the rooms and the fold from another checkout, of an older release.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import httpx  # noqa: E402
from fake_moderation import FakeModeration, by_word  # noqa: E402
from fake_tools import HANG, FakeTools, answer  # noqa: E402
from fake_upstream import Reply, Request  # noqa: E402
from rooms import DEADLINE_S, Rooms  # noqa: E402

Json = dict[str, Any]

STORY = " ".join(f"word{number}" for number in range(40))
LOOK = {"name": "look", "parameters": [{"name": "at", "parameter_type": "str", "required": True}]}
SEAT = {"type": "object", "properties": {"seat": {"type": "string"}}, "required": ["seat"]}
RULES: list[Json] = [
    {"match": "^use both", "role": "user", "tool_calls": [
        {"tool_name": "read", "arguments": {"seat": "4a"}}, {"tool_name": "book", "arguments": {"seat": "4a"}}]},
    {"match": "^book slowly", "role": "user", "tool_calls": [{"tool_name": "book", "arguments": {"seat": "slow"}}]},
    {"match": "^read slowly", "role": "user", "tool_calls": [{"tool_name": "read", "arguments": {"seat": "slow"}}]},
    {"match": "^look", "role": "user", "tool_calls": [{"tool_name": "look", "arguments": {"at": "x"}}]},
    {"match": "^mix", "role": "user", "tool_calls": [
        {"tool_name": "look", "arguments": {"at": "x"}}, {"tool_name": "book", "arguments": {"seat": "1"}}]},
    {"match": "^nothing there", "role": "user", "tool_calls": [{"tool_name": "nothing", "arguments": {}}]},
    {"match": "^fail", "error": {"status": 500, "message": "out of order"}},
    {"match": "^tell", "text": STORY, "token_ms": 50},
    {"match": "^moon", "text": "It is blue moon."},
    {"match": "^hold on", "text": "Let us hold on."},
    {"match": "", "role": "tool", "text": "Told."},
]  # fmt: skip
FOLD = """
import json, sys
from shared.events import Entry, PrivateEntry
from shared.fold import fold
for turn in json.load(sys.stdin):
    split = lambda entry_id: [int(part) for part in entry_id.split("-")]
    events = [Entry(*split(i), kind, version, payload.encode()) for i, kind, version, payload in turn["events"]]
    private = [PrivateEntry(split(i)[0], kind, payload.encode()) for i, kind, payload in turn["private"]]
    print(json.dumps(fold(events, private).as_turn()))
"""
"""Run in the release's own tree: its fold of entries that are given as they are kept."""


class Recorder:
    """The rooms of a release, and the turns that they have written."""

    def __init__(self, rooms: Rooms, url: str, start_worker: Callable[[], Any]) -> None:
        self._rooms = rooms
        self._http = httpx.Client(base_url=f"{url}/v1", timeout=DEADLINE_S)
        self._start_worker = start_worker
        self.turns: list[Json] = []

    def record_all(self) -> None:
        """Those that end, then those that a lost worker leaves in the middle."""
        worker = self._start_worker()
        for name, text, config in (
            ("an answer", "say it", {}),
            ("server tools", "use both", {}),
            ("a tool that nobody has", "nothing there", {}),
            ("failed", "fail", {}),
            ("shields that pass", "say it", {"input_shields": ["words"], "output_shields": ["words"]}),
            ("a withheld reply", "moon", {"output_shields": ["words"]}),
            ("a retracted reply", "moon", {"output_shields": ["words"], "shield_mode": "stream"}),
            ("a question that is blocked", "the blue moon", {"input_shields": ["words"]}),
        ):
            self._record(name, self._ended(self._submit(text, config)))
        self._record("a client's tool", self._ended(self._resume(self._asking("look"))))
        self._record("tools of both kinds", self._ended(self._resume(self._asking("mix"))))
        self._record("canceled", self._canceled())
        abandoned = self._begun("tell", events=6)
        worker.kill()
        worker = self._start_worker()
        self._record("an abandoned step", self._ended(abandoned))
        self._record_unfinished(worker)

    def _record_unfinished(self, worker: Any) -> None:
        self._record("waiting for the client", self._asking("look"), unfinished=True)
        self._record("waiting for the client, one call made here", self._asking("mix"), unfinished=True)
        left = {
            "a step that is open": self._begun("tell", events=6),
            "a call that may not be repeated, without an outcome": self._begun("book slowly", events=5, private=2),
            "a call that may be repeated, without an outcome": self._begun("read slowly", events=5, private=2),
            "a reply that no shield has seen": self._begun("hold on", {"output_shields": ["words"]}, private=2),
        }
        resumed = self._asking("look")
        worker.kill()
        for name, turn in left.items():
            self._record(name, turn, unfinished=True)
        self._record("resumed, and not taken up", self._resume(resumed), unfinished=True)
        self._record("not taken up", self._submit("say it"), unfinished=True)

    # Turns

    def _submit(self, text: str, config: Json | None = None) -> Json:
        agent = {"model": "scripted", "instructions": "Be brief.", "client_tools": [LOOK], "toolgroups": ["seats"]}
        agent_id = self._post("/agents", {"agent_config": agent | (config or {})})["agent_id"]
        path = f"/agents/{agent_id}/session"
        session_id = self._post(path, {"session_name": "a session"})["session_id"]
        messages = [{"role": "user", "content": text}]
        turn = self._post(f"{path}/{session_id}/turn", {"messages": messages})
        return {**turn, "path": f"{path}/{session_id}/turn/{turn['turn_id']}"}

    def _begun(self, text: str, config: Json | None = None, *, events: int = 0, private: int = 0) -> Json:
        """A turn that a worker runs, with so many entries."""
        turn = self._submit(text, config)
        key = self._key(turn)
        with self._rooms.store() as store:
            self._rooms.until(
                lambda: store.xlen(f"{key}:events") >= events and store.xlen(f"{key}:private") >= private,
                f"{text} has come so far",
            )
        return turn

    def _ended(self, turn: Json) -> Json:
        self._rooms.until(lambda: self._get(turn)["completed_at"] is not None, "the turn ends")
        return turn

    def _asking(self, text: str) -> Json:
        turn = self._submit(text)
        self._rooms.until(lambda: self._get(turn)["status"] == "awaiting_input", "the turn waits")
        return turn

    def _resume(self, turn: Json) -> Json:
        calls = self._get(turn)["output_message"]["tool_calls"]
        responses = [{"call_id": call["call_id"], "tool_name": call["tool_name"], "content": "seen"} for call in calls]
        self._post(f"{turn['path']}/resume", {"tool_responses": responses})
        return turn

    def _canceled(self) -> Json:
        turn = self._begun("tell", events=6)
        self._post(f"{turn['path']}/cancel", {})
        return self._ended(turn)

    def _get(self, turn: Json) -> Json:
        found: Json = self._http.get(turn["path"]).raise_for_status().json()
        return found

    def _post(self, path: str, body: Json) -> Json:
        reply = self._http.post(path, json=body, headers={"Idempotency-Key": uuid4().hex})
        answer: Json = reply.raise_for_status().json()
        return answer

    # What lies in the store

    @staticmethod
    def _key(turn: Json) -> str:
        return f"ts:{{s{turn['turn_id'].split('_')[1]}}}:default:turn:{turn['turn_id']}"

    def _record(self, name: str, turn: Json, *, unfinished: bool = False) -> None:
        key, session = self._key(turn), self._key(turn).partition(":turn:")[0] + f":session:{turn['session_id']}"
        with self._rooms.store() as store:
            events, private = store.xrange(f"{key}:events"), store.xrange(f"{key}:private")
            row, of_session = store.hgetall(key), store.hgetall(session)
        self.turns.append({
            "name": name,
            "unfinished": unfinished,
            "session_id": turn["session_id"],
            "turn_id": turn["turn_id"],
            # Its own name of the worker would name the machine.
            "hash": {k.decode(): "w1" if k == b"worker" else v.decode() for k, v in row.items() if k != b"snapshot"},
            "session": {k.decode(): v.decode() for k, v in of_session.items()},
            "events": [[i.decode(), f[b"t"].decode(), int(f[b"v"]), f[b"p"].decode()] for i, f in events],
            "private": [[i.decode(), f[b"k"].decode(), f[b"p"].decode()] for i, f in private],
        })  # fmt: skip


def run_config(tools: FakeTools, moderation: FakeModeration) -> Json:
    made = [
        {"name": "read", "url": f"{tools.root}/read", "parameters": SEAT, "replay": "safe"},
        {"name": "book", "url": f"{tools.root}/book", "parameters": SEAT},
    ]
    return {
        "providers": {
            "inference": [{"provider_id": "play", "provider_type": "inline::scripted", "config": {"rules": RULES}}],
            "safety": [{"provider_id": "gate", "provider_type": "remote::openai-moderation", "config": {
                "url": moderation.url, "api_key": "none", "shields": [{"shield_id": "words"}]}}],
            "tool_runtime": [{"provider_id": "tools", "provider_type": "remote::http", "config": {
                "toolgroup_id": "seats", "tools": made}}],
        },
        "turns": {"lease_s": 2},
    }  # fmt: skip


def sit(request: Request) -> Reply:
    """What the tools give; nothing, for a seat that is slow."""
    return HANG if b"slow" in request.body else answer({"seat": request.json["seat"]})


def moderate(request: Request) -> Reply:
    return HANG if b"Let us hold on" in request.body else by_word("blue moon")(request)


def record(tree: Path) -> list[Json]:
    """What the release in `tree` writes, and what it folds that to."""
    of_tree: Json = {"pythonpath": str(tree), "cwd": tree}
    with tempfile.TemporaryDirectory() as folder, FakeTools() as tools, FakeModeration() as moderation:
        tools.replies = {"/read": sit, "/book": sit}
        moderation.moderate = moderate
        with Rooms(Path(folder), run_config(tools, moderation)) as rooms:

            def start_worker() -> Any:
                worker = rooms.worker(**of_tree)
                rooms.until_healthy(worker)
                return worker

            api = rooms.api(**of_tree)
            recorder = Recorder(rooms, api.url, start_worker)
            recorder.record_all()
    folded = subprocess.run(
        [sys.executable, "-c", FOLD],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree)},
        input=json.dumps(recorder.turns).encode(),
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    turns = [json.loads(line) for line in folded.splitlines()]
    return [{**recorded, "fold": turn} for recorded, turn in zip(recorder.turns, turns, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Record the logs that a release writes.")
    parser.add_argument("--tree", type=Path, default=ROOT, help="a checkout of the release (default: this one)")
    parser.add_argument("--commit", help="the release's commit (default: the one that the tree is at)")
    options = parser.parse_args()
    tree = options.tree.resolve()
    version = tomllib.loads((tree / "pyproject.toml").read_text())["project"]["version"]
    commit = options.commit or subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=tree, text=True).strip()
    turns = record(tree)
    file = ROOT / "tests" / "data" / "logs" / f"{version}.json"
    file.write_text(json.dumps({"version": version, "commit": commit, "turns": turns}, indent=1) + "\n")
    sys.stdout.write(f"{file}: {len(turns)} turns of {version}\n")


if __name__ == "__main__":
    main()
