"""`turnstone models`, `agents`, `sessions`, `turns`, `jobs`: what there is, as a table or as the API's own JSON."""

from collections.abc import Sequence

from shared.cli.client import ApiClient
from shared.cli.exits import OK
from shared.cli.terminal import Terminal
from shared.cli.transcript import plain_text
from shared.cli.turnpath import agent_path, session_path
from shared.events import Json

# "2025-11-22T19:12:03.123456Z" up to the minute; the heads say that it is UTC.
_MINUTE = len("2025-11-22T19:12")


def list_models(api: ApiClient, terminal: Terminal, *, json: bool) -> int:
    """The models that are served."""
    found = api.get("/models")
    rows = [(one["identifier"], one["model_type"], ", ".join(one["provider_ids"])) for one in found["data"]]
    return _tell(terminal, found, ("MODEL", "TYPE", "PROVIDERS"), rows, json=json, none="No model is served.")


def list_agents(api: ApiClient, terminal: Terminal, *, start: int, limit: int, json: bool) -> int:
    """A page of agents, oldest first."""
    found = api.get("/agents", start_index=start, limit=limit)
    rows = [
        (one["agent_id"], _minute(one["created_at"]), one["agent_config"]["model"], _name(one["agent_config"]))
        for one in found["data"]
    ]
    code = _tell(terminal, found, ("AGENT", "CREATED (UTC)", "MODEL", "NAME"), rows, json=json, none="No agents.")
    _tell_of_more(terminal, found, start + limit, json=json)
    return code


def list_sessions(api: ApiClient, terminal: Terminal, agent: str, *, start: int, limit: int, json: bool) -> int:
    """A page of an agent's sessions, oldest first."""
    found = api.get(f"{agent_path(agent)}/sessions", start_index=start, limit=limit)
    rows = [(one["session_id"], _minute(one["started_at"]), one["session_name"]) for one in found["data"]]
    code = _tell(terminal, found, ("SESSION", "STARTED (UTC)", "NAME"), rows, json=json, none="No sessions.")
    _tell_of_more(terminal, found, start + limit, json=json)
    return code


def list_turns(api: ApiClient, terminal: Terminal, agent: str, session: str, *, json: bool) -> int:
    """The turns of a session, in the order of their acceptance."""
    found = api.get(session_path(agent, session))
    rows = [(one["turn_id"], one["status"], _time(one["created_at"]), _input(one)) for one in found["turns"]]
    heads = ("TURN", "STATUS", "TIME (UTC)", "INPUT")
    return _tell(terminal, found, heads, rows, json=json, none="No turns in this session.")


def list_all_turns(
    api: ApiClient,
    terminal: Terminal,
    *,
    status: str | None,
    agent: str | None,
    limit: int,
    after: str | None,
    json: bool,
) -> int:
    """A page of turns of all agents and sessions, newest first."""
    found = api.get("/turns", status=status, agent_id=agent, limit=limit, after=after)
    rows = [(one["turn_id"], one["status"], _time(one["created_at"]), _about(one)) for one in found["data"]]
    code = _tell(terminal, found, ("TURN", "STATUS", "TIME (UTC)", "ABOUT"), rows, json=json, none="No turns.")
    if found["has_more"] and not json:
        terminal.note(f"There are more: --after {found['after']}")
    return code


def list_jobs(
    api: ApiClient,
    terminal: Terminal,
    *,
    status: str | None,
    bank: str | None,
    limit: int,
    after: str | None,
    json: bool,
) -> int:
    """A page of insert jobs, newest first."""
    found = api.get("/jobs", status=status, bank_id=bank, limit=limit, after=after)
    rows = [
        (one["job_id"], one["status"], _time(one["created_at"]), one["bank_id"], _about(one)) for one in found["data"]
    ]
    heads = ("JOB", "STATUS", "TIME (UTC)", "BANK", "ABOUT")
    code = _tell(terminal, found, heads, rows, json=json, none="No insert jobs.")
    if found["has_more"] and not json:
        terminal.note(f"There are more: --after {found['after']}")
    return code


def _about(turn: Json) -> str:
    """Why it failed, or who runs it."""
    error = turn.get("error")
    if error is not None:
        return f"{error['code']}: {error['message']}"
    return f"on {turn['worker']}" if turn.get("worker") else ""


def _tell(
    terminal: Terminal,
    found: Json,
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    json: bool,
    none: str,
) -> int:
    if json:
        terminal.json(found)
    elif rows:
        terminal.table(heads, rows)
    else:
        terminal.note(none)
    return OK


def _tell_of_more(terminal: Terminal, found: Json, start: int, *, json: bool) -> None:
    if found["has_more"] and not json:
        terminal.note(f"There are more: --start {start}")


def _minute(time: str) -> str:
    return time[:_MINUTE].replace("T", " ")


def _time(time: str) -> str:
    return _minute(time)[len("2025-") :]


def _name(config: Json) -> str:
    return config.get("name") or plain_text(config.get("instructions"))


def _input(turn: Json) -> str:
    return " ".join(plain_text(message.get("content")) for message in turn["input_messages"])
