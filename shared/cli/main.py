"""The `turnstone` command."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.cli import exits
from shared.cli.ask import Question, read_question, run_ask
from shared.cli.client import ApiClient
from shared.cli.dev import DevOptions, run_dev
from shared.cli.listing import list_agents, list_all_turns, list_jobs, list_models, list_sessions, list_turns
from shared.cli.operate import fail, requeue, show_why
from shared.cli.parser import build_parser
from shared.cli.show_config import check_config, show_config
from shared.cli.stack import API_COMMAND, WORKER_COMMAND
from shared.cli.tail import run_tail
from shared.cli.terminal import Terminal
from shared.cli.turnpath import parse_turn, parse_turn_id
from shared.errors import ApiRefused, ApiUnreachable, ConfigError
from shared.settings import ClientSettings, Settings

_TWO_ADDRESSES = "The URL names the API's address already: leave --url out."
ROOMS = {"api": API_COMMAND, "worker": WORKER_COMMAND}
# Flags stand above the environment; they are read as the variables whose rules they share.
VARIABLES = {
    "port": "TURNSTONE_PORT",
    "workers": "TURNSTONE_WORKERS",
    "api_processes": "TURNSTONE_API_PROCESSES",
    "config": "TURNSTONE_CONFIG",
    "queue": "TURNSTONE_QUEUE",
    "url": "TURNSTONE_URL",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code, which `turnstone --help` explains."""
    args = build_parser().parse_args(argv)
    try:
        return COMMANDS[args.command](_Call(args, _environ(args)))
    except ConfigError as error:
        return _complain(error.message, exits.USAGE)
    except ApiRefused as error:
        return _complain(error.message, exits.FAILED)
    except ApiUnreachable as error:
        return _complain(error.message, exits.UNREACHABLE)
    except KeyboardInterrupt:
        return exits.INTERRUPTED
    except BrokenPipeError:
        # Whoever read has gone (`| head`). Python would complain once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exits.FAILED


@dataclass(frozen=True, slots=True)
class _Call:
    """A command with its flags, and the environment as the flags change it."""

    args: argparse.Namespace
    environ: dict[str, str]

    def client(self, *, url: str | None = None) -> ClientSettings:
        """`url` stands above flag and environment."""
        return ClientSettings.from_env(self.environ if url is None else {**self.environ, "TURNSTONE_URL": url})

    def terminal(self) -> Terminal:
        return Terminal(out=sys.stdout, err=sys.stderr, plain=self.client().plain)

    def list(self, listing: Callable[..., int], **arguments: object) -> int:
        """Run one of the lists."""
        with ApiClient(settings=self.client()) as api:
            return listing(api, self.terminal(), **arguments, json=self.args.json)

    def on_turn(self, command: Callable[..., int], **arguments: object) -> int:
        """Run one of the commands for operators on the turn that is named."""
        turn_id, url = parse_turn_id(self.args.turn)
        if url is not None and self.args.url is not None:
            raise ConfigError(_TWO_ADDRESSES)
        with ApiClient(settings=self.client(url=url)) as api:
            return command(api, self.terminal(), turn_id, **arguments, json=self.args.json)


def _dev(call: _Call) -> int:
    settings = Settings.from_env(call.environ, require_store=False)
    return run_dev(settings, DevOptions(data_dir=call.args.data, with_parent=call.args.with_parent))


def _room(call: _Call) -> int:
    """Turn this process into the room's: its pid and its signals are those of the command typed."""
    command, settings = ROOMS[call.args.command], Settings.from_env(call.environ)
    os.execve(command[0], command, {**os.environ, **settings.as_environ()})  # noqa: S606


def _config(call: _Call) -> int:
    args = call.args
    if args.config is not None and not Path(args.config).expanduser().is_file():
        raise ConfigError(f"There is no file '{args.config}'.")
    settings = Settings.from_env(call.environ, require_store=False)
    if args.action == "check":
        return check_config(settings.config_path, call.terminal(), json=args.json)
    return show_config(settings.config_path, settings, call.terminal(), json=args.json)


def _ask(call: _Call) -> int:
    args, settings = call.args, call.client()
    question = Question(
        text=read_question(args.text),
        model=args.model,
        agent_id=args.agent,
        session_id=args.session,
        json=args.json,
        url=args.url,
    )
    return run_ask(settings, call.terminal(), question)


def _tail(call: _Call) -> int:
    args = call.args
    turn, url = parse_turn(args.turn, agent=args.agent, session=args.session)
    if url is not None and args.url is not None:
        raise ConfigError(_TWO_ADDRESSES)
    settings = call.client(url=url)
    return run_tail(settings, call.terminal(), turn, after=args.after, json=args.json, url=url or args.url)


def _turns(call: _Call) -> int:
    args = call.args
    narrowed = any(value is not None for value in (args.status, args.of_agent, args.limit, args.after))
    if args.agent is None:
        limit = 50 if args.limit is None else args.limit
        return call.list(list_all_turns, status=args.status, agent=args.of_agent, limit=limit, after=args.after)
    if args.session is None or narrowed:
        raise ConfigError("Give AGENT and SESSION for the turns of one session, or flags for those of all, not both.")
    return call.list(list_turns, agent=args.agent, session=args.session)


def _requeue(call: _Call) -> int:
    return call.on_turn(requeue, url=call.args.url or parse_turn_id(call.args.turn)[1])


COMMANDS: dict[str, Callable[[_Call], int]] = {
    "dev": _dev,
    "api": _room,
    "worker": _room,
    "config": _config,
    "ask": _ask,
    "tail": _tail,
    "models": lambda call: call.list(list_models),
    "agents": lambda call: call.list(list_agents, start=call.args.start, limit=call.args.limit),
    "sessions": lambda call: call.list(
        list_sessions, agent=call.args.agent, start=call.args.start, limit=call.args.limit
    ),
    "turns": _turns,
    "jobs": lambda call: call.list(
        list_jobs, status=call.args.status, bank=call.args.bank, limit=call.args.limit, after=call.args.after
    ),
    "why": lambda call: call.on_turn(show_why),
    "requeue": _requeue,
    "fail": lambda call: call.on_turn(fail, reason=call.args.reason),
}


def _environ(args: argparse.Namespace) -> dict[str, str]:
    given = {name: getattr(args, flag, None) for flag, name in VARIABLES.items()}
    return {**os.environ, **{name: value for name, value in given.items() if value is not None}}


def _complain(message: str, code: int) -> int:
    Terminal(out=sys.stdout, err=sys.stderr, plain=True).note(f"turnstone: {message}")
    return code


if __name__ == "__main__":
    sys.exit(main())
