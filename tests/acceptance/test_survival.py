"""Ctrl-C, kills and restarts in the middle of turns: nothing that was accepted is lost, and no reader is fooled."""

import signal
from pathlib import Path

import httpx
import psutil
from fake_upstream import FakeUpstream
from stack import (
    DEADLINE_S,
    Frame,
    Json,
    Stack,
    answered,
    is_healthy,
    running,
    scripted,
    seqs,
    sse_frames,
    user_turn,
    without_turn,
)
from stack_process import gone
from waiting import wait_for

STORY = [f"word{number}" for number in range(60)]
RULES: list[Json] = [
    {"match": "^tell a story$", "text": " ".join(STORY), "token_ms": 50},
    {"match": "^tell it slowly$", "text": " ".join(STORY), "token_ms": 200},
    {"match": "^be quick$", "text": "Done."},
]
TERMINAL = ("turn_complete", "turn_failed", "turn_canceled")


def types(frames: list[Frame]) -> list[str]:
    """The events' types in order, without those of single tokens."""
    return [frame.type for frame in frames if frame.type != "step_progress"]


def test_ctrl_c_in_mid_turn_loses_nothing_and_the_turn_goes_on_by_itself_at_the_next_start(tmp_path: Path) -> None:
    config = scripted(*RULES)
    with running(tmp_path, config) as stack:
        session = stack.new_session(instructions="Remember this.")
        agent_path = session.partition("/session")[0]
        finished = stack.finished(session, stack.submit(session, "be quick"))
        told = stack.log(finished)
        # Longer than a worker that is told to stop waits for it.
        interrupted, queued = stack.submit(session, "tell it slowly"), stack.submit(session, "be quick")
        stack.wait_for_events(interrupted, 6)
        before = stack.log(interrupted)
        with stack.http() as http:
            agent = answered(http.get(agent_path))

        code = stack.process.stop(signal.SIGINT, seconds=10)
        stack.process.wait_until_gone(seconds=2)

    assert code == 0, stack.process.output
    assert types(before) == ["turn_created", "turn_start", "step_start"]

    with running(tmp_path, config, port=stack.port) as again:
        after = again.finished(session, interrupted)
        next_one = again.finished(session, queued)
        log = again.log(interrupted)

        with again.http() as http:
            assert answered(http.get(agent_path)) == agent
            assert [turn["turn_id"] for turn in answered(http.get(session))["turns"]] == [
                turn["turn_id"] for turn in (finished, interrupted, queued)
            ]
        assert again.turn(session, finished) == finished
        assert again.log(finished) == told
        assert log[: len(before)] == before
        assert types(log) == [
            *("turn_created", "turn_start", "step_start"),
            *("turn_recovered", "step_abandoned", "step_start", "step_complete", "turn_complete"),
        ]
        assert seqs(log) == list(range(1, len(log) + 1))
        assert after["status"] == "completed"
        assert after["output_message"]["content"] == " ".join(STORY)
        assert (after["attempts"], len(after["steps"])) == (2, 1)
        assert next_one["output_message"]["content"] == "Done."
        assert again.turn(session, queued)["attempts"] == 1


def test_a_worker_killed_in_mid_turn_is_replaced_and_the_turn_completes_under_its_readers_eyes(tmp_path: Path) -> None:
    with running(tmp_path, scripted(*RULES, turns={"lease_s": 2})) as stack:
        session = stack.new_session()
        turn, queued = stack.submit(session, "tell a story"), stack.submit(session, "be quick")
        frames = []
        with httpx.stream("GET", stack.events_url(session, turn), timeout=DEADLINE_S) as reply:
            for frame in sse_frames(reply.iter_lines()):
                frames.append(frame)
                if len(frames) == 6:
                    stack.process.worker().kill()

        log = stack.log(turn)
        assert without_turn(frames) == log
        assert types(log) == [
            *("turn_created", "turn_start", "step_start"),
            *("turn_recovered", "step_abandoned", "step_start", "step_complete", "turn_complete"),
        ]
        assert seqs(log) == list(range(1, len(log) + 1))
        assert frames[-1].payload["turn"]["output_message"]["content"] == " ".join(STORY)
        assert stack.finished(session, queued)["status"] == "completed"


def test_stopping_the_api_ends_a_tail_with_a_word_and_the_next_one_goes_on_from_there(tmp_path: Path) -> None:
    with running(tmp_path, scripted(*RULES)) as stack:
        session = stack.new_session()
        turn = stack.submit(session, "tell a story")
        lines = []
        with httpx.stream("GET", stack.events_url(session, turn), timeout=DEADLINE_S) as reply:
            for line in reply.iter_lines():
                lines.append(line)
                if line.startswith("id: 6-"):
                    master = gunicorn_master(stack)
                    master.terminate()
        wait_for(gone(master), "the API has ended", seconds=DEADLINE_S)
        first = list(sse_frames(lines))
        wait_until_served(stack)

        after = {"Last-Event-ID": first[-1].id}
        with httpx.stream("GET", stack.events_url(session, turn), headers=after, timeout=DEADLINE_S) as reply:
            rest = list(sse_frames(reply.iter_lines()))

        assert [line for line in lines if line.startswith(":")] == [": the server restarts, reconnect"]
        assert first[-1].type not in TERMINAL
        assert without_turn(first + rest) == stack.log(turn)
        assert rest[-1].payload["turn"]["attempts"] == 1


def test_a_turn_that_waits_for_its_client_is_resumed_after_a_restart_with_a_provider_down(tmp_path: Path) -> None:
    add = {"name": "add", "description": "Add.", "parameters": []}
    config = scripted(*RULES, {"match": "^add$", "role": "user", "tool_calls": [{"tool_name": "add"}]})
    with FakeUpstream() as upstream:
        remote = {"url": upstream.url, "max_retries": 0}
        config["providers"]["inference"].append(
            {"provider_id": "upstream", "provider_type": "remote::openai", "config": remote}
        )
        with running(tmp_path, config) as stack:
            session = stack.new_session(client_tools=[add])
            with stack.http() as http:
                waiting = answered(http.post(f"{session}/turn", json={**user_turn("add"), "stream": False}))
            (call,) = waiting["output_message"]["tool_calls"]
            stack.process.stop(signal.SIGINT, seconds=10)

    with running(tmp_path, config, port=stack.port) as again, again.http() as http:
        response = {"call_id": call["call_id"], "tool_name": "add", "content": "be quick"}
        body = {"tool_responses": [response], "stream": False}
        resumed = answered(http.post(f"{session}/turn/{waiting['turn_id']}/resume", json=body))
        models = {model["identifier"] for model in answered(http.get("/models"))["data"]}
        other = again.new_session(model="m")
        failed = again.finished(other, again.submit(other, "Hello"))

    assert resumed["output_message"]["content"] == "Done."
    assert models == {"scripted", "m"}
    assert failed["error"]["code"] == "provider_unreachable"


def gunicorn_master(stack: Stack) -> psutil.Process:
    """The API's first process, which the supervisor started."""
    apis = [process for process in stack.process.note_processes() if "gunicorn" in command(process)]
    (master,) = [process for process in apis if process.ppid() == stack.process.process.pid]
    return master


def command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def wait_until_served(stack: Stack) -> None:
    """Return once the API answers again."""
    wait_for(lambda: is_healthy(stack.url), "the API is back", seconds=DEADLINE_S)
