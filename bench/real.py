"""Turnstone against a real inference server that was not written for it: llama.cpp's, with a tiny model.

Run it by `make real`. Prints what a user sees in each situation, and ends with 1 if anything was not as it has to
be. Everything that it starts is ended, on this machine's loopback alone.
"""

import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
from real_processes import LlamaServer, Stack, server_python, wait_for

LONGEST_RUN_S = 300
GREEDY = {"strategy": {"type": "greedy"}}
TURN_ENDS = ("turn_complete", "turn_failed", "turn_canceled")

Json = dict[str, Any]


class Report:
    """Prints what was seen, and counts what was not as it has to be."""

    def __init__(self) -> None:
        self.failed = 0
        self._started = time.monotonic()

    def title(self, text: str) -> None:
        print(f"\n== {text}   [{time.monotonic() - self._started:.1f} s]", flush=True)

    def show(self, what: str, value: object) -> None:
        print(f"   {what}: {value}", flush=True)

    def expect(self, holds: bool, what: str) -> None:
        self.failed += not holds
        print(f"   {'ok    ' if holds else 'FAILED'} {what}", flush=True)


class User:
    """A client of the API, over plain HTTP."""

    def __init__(self, *, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=60)
        self.heard = ""
        """All that the API has answered, to look for secrets in."""

    def call(self, method: str, path: str, body: Json | None = None) -> tuple[int, Json]:
        reply = self._http.request(method, path, json=body)
        self.heard += reply.text
        return reply.status_code, reply.json() if reply.content else {}

    def session(self, **config: Any) -> str:
        """A session of a new agent, as the path below which its turns lie."""
        agent = {"model": LlamaServer.name, "instructions": "Be brief.", **config}
        _, created = self.call("POST", "/agents", {"agent_config": agent})
        path = f"/agents/{created['agent_id']}/session"
        _, session = self.call("POST", path, {"session_name": "real"})
        return f"{path}/{session['session_id']}"

    def turn(self, session: str, text: str) -> Json:
        """A turn, once it has ended."""
        _, turn = self.call("POST", f"{session}/turn", {**_says(text), "stream": False})
        return turn

    def stream(self, session: str, text: str) -> Iterator[Json]:
        """What a streaming POST sends: `{payload}` frames, or one `{error}`."""
        with self._http.stream("POST", f"{session}/turn", json={**_says(text), "stream": True}) as reply:
            for line in reply.iter_lines():
                self.heard += line
                if line.startswith("data: "):
                    data: Json = orjson.loads(line[6:])
                    yield data.get("event") or data

    def events(self, session: str, turn_id: str) -> list[tuple[str, str]]:
        """(id, type) of all events of an ended turn, as its tail tells them."""
        with self._http.stream("GET", f"{session}/turn/{turn_id}/events") as reply:
            lines = list(reply.iter_lines())
        self.heard += "".join(lines)
        ids = [line[4:] for line in lines if line.startswith("id: ")]
        return list(zip(ids, (line[7:] for line in lines if line.startswith("event: ")), strict=True))


