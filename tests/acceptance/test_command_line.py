"""The commands that use the API, run as programs: in a terminal of 80 columns, in pipes, over broken connections."""

import json
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from cutting_proxy import CuttingProxy
from stack import TURNSTONE, Json, Stack, answered, running, scripted
from stack_process import clean_environ
from terminal_program import CTRL_C, TerminalProgram, in_terminal
from waiting import wait_for

STORY = " ".join(f"word{n}" for n in range(30))
ADD_TOOL = {"name": "add", "description": "adds", "parameters": []}

Run = Callable[..., "subprocess.CompletedProcess[str]"]
InTerminal = Callable[..., AbstractContextManager[TerminalProgram]]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack with one model, whose answers take their time."""
    rules: list[Json] = [
        {"match": "^tell a story$", "text": STORY, "first_token_ms": 300, "token_ms": 60},
        {"match": "^think long$", "text": "Thought.", "first_token_ms": 60_000},
        {"match": "^think$", "text": "Thought.", "first_token_ms": 3_000},
        {"match": "^add$", "role": "user", "tool_calls": [{"tool_name": "add", "arguments": {"x": 2, "y": 40}}]},
        {"match": "^42$", "role": "tool", "text": "The sum is 42."},
        {"match": "^fail$", "error": {"status": 400, "message": "the model fell over"}},
    ]
    with running(tmp_path_factory.mktemp("cli"), scripted(*rules)) as found:
        yield found


@pytest.fixture
def environ(stack: Stack) -> dict[str, str]:
    return {**clean_environ({"TURNSTONE_URL": stack.url}), "PYTHONWARNINGS": "error"}


@pytest.fixture
def run(environ: dict[str, str], tmp_path: Path) -> Run:
    """Runs `turnstone` with arguments, in pipes."""

    def run(*arguments: str, **more: Any) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [TURNSTONE, *arguments],
            **{"env": environ, "cwd": tmp_path, "capture_output": True, "text": True, "timeout": 60, **more},
        )

    return run


@pytest.fixture
def terminal(environ: dict[str, str], tmp_path: Path) -> InTerminal:
    """Runs `turnstone` with arguments, in a terminal."""
    return lambda *arguments: in_terminal([TURNSTONE, *arguments], environ=environ, folder=tmp_path)


def lines(text: str) -> list[Json]:
    return [json.loads(line) for line in text.splitlines()]


def ids(session: str) -> tuple[str, str]:
    """Agent and session in a session's path."""
    agent, found = re.fullmatch(r"/agents/(.+)/session/(.+)", session).groups()  # type: ignore[union-attr]
    return agent, found


def shown_command(screen: str, name: str) -> list[str]:
    """The arguments of the `turnstone` command that the screen tells its reader to use."""
    found = re.findall(rf"turnstone ({name} (?:[^\n]*\\\n)*[^\n]*)", screen)
    return str(found[-1]).replace("\\\n", " ").split()


def test_a_question_in_a_terminal_shows_progress_the_answer_and_how_to_go_on(terminal: InTerminal, run: Run) -> None:
    with terminal("ask", "tell a story") as program:
        code = program.ended()
        screen, written, widest = program.screen, program.written, program.widest()

    assert code == 0
    answer, _, more = screen.partition("\n\n")
    assert " ".join(answer.split()) == STORY, "the answer is there once, and nothing of the progress is left"
    assert "waiting for the model (" in written.decode()
    assert widest <= 80
    went_on = run(*shown_command(more, "ask")[:-1], "Hello")
    assert (went_on.returncode, went_on.stdout) == (0, "Hello\n"), went_on.stderr


def test_in_a_pipe_the_answer_alone_is_on_standard_output(run: Run) -> None:
    asked = run("ask", "tell a story")

    assert (asked.returncode, asked.stdout, asked.stderr) == (0, f"{STORY}\n", "")


