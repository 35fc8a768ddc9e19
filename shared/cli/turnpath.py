"""How a person names a turn or an insert job, and how the command line names one to a person."""

import re
import shlex
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from shared.errors import ConfigError
from shared.ids import is_job_id

_PATH = re.compile(r"/?(?:v1/)?agents/([^/]+)/session/([^/]+)/turn/([^/]+)(?:/(?:events|cancel|resume))?/?")
_JOB_PATH = re.compile(r"/?(?:v1/)?jobs/([^/]+)(?:/(?:events|cancel|why|requeue|fail))?/?")
_FORMS = (
    "Name a turn by its URL, by its path (/v1/agents/AGENT/session/SESSION/turn/TURN, the Location of its "
    "submit), or by its id with --agent and --session; an insert job by its URL, path or id."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnPath:
    """Where a turn lies in the API."""

    agent_id: str
    session_id: str
    turn_id: str

    @property
    def path(self) -> str:
        """Below `/v1`."""
        return f"{session_path(self.agent_id, self.session_id)}/turn/{quote(self.turn_id, safe='')}"

    def tail_command(self, *, url: str | None = None) -> str:
        """The command that follows this turn, in lines that fit a terminal."""
        lines = [
            f"turnstone tail {shlex.quote(self.turn_id)}",
            f"--agent {shlex.quote(self.agent_id)}",
            f"--session {shlex.quote(self.session_id)}",
        ]
        if url is not None:
            lines.append(f"--url {shlex.quote(url)}")
        return " \\\n    ".join(lines)


@dataclass(frozen=True, slots=True)
class JobPath:
    """Where an insert job lies in the API."""

    job_id: str

    @property
    def path(self) -> str:
        """Below `/v1`."""
        return f"/jobs/{quote(self.job_id, safe='')}"

    def tail_command(self, *, url: str | None = None) -> str:
        """The command that follows this job."""
        where = "" if url is None else f" \\\n    --url {shlex.quote(url)}"
        return f"turnstone tail {shlex.quote(self.job_id)}{where}"


def path_by_id(identifier: str) -> str:
    """The path below `/v1` of a turn, or of an insert job, of which the id is all that is known."""
    return JobPath(identifier).path if is_job_id(identifier) else f"/turns/{quote(identifier, safe='')}"


def session_path(agent_id: str, session_id: str) -> str:
    """A session's path below `/v1`."""
    return f"{agent_path(agent_id)}/session/{quote(session_id, safe='')}"


def agent_path(agent_id: str) -> str:
    """An agent's path below `/v1`."""
    return f"/agents/{quote(agent_id, safe='')}"


def parse_turn_id(text: str) -> tuple[str, str | None]:
    """The id of the turn or insert job that `text` names, and the API's address where `text` is a whole URL.

    Raises ConfigError.
    """
    if "/" not in text:
        return text, None
    found, url = parse_turn(text, agent=None, session=None)
    return found.job_id if isinstance(found, JobPath) else found.turn_id, url


def parse_turn(text: str, *, agent: str | None, session: str | None) -> tuple[TurnPath | JobPath, str | None]:
    """The turn or insert job that `text` names, and the API's address where `text` is a whole URL.

    Raises ConfigError, which says in which forms one can be named.
    """
    if "/" not in text and is_job_id(text):
        return JobPath(text), None
    if "/" not in text:
        if agent is None or session is None:
            raise ConfigError(f"The id '{text}' alone does not say where the turn is. {_FORMS}")
        return TurnPath(agent_id=agent, session_id=session, turn_id=text), None
    if agent is not None or session is not None:
        raise ConfigError("A turn's URL or path names its agent and session already: leave --agent and --session out.")
    try:
        parts = urlsplit(text)
    except ValueError:
        raise ConfigError(f"'{text}' names no turn. {_FORMS}") from None
    before, marker, after = parts.path.partition("/v1/") if parts.netloc else ("", "", parts.path)
    url = f"{parts.scheme}://{parts.netloc}{before}" if parts.netloc else None
    path = after if marker else parts.path
    if (job := _JOB_PATH.fullmatch(path)) and (marker or not parts.netloc):
        return JobPath(unquote(job[1])), url
    match = _PATH.fullmatch(path)
    if match is None or (parts.netloc and not marker):
        raise ConfigError(f"'{text}' names no turn. {_FORMS}")
    agent_id, session_id, turn_id = map(unquote, match.groups())
    return TurnPath(agent_id=agent_id, session_id=session_id, turn_id=turn_id), url