class RealRun:
    """The situations, in order."""

    def __init__(self, *, report: Report, user: User, server: LlamaServer) -> None:
        self._report = report
        self._user = user
        self._server = server
        self._turns: list[tuple[str, str]] = []

    def run(self) -> None:
        self.models()
        self.streaming()
        self.stopping()
        self.wrong_model()
        self.second_turn()
        self.two_sessions_at_once()
        self.killed_in_mid_answer()
        self.down_at_submit()
        self.started_again()
        self.tails()

    def models(self) -> None:
        self._report.title("What is served")
        _, models = self._user.call("GET", "/models")
        _, providers = self._user.call("GET", "/providers")
        names = [f"{model['identifier']} by {model['provider_id']}" for model in models["data"]]
        health = {entry["provider_id"]: entry["health"] for entry in providers["data"]}
        self._report.show("models", ", ".join(names))
        self._report.show("health", health)
        self._report.expect(names == ["tiny by llama"], "the server's one model is listed")
        self._report.expect(health["llama"]["status"] == "OK", "its provider is healthy")
        self._report.expect("api_key" in str(health["stranger"]), "a wrong api_key is told, and where to correct it")

    def streaming(self) -> None:
        self._report.title("Streaming: 200 tokens, as they come")
        session = self._user.session(sampling_params={"max_tokens": 200})
        sent, text = time.monotonic(), ""
        arrivals: list[float] = []
        turn: Json = {}
        for frame in self._user.stream(session, "Tell me something"):
            payload = frame.get("payload", {})
            if payload.get("event_type") == "step_progress":
                arrivals.append(1000 * (time.monotonic() - sent))
                text += payload["delta"]["text"]
            turn = payload.get("turn", turn)
        self._note(session, turn)
        self._report.show("text", f"{text[:60].strip()} …")
        self._report.show("deltas after ms", " ".join(f"{arrivals[at]:.0f}" for at in _spread(len(arrivals))))
        self._report.expect(len(arrivals) >= 5, f"the text came in several deltas ({len(arrivals)})")
        self._report.expect(arrivals[-1] > arrivals[0], "they came one after the other")
        self._report.expect(turn["output_message"]["content"] == text, "together they are the turn's answer")
        self._report.expect(_stop_reason(turn) == "out_of_tokens", "max_tokens ends it with out_of_tokens")

    def stopping(self) -> None:
        self._report.title("Stop sequences")
        limit = {**GREEDY, "max_tokens": 40}
        session = self._user.session(sampling_params=limit)
        free = str(self._ended(session, "Say some words")["output_message"]["content"])
        word = list(dict.fromkeys(free.split()))[5]
        session = self._user.session(sampling_params={**limit, "stop": [word]})
        stopped = self._ended(session, "Say some words")
        self._report.show("without", free[:70].strip())
        self._report.show(f"stop at '{word}'", stopped["output_message"]["content"].strip())
        self._report.expect(
            stopped["output_message"]["content"] == free.partition(word)[0], "the answer ends before it"
        )
        self._report.expect(_stop_reason(stopped) == "end_of_turn", "it is a complete answer: end_of_turn")

    def wrong_model(self) -> None:
        self._report.title("A model that the server does not have")
        status, problem = self._user.call("POST", "/agents", {"agent_config": {"model": "big", "instructions": ""}})
        self._report.show("answer", f"{status} {problem.get('detail')}")
        self._report.expect(status == 400, "refused at the agent's creation")
        self._report.expect("tiny" in problem.get("detail", ""), "with the list of what is served")

    def second_turn(self) -> None:
        self._report.title("Two turns in one session")
        session = self._user.session(sampling_params={**GREEDY, "max_tokens": 20})
        first, second = (str(self._ended(session, text)["output_message"]["content"]) for text in ("One", "Two"))
        said = [("system", "Be brief."), ("user", "One"), ("assistant", first), ("user", "Two")]
        messages = [{"role": role, "content": content} for role, content in said]
        self._report.show("answers", f"{first[:40].strip()} … / {second[:40].strip()} …")
        self._report.expect(second != self._server.ask(messages[:1] + messages[3:]), "the second is not a first")
        self._report.expect(
            second == self._server.ask(messages), "it is the server's own answer to the whole conversation"
        )

    def two_sessions_at_once(self) -> None:
        self._report.title("Two sessions at once, on a server that does one thing at a time")
        sessions = [self._user.session(sampling_params={"max_tokens": 300}) for _ in range(2)]
        turns = [self._user.call("POST", f"{session}/turn", _says("Go on"))[1] for session in sessions]
        ended = [
            self._user.call("GET", f"{session}/turn/{turn['turn_id']}?wait=60")[1]
            for session, turn in zip(sessions, turns, strict=True)
        ]
        for session, turn in zip(sessions, ended, strict=True):
            self._note(session, turn)
            words = len(turn["output_message"]["content"].split())
            self._report.show("ended", f"{turn['status']}, {words} words {turn.get('error', '')}")
            told = turn["status"] == "failed" and turn["error"]["code"] == "provider_interrupted"
            self._report.expect(words == 300 or told, "it has its whole answer, or says that the server broke off")

    def killed_in_mid_answer(self) -> None:
        self._report.title("The server is killed in the middle of an answer")
        session = self._user.session()  # without max_tokens it would talk for seconds
        deltas, turn_id = 0, ""
        error: Json = {}
        for frame in self._user.stream(session, "Talk without end"):
            turn_id = turn_id or frame.get("payload", {}).get("turn_id", "")
            error = frame.get("error", error)
            deltas += frame.get("payload", {}).get("event_type") == "step_progress"
            if deltas == 10 and not self._server.ended:
                self._server.kill()
        _, turn = self._user.call("GET", f"{session}/turn/{turn_id}")
        self._note(session, turn)
        self._report.show("the stream's last frame", error)
        self._report.show("the turn", f"{turn['status']}, {len(turn['steps'])} unfinished step, {turn.get('error')}")
        self._report.expect(error.get("code") == "provider_interrupted", "the stream ends with provider_interrupted")
        self._report.expect("'llama'" in error.get("message", ""), "which names the provider")
        self._report.expect("log of the server" in error.get("message", ""), "and says where to look")
        self._report.expect(turn["status"] == "failed", "the turn has failed")
        self._report.expect(turn["steps"][-1]["model_response"]["content"] != "", "what had come stays readable")

    def down_at_submit(self) -> None:
        self._report.title("The server is down when a turn is submitted")
        session = self._user.session()
        status, accepted = self._user.call("POST", f"{session}/turn", _says("Anybody there?"))
        _, turn = self._user.call("GET", f"{session}/turn/{accepted['turn_id']}?wait=30")
        self._note(session, turn)
        self._report.show("submitted", f"{status} {accepted['status']}")
        self._report.show("the turn", f"{turn['status']}: {turn.get('error')}")
        self._report.expect(status == 202, "it is accepted all the same")
        self._report.expect(turn.get("error", {}).get("code") == "provider_unreachable", "and fails: unreachable")
        self._report.expect("Is the server running" in str(turn.get("error")), "with what to look at")

    def started_again(self) -> None:
        self._report.title("The server is started again")
        self._server.start()
        turn = self._ended(self._user.session(sampling_params={"max_tokens": 20}), "Are you back?")
        self._report.show("the turn", f"{turn['status']}: {turn['output_message']['content'].strip()[:60]}")
        self._report.expect(turn["status"] == "completed", "turns complete again, nothing had to be done")

    def tails(self) -> None:
        self._report.title("The tails of all these turns")
        for session, turn_id in self._turns:
            events = self._user.events(session, turn_id)
            numbers = [int(entry_id.partition("-")[0]) for entry_id, _ in events]
            whole = numbers == list(range(1, len(events) + 1)) and events[-1][1] in TURN_ENDS
            kinds = [kind for _, kind in events if kind != "step_progress"]
            self._report.expect(whole, f"{len(events):4} events without a gap: {' '.join(kinds)}")

    def _ended(self, session: str, text: str) -> Json:
        turn = self._user.turn(session, text)
        self._note(session, turn)
        return turn

    def _note(self, session: str, turn: Json) -> None:
        self._turns.append((session, turn["turn_id"]))