def test_a_question_can_come_from_a_pipe(run: Run) -> None:
    assert run("ask", "-", input="Hello from a pipe").stdout == "Hello from a pipe\n"
    assert run("ask", input="Hello from a pipe").stdout == "Hello from a pipe\n"
    assert run("ask", "-", input=" \n").returncode == 2


def test_questions_without_an_agent_share_one(run: Run) -> None:
    created = [lines(run("ask", "--json", "Hello").stdout)[0]["event"]["payload"] for _ in range(2)]

    assert created[0]["agent_id"] == created[1]["agent_id"]
    assert created[0]["session_id"] != created[1]["session_id"]


def test_an_agent_that_was_deleted_is_replaced(stack: Stack, run: Run) -> None:
    agent_id = lines(run("ask", "--json", "Hello").stdout)[0]["event"]["payload"]["agent_id"]
    with stack.http() as http:
        assert http.delete(f"/agents/{agent_id}").status_code == 204

    asked = run("ask", "--json", "Hello")

    assert asked.returncode == 0, asked.stderr
    assert lines(asked.stdout)[0]["event"]["payload"]["agent_id"] != agent_id


def test_a_model_for_one_turn_of_an_agent_can_be_chosen(stack: Stack, run: Run) -> None:
    agent, session = ids(stack.new_session())

    refused = run("ask", "--agent", agent, "--session", session, "--model", "nope", "Hello")

    assert refused.returncode == 1
    assert "nope" in refused.stderr and "scripted" in refused.stderr


def test_a_connection_that_drops_is_picked_up_without_a_gap(stack: Stack, environ: dict[str, str]) -> None:
    with (
        CuttingProxy(stack.port) as proxy,
        subprocess.Popen(
            [TURNSTONE, "ask", "--json", "--url", proxy.url, "tell a story"],
            env=environ,
            stdout=subprocess.PIPE,
            text=True,
        ) as program,
    ):
        assert program.stdout is not None
        items = []
        for line in program.stdout:
            items.append(json.loads(line))
            if len(items) in (5, 12):
                assert proxy.cut() > 0
            if len(items) == 20:
                proxy.refuse(True)
                proxy.cut()
                wait_for(lambda: proxy.refused > 1, "it tries again, and again")
                proxy.refuse(False)
        code = program.wait(30)

    assert code == 0
    assert [item["seq"] for item in items] == list(range(1, len(items) + 1))
    assert len(items) > 20, "the answer was long enough to be cut three times"


def test_an_api_that_restarts_within_an_answer_changes_nothing_of_it(tmp_path: Path) -> None:
    rules = [{"match": "story", "text": STORY, "token_ms": 150}]
    with running(tmp_path / "own", scripted(*rules)) as stack:
        with in_terminal(
            [TURNSTONE, "ask", "tell a story"], environ=clean_environ({"TURNSTONE_URL": stack.url}), folder=tmp_path
        ) as program:
            program.wait_for("word5 ")
            for process in stack.process.note_processes():
                if "gunicorn" in " ".join(process.cmdline()):
                    process.kill()
            code = program.ended(seconds=60)
            answer = program.screen.partition("\n\n")[0]

    assert code == 0
    assert " ".join(answer.split()) == STORY


def test_ctrl_c_and_enter_detach_and_the_command_shown_follows_the_turn(terminal: InTerminal, run: Run) -> None:
    with terminal("ask", "think") as program:
        program.wait_for("waiting for the model")
        program.type(CTRL_C)
        program.wait_for("[D]etach")
        program.type(b"\r")
        code, screen, widest = program.ended(), program.screen, program.widest()

    assert code == 130
    assert "Detached. The turn goes on" in screen
    assert widest <= 80
    tailed = run(*shown_command(screen, "tail"))
    assert (tailed.returncode, tailed.stdout, tailed.stderr) == (0, "Thought.\n", "> think\n")


