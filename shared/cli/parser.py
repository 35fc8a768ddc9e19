"""The commands, their flags, and the help."""

import argparse
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from shared.cli.exits import EXPLAINED

_EPILOG = f"""\
first steps:
  turnstone dev                      a whole stack in this terminal
  turnstone ask "What is a turn?"    in another one

environment:
  TURNSTONE_URL                      where the API is (http://127.0.0.1:8321)
  TURNSTONE_API_KEY                  sent as Bearer token, where it wants one
  TURNSTONE_REDIS_URL, _CONFIG, …    for dev, api and worker: see the README

{EXPLAINED}"""

_ASK = f"""\
The answer goes to standard output, the steps on the way to standard error. In
a pipe the answer is written once, when it is certain. Losing the connection
loses nothing: it is picked up again. Ctrl-C leaves the turn running, or
cancels it.

examples:
  turnstone ask "Hello"
  turnstone ask --model llama3.2 "Name three rivers" > rivers.txt
  git diff | turnstone ask --agent AGENT -
  turnstone ask --agent AGENT --session SESSION "And a fourth?"
  turnstone ask --json "Hello" | jq -c .event.payload

{EXPLAINED}"""

_TAIL = f"""\
TURN is its URL, its path (the Location of its submit), or its id with --agent
and --session; of an insert job the id is enough.

examples:
  turnstone tail /v1/agents/AGENT/session/SESSION/turn/TURN
  turnstone tail TURN --agent AGENT --session SESSION
  turnstone tail http://host:8321/v1/agents/A/session/S/turn/T --json
  turnstone tail TURN --agent A --session S --after 12-1763839923000000
  turnstone tail job_07_4f1c…

{EXPLAINED}"""

_TURNS = """\
examples:
  turnstone turns                           of all agents and sessions
  turnstone turns --status failed
  turnstone turns --status queued,in_progress --agent AGENT
  turnstone turns AGENT SESSION             of one session, in their order"""

_JOBS = """\
examples:
  turnstone jobs
  turnstone jobs --status failed --json | jq -r '.data[].job_id' |
    xargs -n 1 turnstone requeue"""

_WHY = """\
TURN may be an insert job.

examples:
  turnstone why TURN
  turnstone why TURN --json | jq -r .next.code"""

_REQUEUE = """\
The new turn has the input and the configuration of the old one, and waits for
the unfinished turns of their session. Its id goes to standard output. TURN may
be an insert job: the new one has the same documents.

examples:
  turnstone requeue TURN
  turnstone turns --status failed --json | jq -r '.data[].turn_id' |
    xargs -n 1 turnstone requeue"""

_CONFIG = """\
examples:
  turnstone config check                    ./turnstone.yaml
  turnstone config check production.yaml
  turnstone config show --json | jq .config.turns

check says in one line each what is wrong, with file, line, key and fix, and
ends with 2. It asks no provider anything."""

_CONFIG_FILE = "the run config (default: TURNSTONE_CONFIG, else ./turnstone.yaml)"


def build_parser() -> argparse.ArgumentParser:
    """The parser for all commands."""
    parser = _parser(
        argparse.ArgumentParser,
        prog="turnstone",
        description="Runs long agent turns for web backends.",
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"turnstone {version('turnstone')}")
    # The list of the commands says what the braces would repeat.
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")

    def add(name: str, words: str, *, epilog: str | None = None) -> argparse.ArgumentParser:
        return _parser(commands.add_parser, name, help=words, description=f"{_capital(words)}.", epilog=epilog)

    _add_dev(add("dev", "run store, API and workers in this terminal"))
    add("api", "run the API (TURNSTONE_REDIS_URL names the store)")
    _add_worker(add("worker", "run one worker (TURNSTONE_REDIS_URL names the store)"))
    _add_config(add("config", "check or show the run config, secrets masked", epilog=_CONFIG))
    _add_ask(add("ask", "submit a turn and watch it", epilog=_ASK))
    _add_tail(add("tail", "watch a turn that was submitted elsewhere", epilog=_TAIL))
    _add_api_flags(add("models", "list the models that are served"))
    _add_page_flags(add("agents", "list agents, oldest first"))
    sessions = add("sessions", "list an agent's sessions, oldest first")
    sessions.add_argument("agent", metavar="AGENT", help="an agent's id; `turnstone agents` shows them")
    _add_page_flags(sessions)
    _add_turns(add("turns", "list turns: of all sessions, newest first, or of one", epilog=_TURNS))
    _add_jobs(add("jobs", "list insert jobs, newest first", epilog=_JOBS))
    _add_turn(add("why", "say why a turn does not go on, and what can be done", epilog=_WHY))
    _add_turn(add("requeue", "run a turn again that failed or was canceled, as a new one", epilog=_REQUEUE))
    failing = add("fail", "end a turn as failed, whoever runs it")
    _add_turn(failing)
    failing.add_argument("--reason", metavar="TEXT", help="becomes part of the error's message")
    return parser


