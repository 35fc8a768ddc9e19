"""`turnstone config`: whether the run config is right, and what a process started here would run with."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from shared.cli.exits import OK, USAGE
from shared.cli.terminal import Terminal
from shared.errors import ConfigError
from shared.runconfig import RunConfig, load
from shared.settings import Settings, masked_url

# The providers' own settings are the worker room's business, and this one imports none: it asks that room.
CHECK_COMMAND: tuple[str, ...] = (sys.executable, "-m", "worker.check")
NO_FILE = "none (there is no turnstone.yaml here): the scripted model, and what the environment's keys allow"


def check_config(path: Path | None, terminal: Terminal, *, json: bool) -> int:
    """Say whether a worker would start with the run config, and what is wrong where not; the exit code."""
    try:
        config = load(path, os.environ)
        _check_providers(path)
    except ConfigError as error:
        if json:
            terminal.json({"valid": False, "file": _name(path), "errors": error.message.splitlines()})
            return USAGE
        raise
    instances = [
        {"api": api, "provider_id": one.provider_id, "provider_type": one.provider_type}
        for api, _, one in config.providers.instances()
    ]
    if json:
        terminal.json({"valid": True, "file": _name(path), "errors": [], "providers": instances})
        return OK
    terminal.lines(f"config:    {path or NO_FILE}")
    for number, one in enumerate(instances):
        head = "providers:" if number == 0 else ""
        terminal.lines(f"{head:<10} {one['api']} {one['provider_id']} ({one['provider_type']})")
    if not instances:
        terminal.lines("providers: none, so no model will be served")
    terminal.lines("valid")
    return OK


def show_config(path: Path | None, settings: Settings, terminal: Terminal, *, json: bool) -> int:
    """Print the settings and the run config as they take effect, with every secret masked; the exit code."""
    config, variables = load(path, os.environ), _masked(settings)
    shown = _ordered(config)
    if json:
        terminal.json({"file": _name(path), "settings": variables, "config": shown})
        return OK
    terminal.lines(f"# run config: {path or NO_FILE}")
    for name, value in variables.items():
        terminal.lines(f"# {name}={value}")
    text = yaml.safe_dump(shown, sort_keys=False, allow_unicode=True, default_flow_style=False)
    terminal.lines(text.rstrip("\n"))
    return OK


def _check_providers(path: Path | None) -> None:
    """Let the worker room build the providers, which reads their settings and asks none of them anything."""
    environ = {**os.environ, "TURNSTONE_CONFIG": "" if path is None else str(path)}
    done = subprocess.run(CHECK_COMMAND, env=environ, capture_output=True, text=True, check=False)
    if done.returncode == os.EX_CONFIG:
        raise ConfigError(done.stderr.strip())
    if done.returncode != 0:
        raise ConfigError(f"The providers could not be checked: {done.stderr.strip()}")


def _masked(settings: Settings) -> dict[str, str]:
    """The settings as variables; the store's and the broker's passwords are masked."""
    return {
        name: masked_url(value) if name.endswith("_URL") else value for name, value in settings.as_environ().items()
    }


def _ordered(config: RunConfig) -> dict[str, Any]:
    """The masked config, providers first as people write it."""
    shown = config.masked()
    return {"providers": shown.pop("providers"), **shown}


def _name(path: Path | None) -> str | None:
    return None if path is None else str(path)