def test_ctrl_c_twice_detaches(terminal: InTerminal) -> None:
    with terminal("ask", "think long") as program:
        program.wait_for("waiting for the model")
        program.type(CTRL_C)
        program.wait_for("[D]etach")
        program.type(CTRL_C)

        assert program.ended() == 130
        assert "Detached." in program.screen


def test_ctrl_c_and_c_cancel_the_turn(terminal: InTerminal, run: Run, stack: Stack) -> None:
    with terminal("ask", "think long") as program:
        program.wait_for("waiting for the model")
        program.type(CTRL_C)
        program.wait_for("[D]etach")
        program.type(b"c\r")
        code, screen = program.ended(), program.screen

    assert code == 1
    assert screen.rstrip().endswith("The turn was canceled: Canceled on request.")


def test_ctrl_c_and_k_go_on_watching(terminal: InTerminal) -> None:
    with terminal("ask", "think") as program:
        program.wait_for("waiting for the model")
        program.type(CTRL_C)
        program.wait_for("[D]etach")
        program.type(b"k\r")
        code, screen = program.ended(), program.screen

    assert code == 0
    assert "Thought." in screen


def test_an_interrupt_where_nobody_can_be_asked_detaches(stack: Stack, environ: dict[str, str], run: Run) -> None:
    command = [TURNSTONE, "ask", "--json", "think"]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None and program.stderr is not None
        program.stdout.readline()
        program.send_signal(signal.SIGINT)
        assert program.wait(30) == 130
        told = program.stderr.read()

    assert run(*shown_command(told, "tail")).stdout == "Thought.\n"


def test_calls_of_client_tools_are_named_and_a_tail_sees_their_answers(stack: Stack, run: Run, tmp_path: Path) -> None:
    session = stack.new_session(client_tools=[ADD_TOOL])
    agent, session_id = ids(session)

    asked = run("ask", "--agent", agent, "--session", session_id, "add")

    assert (asked.returncode, asked.stdout) == (4, "")
    assert "The turn waits for its client to answer this tool call:" in asked.stderr
    call_id = re.search(r"^  (\S+): add\(x=2, y=40\)$", asked.stderr, re.MULTILINE)
    assert call_id is not None, asked.stderr
    tail = shown_command(asked.stderr, "tail")
    with stack.http() as http:
        response = {"call_id": call_id[1], "tool_name": "add", "content": "42"}
        answered(http.post(f"{session}/turn/{tail[1]}/resume", json={"tool_responses": [response]}))
    tailed = run(*tail)
    assert (tailed.returncode, tailed.stdout) == (0, "The sum is 42.\n")
    assert "  → add(x=2, y=40)" in tailed.stderr and "  ← add: 42" in tailed.stderr


def test_a_turn_that_fails_says_why_and_counts_as_failed(run: Run) -> None:
    asked = run("ask", "fail")

    assert (asked.returncode, asked.stdout) == (1, "")
    assert asked.stderr.startswith("The turn failed (provider_bad_request): ")
    assert "the model fell over" in asked.stderr


def test_a_tail_takes_url_path_and_ids_and_begins_where_it_is_told(stack: Stack, run: Run) -> None:
    session = stack.new_session()
    turn = stack.finished(session, stack.submit(session, "Hello"))
    agent, session_id = ids(session)
    url = stack.events_url(session, turn).removesuffix("/events")

    whole = lines(run("tail", url, "--json").stdout)
    same = [
        lines(run("tail", url.removeprefix(stack.url), "--json").stdout),
        lines(run("tail", turn["turn_id"], "--agent", agent, "--session", session_id, "--json").stdout),
    ]
    rest = lines(run("tail", url, "--json", "--after", whole[2]["id"]).stdout)
    nothing = run("tail", url, "--after", whole[-1]["id"])

    assert whole[0]["event"]["payload"]["event_type"] == "turn_created"
    assert whole[-1]["event"]["payload"]["event_type"] == "turn_complete"
    assert same == [whole, whole]
    assert rest == whole[3:]
    assert (nothing.returncode, nothing.stdout) == (0, "")
    assert "the turn is completed" in nothing.stderr


