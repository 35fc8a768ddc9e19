"""`turnstone ask`: submit a turn and watch it."""

import hashlib
import shlex
import sys
from dataclasses import dataclass

import orjson

from shared.cli.client import ApiClient, new_key
from shared.cli.exits import OK
from shared.cli.terminal import Terminal
from shared.cli.transcript import JsonLines, Transcript
from shared.cli.turnpath import TurnPath, agent_path, session_path
from shared.cli.watch import Watch, watch
from shared.cli.wrap import one_line, shortened
from shared.errors import ApiRefused, ApiUnreachable, ConfigError
from shared.events import Json
from shared.settings import ClientSettings

SESSION_NAME_WIDTH = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What to ask whom. Without an agent there is one for each model; without a session there is a new one.

    `url` is the address where it was given by flag, to be repeated in the commands shown.
    """

    text: str
    model: str | None = None
    agent_id: str | None = None
    session_id: str | None = None
    json: bool = False
    url: str | None = None


def read_question(words: str | None) -> str:
    """The text to ask: the argument, or standard input where that is `-` or missing and something is piped in.

    Raises ConfigError where there is nothing to ask.
    """
    if words is None and sys.stdin.isatty():
        raise ConfigError('There is nothing to ask. Write it behind the command: turnstone ask "Hello"')
    text = sys.stdin.read() if words in (None, "-") else words or ""
    if not text.strip():
        raise ConfigError("The question is empty.")
    return text


def run_ask(settings: ClientSettings, terminal: Terminal, question: Question) -> int:
    """Submit the turn and show it until it rests; the exit code. Raises ApiError, ConfigError."""
    if question.session_id is not None and question.agent_id is None:
        raise ConfigError("A session belongs to an agent: give --agent with --session.")
    with ApiClient(settings=settings) as api:
        turn = _submit(api, terminal, question)
        view = JsonLines(terminal) if question.json else Transcript(terminal, shows_input=False)
        code = watch(api, terminal, view, Watch(turn=turn, known=True, ends_at_input=True, url=question.url))
        if code == OK and terminal.has_reader and question.session_id is None and not question.json:
            _tell_how_to_go_on(terminal, turn, url=question.url)
    return code


def _submit(api: ApiClient, terminal: Terminal, question: Question) -> TurnPath:
    """The turn, accepted. A repetition of the request after a broken connection finds the same turn."""
    body: Json = {"messages": [{"role": "user", "content": question.text}]}
    if question.agent_id is None:
        agent_id, session_id = _agent_and_session(api, terminal, question)
    else:
        agent_id = question.agent_id
        session_id = question.session_id or _new_session(api, agent_id, question.text)
        if question.model is not None:
            body["model"] = question.model
    try:
        turn = api.post(f"{session_path(agent_id, session_id)}/turn", body, key=new_key())
    except KeyboardInterrupt:
        terminal.note(
            "Interrupted before the API had answered. Whether the turn was accepted is told by:\n"
            f"  turnstone turns {shlex.quote(agent_id)} \\\n    {shlex.quote(session_id)}",
            style=0,
        )
        raise
    return TurnPath(agent_id=agent_id, session_id=session_id, turn_id=turn["turn_id"])


def _agent_and_session(api: ApiClient, terminal: Terminal, question: Question) -> tuple[str, str]:
    """A new session of this command's agent for the model.

    The agent is created with a key made from its configuration, so that a hundred questions do not leave a
    hundred agents. Where it was deleted meanwhile, the key still names it: then another one is created.
    """
    model = question.model or _first_model(api, terminal)
    body = {"agent_config": {"model": model, "name": "turnstone ask"}}
    key = f"turnstone-ask-{hashlib.sha256(orjson.dumps(body)).hexdigest()[:32]}"
    agent_id = api.post("/agents", body, key=key)["agent_id"]
    try:
        return agent_id, _new_session(api, agent_id, question.text)
    except ApiRefused as error:
        if error.status != 404:
            raise
    agent_id = api.post("/agents", body, key=new_key())["agent_id"]
    return agent_id, _new_session(api, agent_id, question.text)


def _new_session(api: ApiClient, agent_id: str, text: str) -> str:
    name = shortened(one_line(text), SESSION_NAME_WIDTH)
    created = api.post(f"{agent_path(agent_id)}/session", {"session_name": name}, key=new_key())
    return str(created["session_id"])


def _first_model(api: ApiClient, terminal: Terminal) -> str:
    models = [one for one in api.get("/models")["data"] if one.get("model_type") != "embedding"]
    if not models:
        raise ApiUnreachable("No model is served. GET /v1/providers, and the workers' logs, say why.")
    model = str(models[0]["identifier"])
    if len(models) > 1 and terminal.has_reader:
        terminal.brief(f"  model: {model} (--model chooses among {len(models)})")
    return model


def _tell_how_to_go_on(terminal: Terminal, turn: TurnPath, *, url: str | None) -> None:
    command = f"turnstone ask --agent {shlex.quote(turn.agent_id)} \\\n    --session {shlex.quote(turn.session_id)}"
    where = f" \\\n    --url {shlex.quote(url)}" if url is not None else ""
    terminal.note(f'\nTo go on in this session:\n  {command}{where} "…"')
