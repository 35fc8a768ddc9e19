"""`turnstone tail`: watch a turn, or an insert job, that somebody submitted."""

from shared.cli.client import ApiClient
from shared.cli.job_transcript import JobTranscript
from shared.cli.terminal import Terminal
from shared.cli.transcript import JsonLines, Transcript, View
from shared.cli.turnpath import JobPath, TurnPath
from shared.cli.watch import Watch, watch
from shared.settings import ClientSettings


def run_tail(
    settings: ClientSettings,
    terminal: Terminal,
    turn: TurnPath | JobPath,
    *,
    after: str | None,
    json: bool,
    url: str | None,
) -> int:
    """Show the events after `after` until the end; the exit code. Raises ApiError."""
    view: View
    if json:
        view = JsonLines(terminal)
    else:
        view = JobTranscript(terminal) if isinstance(turn, JobPath) else Transcript(terminal, shows_input=True)
    with ApiClient(settings=settings) as api:
        return watch(api, terminal, view, Watch(turn=turn, after=after, url=url))