def test_the_lists_show_what_there_is_as_tables_and_as_json(stack: Stack, run: Run) -> None:
    session = stack.new_session(name="an agent with a name")
    turn = stack.finished(session, stack.submit(session, "Hello\nthere"))
    agent, session_id = ids(session)

    tables = {
        "models": (run("models"), ["scripted", "llm", "script"]),
        "agents": (run("agents", "--limit", "1000"), [agent, "an agent with a name"]),
        "sessions": (run("sessions", agent), [session_id, "a session"]),
        "turns": (run("turns", agent, session_id), [turn["turn_id"], "completed", "Hello there"]),
    }

    for name, (table, words) in tables.items():
        assert table.returncode == 0, table.stderr
        assert any(all(word in line for word in words) for line in table.stdout.splitlines()), name
    assert json.loads(run("models", "--json").stdout)["data"][0]["identifier"] == "scripted"
    assert json.loads(run("turns", agent, session_id, "--json").stdout)["turns"] == [turn]
    assert json.loads(run("agents", "--json", "--limit", "1").stdout)["has_more"] in (True, False)


def test_an_operator_finds_a_turn_asks_why_ends_it_and_runs_it_again(
    stack: Stack, run: Run, terminal: InTerminal
) -> None:
    session = stack.new_session()
    stuck, behind = stack.submit(session, "think long")["turn_id"], stack.submit(session, "fail")["turn_id"]
    wait_for(lambda: "running: Its worker " in run("why", stuck).stderr, "a worker has it", seconds=60)

    listed = run("turns", "--status", "in_progress")
    with terminal("why", behind) as program:
        code, screen, widest = program.ended(), program.screen, program.widest()
    ended = run("fail", f"{stack.url}/v1{session}/turn/{stuck}", "--reason", "It thinks for too long.")
    failed_again = run("fail", stuck)
    wait_for(lambda: behind in run("turns", "--status", "failed").stdout, "the next one fails", seconds=60)
    again = run("requeue", behind)
    tailed = run(*shown_command(again.stderr, "tail"))
    failed = run("turns", "--status", "failed").stdout.splitlines()

    assert any(stuck in line and "in_progress" in line for line in listed.stdout.splitlines())
    assert (code, widest <= 80) == (0, True), screen
    assert f"2 of 2 in its session, behind {stuck}" in " ".join(screen.split())
    assert f"behind: Turn {stuck} of its session runs first;" in " ".join(screen.split())
    assert (ended.returncode, ended.stdout) == (0, f"{stuck}: failed (failed_by_operator)\n")
    assert (failed_again.returncode, failed_again.stdout) == (1, "")
    assert "has ended already: it is failed." in failed_again.stderr
    assert again.returncode == 0 and tailed.returncode == 1
    assert [line.split()[0] for line in failed[1:4]] == [again.stdout.strip(), behind, stuck]
    assert "failed_by_operator: An operator ended this turn: It thinks for too long." in failed[3]
    assert f"repeats     {behind}" in run("why", again.stdout.strip()).stdout


def test_what_operators_are_told_is_json_where_that_is_asked_for(stack: Stack, run: Run) -> None:
    session = stack.new_session()
    turn = stack.finished(session, stack.submit(session, "fail"))["turn_id"]

    why = json.loads(run("why", turn, "--json").stdout)
    page = json.loads(run("turns", "--json", "--status", "failed", "--limit", "1").stdout)
    again = json.loads(run("requeue", turn, "--json").stdout)
    more = run("turns", "--limit", "1")

    assert (why["next"]["code"], why["status"]) == ("ended", "failed")
    assert page["data"][0]["turn_id"] == turn
    assert again["retry_of"] == turn
    assert re.fullmatch(r"There are more: --after \S+\n", more.stderr)
    assert run("turns", "--limit", "1", *more.stderr.split()[3:]).stdout != more.stdout


