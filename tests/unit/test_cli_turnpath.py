"""How a turn is named on the command line."""

import shlex

import pytest

from shared.cli.parser import build_parser
from shared.cli.turnpath import JobPath, TurnPath, parse_turn, parse_turn_id, path_by_id
from shared.errors import ConfigError

TURN = TurnPath(agent_id="agent_1", session_id="sess_00_2", turn_id="turn_00_3")
PATH = "agents/agent_1/session/sess_00_2/turn/turn_00_3"


@pytest.mark.parametrize("text", [f"/v1/{PATH}", f"v1/{PATH}", f"/{PATH}", PATH, f"/v1/{PATH}/events", f"/v1/{PATH}/"])
def test_a_path_names_a_turn(text: str) -> None:
    assert parse_turn(text, agent=None, session=None) == (TURN, None)


@pytest.mark.parametrize("base", ["http://127.0.0.1:8321", "https://host", "https://host/behind/a/proxy"])
def test_a_url_names_a_turn_and_the_api(base: str) -> None:
    assert parse_turn(f"{base}/v1/{PATH}/events?after=3", agent=None, session=None) == (TURN, base)


def test_an_id_names_a_turn_of_an_agents_session() -> None:
    assert parse_turn("turn_00_3", agent="agent_1", session="sess_00_2") == (TURN, None)


@pytest.mark.parametrize(
    ("text", "agent", "session", "words"),
    [
        ("turn_00_3", None, None, "alone does not say where"),
        ("turn_00_3", "agent_1", None, "with --agent and --session"),
        ("agents/a/session/s", None, None, "names no turn"),
        ("http://host/elsewhere", None, None, "names no turn"),
        ("http://[host/v1/agents", None, None, "names no turn"),
        (PATH, "agent_1", None, "leave --agent and --session out"),
    ],
)
def test_what_names_no_turn_is_refused_with_the_forms_that_do(
    text: str, agent: str | None, session: str | None, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_turn(text, agent=agent, session=session)


def test_the_command_that_is_shown_names_the_same_turn_in_lines_that_fit() -> None:
    turn = TurnPath(agent_id=f"agent_{'0' * 24}", session_id=f"sess_63_{'0' * 24}", turn_id=f"turn_63_{'0' * 24}")
    command = turn.tail_command(url="http://127.0.0.1:8321")

    args = build_parser().parse_args(shlex.split(command.replace("\\\n", ""))[1:])

    assert parse_turn(args.turn, agent=args.agent, session=args.session) == (turn, None)
    assert args.url == "http://127.0.0.1:8321"
    assert max(map(len, command.split("\n"))) < 80


def test_ids_with_slashes_keep_them() -> None:
    turn = TurnPath(agent_id="a/b", session_id="s", turn_id="t")

    assert turn.path == "/agents/a%2Fb/session/s/turn/t"
    assert parse_turn(turn.path, agent=None, session=None) == (turn, None)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("turn_00_3", ("turn_00_3", None)),
        (f"/v1/{PATH}", ("turn_00_3", None)),
        (f"https://host/x/v1/{PATH}/events", ("turn_00_3", "https://host/x")),
    ],
)
def test_where_the_id_is_enough_a_turn_is_named_by_it_too(text: str, found: tuple[str, str | None]) -> None:
    assert parse_turn_id(text) == found


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("job_07_3", None),
        ("/v1/jobs/job_07_3", None),
        ("jobs/job_07_3/events", None),
        ("https://host/x/v1/jobs/job_07_3", "https://host/x"),
    ],
)
def test_an_insert_job_is_named_by_its_id_path_or_url(text: str, url: str | None) -> None:
    assert parse_turn(text, agent=None, session=None) == (JobPath("job_07_3"), url)
    assert parse_turn_id(text) == ("job_07_3", url)


def test_an_id_alone_says_whether_it_is_a_turns_or_a_jobs() -> None:
    assert path_by_id("job_07_3") == "/jobs/job_07_3"
    assert path_by_id("turn_07_3") == "/turns/turn_07_3"


def test_the_command_that_is_shown_follows_the_same_job() -> None:
    job = JobPath("job_07_3")

    args = build_parser().parse_args(shlex.split(job.tail_command(url="http://h:1").replace("\\\n", ""))[1:])

    assert parse_turn(args.turn, agent=args.agent, session=args.session) == (job, None)
    assert args.url == "http://h:1"
