"""The `turnstone` command."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from shared.cli.dev import DevOptions, run_dev
from shared.cli.stack import API_COMMAND, WORKER_COMMAND
from shared.errors import ConfigError
from shared.settings import Settings

ROOMS = {"api": API_COMMAND, "worker": WORKER_COMMAND}
# Flags stand above the environment; they are read as the variables whose rules they share.
VARIABLES = {
    "port": "TURNSTONE_PORT",
    "workers": "TURNSTONE_WORKERS",
    "api_processes": "TURNSTONE_API_PROCESSES",
    "config": "TURNSTONE_CONFIG",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 2 for a mistake in the flags, environment or config."""
    args = build_parser().parse_args(argv)
    try:
        return _run(args)
    except ConfigError as error:
        sys.stderr.write(f"turnstone: {error.message}\n")
        return 2
    except KeyboardInterrupt:
        return 130


def build_parser() -> argparse.ArgumentParser:
    """The commands and their flags."""
    parser = argparse.ArgumentParser(prog="turnstone", description="Runs long agent turns for web backends.")
    parser.add_argument("--version", action="version", version=f"turnstone {version('turnstone')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_dev(commands.add_parser("dev", help="run store, API and workers in this terminal"))
    commands.add_parser("api", help="run the API (TURNSTONE_REDIS_URL names the store)")
    commands.add_parser("worker", help="run one worker (TURNSTONE_REDIS_URL names the store)")
    return parser


def _add_dev(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", metavar="N", help="port of the API (default 8321)")
    parser.add_argument("--workers", metavar="N", help="number of worker processes (default 1)")
    parser.add_argument("--api-processes", metavar="N", help="number of API processes (default 1)")
    parser.add_argument("--config", metavar="FILE", help="run config (default ./turnstone.yaml if it is there)")
    parser.add_argument("--data", metavar="DIR", type=Path, help="data folder (default .turnstone/PORT)")
    parser.add_argument("--with-parent", action="store_true", help="stop when the starting process ends")


def _run(args: argparse.Namespace) -> int:
    given = {name: getattr(args, flag, None) for flag, name in VARIABLES.items()}
    environ = {**os.environ, **{name: value for name, value in given.items() if value is not None}}
    if args.command == "dev":
        settings = Settings.from_env(environ, require_store=False)
        return run_dev(settings, DevOptions(data_dir=args.data, with_parent=args.with_parent))
    return _become(ROOMS[args.command], Settings.from_env(environ))


def _become(command: tuple[str, ...], settings: Settings) -> int:
    """Turn this process into the room's: its pid and its signals are those of the command typed."""
    os.execve(command[0], command, {**os.environ, **settings.as_environ()})  # noqa: S606


if __name__ == "__main__":
    sys.exit(main())