def _parser(make: Callable[..., argparse.ArgumentParser], *args: str, **kwargs: str | None) -> argparse.ArgumentParser:
    return make(*args, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **kwargs)


def _add_worker(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--queue",
        metavar="NAME",
        help="turns (default); calls: what clients wait for, such as registering; or memory: insert jobs. A deployment"
        " needs one of each, of memory where documents are inserted",
    )


def _add_dev(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", metavar="N", help="port of the API (default 8321)")
    parser.add_argument("--workers", metavar="N", help="number of worker processes (default 1)")
    parser.add_argument("--api-processes", metavar="N", help="number of API processes (default 1)")
    parser.add_argument("--config", metavar="FILE", help="run config (default ./turnstone.yaml if it is there)")
    parser.add_argument("--data", metavar="DIR", type=Path, help="data folder (default .turnstone/PORT)")
    parser.add_argument("--with-parent", action="store_true", help="stop when the starting process ends")


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("check", "show"), help="what to do with it")
    parser.add_argument("config", metavar="FILE", nargs="?", help=_CONFIG_FILE)
    _add_json(parser, "one JSON document")


def _add_ask(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("text", metavar="TEXT", nargs="?", help="what to ask; - reads standard input")
    parser.add_argument("--model", metavar="M", help="the model (default: the first that is served)")
    parser.add_argument("--agent", metavar="A", help="ask this agent (default: one for the model)")
    parser.add_argument("--session", metavar="S", help="go on in this session of it (default: a new one)")
    _add_url(parser)
    _add_json(parser, "each event as a JSON line")


def _add_tail(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("turn", metavar="TURN", help="the turn's URL, path or id")
    parser.add_argument("--agent", metavar="A", help="the agent, where TURN is an id")
    parser.add_argument("--session", metavar="S", help="the session, where TURN is an id")
    parser.add_argument("--after", metavar="ID", help="begin behind this event (default: with the first)")
    _add_url(parser)
    _add_json(parser, "each event as a JSON line")


def _add_turns(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("agent", metavar="AGENT", nargs="?", help="an agent's id; `turnstone agents` shows them")
    session = "its session's id; `turnstone sessions AGENT` shows them"
    parser.add_argument("session", metavar="SESSION", nargs="?", help=session)
    parser.add_argument("--status", metavar="S", help="only these, with commas in between")
    parser.add_argument("--agent", metavar="A", dest="of_agent", help="only those of this agent")
    parser.add_argument("--limit", metavar="N", type=int, help="show at most N (default 50, at most 200)")
    parser.add_argument("--after", metavar="PLACE", help="go on where a page ended, which says so")
    _add_api_flags(parser)


def _add_jobs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--status", metavar="S", help="only these, with commas in between")
    parser.add_argument("--bank", metavar="B", help="only those of this memory bank")
    parser.add_argument("--limit", metavar="N", type=int, default=50, help="show at most N (default 50, at most 200)")
    parser.add_argument("--after", metavar="PLACE", help="go on where a page ended, which says so")
    _add_api_flags(parser)


def _add_turn(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("turn", metavar="TURN", help="its id, path or URL; that of an insert job too")
    _add_api_flags(parser)


def _add_page_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--start", metavar="N", type=int, default=0, help="leave out the first N")
    parser.add_argument("--limit", metavar="N", type=int, default=100, help="show at most N (default 100)")
    _add_api_flags(parser)


def _add_api_flags(parser: argparse.ArgumentParser) -> None:
    _add_url(parser)
    _add_json(parser, "the API's answer as one JSON document")


def _add_url(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", metavar="U", help="the API's address (default: TURNSTONE_URL)")


def _add_json(parser: argparse.ArgumentParser, words: str) -> None:
    parser.add_argument("--json", action="store_true", help=words)


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]