def main() -> int:
    """The exit code: 0 if everything was as it has to be."""
    python = server_python()
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(LONGEST_RUN_S)
    report, key = Report(), f"sk-{secrets.token_hex(16)}"
    with tempfile.TemporaryDirectory(prefix="turnstone-real-") as name:
        folder = Path(name)
        model = folder / "tiny.gguf"
        subprocess.run([python, Path(__file__).with_name("tiny_model.py"), model], check=True, timeout=60)
        report.title("llama.cpp's server and the stack")
        report.show("model", f"{model.name}, {model.stat().st_size // 1000} kB, random weights")
        server = LlamaServer(python=python, model=model, key=key, folder=folder)
        stack = Stack(config=_config(server.url, key), folder=folder)
        with server, stack:
            user = User(url=stack.url)
            wait_for(lambda: bool(user.call("GET", "/models")[1]["data"]), "the model is listed")
            report.show("both answer", f"{server.url}, {stack.url}")
            RealRun(report=report, user=user, server=server).run()
        report.title("Secrets")
        report.expect(key not in user.heard, f"the api_key is in none of {len(user.heard) // 1000} kB of answers")
        report.expect(key not in stack.log.read_text(), "and not in the stack's log")
        _show_complaints(report, stack.log)
    print(f"\n{report.failed} expectations failed." if report.failed else "\nAll as it has to be.", flush=True)
    return 1 if report.failed else 0


def _config(url: str, key: str) -> Json:
    def instance(provider_id: str, api_key: str) -> Json:
        return {
            "provider_id": provider_id,
            "provider_type": "remote::openai",
            "config": {"url": url, "api_key": api_key},
        }

    return {"providers": {"inference": [instance("llama", key), instance("stranger", "sk-not-the-right-one")]}}


def _show_complaints(report: Report, log: Path) -> None:
    lines = log.read_text(errors="replace").splitlines()
    complaints = [line for line in lines if " WARNING " in line or " ERROR " in line or " CRITICAL " in line]
    for line in [line for line in complaints if not line.startswith("store")][:20]:
        report.show("log", line)


def _too_long(*_: object) -> None:
    raise TimeoutError(f"the run took longer than {LONGEST_RUN_S} s")


def _says(text: str) -> Json:
    return {"messages": [{"role": "user", "content": text}]}


def _stop_reason(turn: Json) -> str:
    return str(turn["output_message"]["stop_reason"])


def _spread(count: int, at_most: int = 12) -> list[int]:
    """Indexes from the first to the last of `count` things, evenly spread."""
    return sorted({round(number * (count - 1) / (at_most - 1)) for number in range(at_most)})


if __name__ == "__main__":
    sys.exit(main())