def test_a_long_list_says_how_to_go_on(stack: Stack, run: Run) -> None:
    stack.new_session()
    stack.new_session()

    assert run("agents", "--limit", "1").stderr == "There are more: --start 1\n"


def test_tables_fit_the_terminal(stack: Stack, terminal: InTerminal) -> None:
    session = stack.new_session(name="a name that is a good deal longer than what is left of the line")
    turn = stack.finished(session, stack.submit(session, "what the user says is long " * 4))
    agent, session_id = ids(session)

    lists = (["agents"], ["sessions", agent], ["turns", agent, session_id], ["turns"], ["models"])
    for arguments in (*lists, ["why", turn["turn_id"]], ["--help"]):
        with terminal(*arguments) as program:
            assert program.ended() == 0
            assert program.widest() <= 80, program.screen
    assert turn["status"] == "completed"


def test_every_command_has_help_that_fits_and_says_what_exit_codes_mean(terminal: InTerminal) -> None:
    rooms, lists = ("dev", "api", "worker"), ("models", "agents", "sessions", "turns")
    commands = (*rooms, *lists, "config", "ask", "tail", "why", "requeue", "fail")
    for command in commands:
        with terminal(command, "--help") as program:
            assert program.ended() == 0
            assert program.widest() <= 80, program.screen
    with terminal("--help") as program:
        program.ended()
        assert all(f"    {command} " in program.screen for command in commands)
        assert "130  interrupted" in program.screen


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["models", "--url", "http://127.0.0.1:1"], 3, "Cannot reach http://127.0.0.1:1: connection refused."),
        (["models", "--url", "elsewhere"], 2, "The API's address is 'elsewhere'."),
        (["sessions", "nope"], 1, "There is no agent 'nope'. GET /v1/agents lists what exists. Or: turnstone agents"),
        (["ask", "--model", "nope", "Hello"], 1, "agent_config.model: No provider serves the model 'nope'."),
        (["ask", "--session", "s", "Hello"], 2, "give --agent with --session"),
        (["tail", "turn_1"], 2, "The id 'turn_1' alone does not say where the turn is."),
        (["tail", "/v1/agents/a/session/b/turn/c"], 1, "There is no session 'b'."),
        (["turns", "a"], 2, "Give AGENT and SESSION for the turns of one session, or flags for those of all"),
        (["turns", "a", "s", "--status", "failed"], 2, "Give AGENT and SESSION"),
        (["turns", "--status", "lost"], 1, "'lost' is no status of a turn. There are queued, in_progress,"),
        (["turns", "--limit", "0"], 1, "limit"),
        (["why", "turn_1"], 1, "There is no turn 'turn_1'. GET /v1/turns lists what exists. Or: turnstone turns"),
        (["why", "a/b"], 2, "'a/b' names no turn."),
        (["requeue", "turn_1"], 1, "There is no turn 'turn_1'."),
        (["fail", "turn_1"], 1, "There is no turn 'turn_1'."),
        (["agents", "--limit", "0"], 1, "limit"),
    ],
)
def test_a_mistake_is_one_line_with_what_to_do(run: Run, arguments: list[str], code: int, words: str) -> None:
    done = run(*arguments)

    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_reader_that_leaves_is_no_error_worth_a_traceback(environ: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{TURNSTONE} ask --json 'tell a story' | head -n 1"],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""


def test_no_colours_and_nothing_that_moves_where_they_are_not_wanted(environ: dict[str, str], tmp_path: Path) -> None:
    with in_terminal([TURNSTONE, "ask", "think"], environ={**environ, "NO_COLOR": "1"}, folder=tmp_path) as program:
        assert program.ended() == 0
        assert b"\x1b" not in program.written


def test_a_model_cannot_steer_the_terminal(terminal: InTerminal) -> None:
    with terminal("ask", "red \x1b[31m and \x1b]0;title\x07") as program:
        assert program.ended() == 0
        assert "red \ufffd[31m and \ufffd]0;title\ufffd" in program.screen
