"""`turnstone tail`: watch a turn that somebody submitted."""

from shared.cli.client import ApiClient
from shared.cli.terminal import Terminal
from shared.cli.transcript import JsonLines, Transcript
from shared.cli.turnpath import TurnPath
from shared.cli.watch import Watch, watch
from shared.settings import ClientSettings


def run_tail(
    settings: ClientSettings, terminal: Terminal, turn: TurnPath, *, after: str | None, json: bool, url: str | None
) -> int:
    """Show the turn's events after `after` until its end; the exit code. Raises ApiError."""
    view = JsonLines(terminal) if json else Transcript(terminal, shows_input=True)
    with ApiClient(settings=settings) as api:
        return watch(api, terminal, view, Watch(turn=turn, after=after, url=url))
