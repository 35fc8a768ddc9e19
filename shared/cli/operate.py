"""`turnstone why`, `requeue`, `fail`: why a turn, or an insert job, does not go on, and what to do about it."""

from shared.cli.client import ApiClient, new_key
from shared.cli.exits import OK
from shared.cli.terminal import Terminal
from shared.cli.turnpath import JobPath, TurnPath, path_by_id
from shared.cli.wrap import one_line
from shared.events import Json
from shared.why import duration


def show_why(api: ApiClient, terminal: Terminal, turn_id: str, *, json: bool) -> int:
    """Where a turn is, and what happens next with it. Raises ApiError."""
    found = api.get(f"{path_by_id(turn_id)}/why")
    if json:
        terminal.json(found)
        return OK
    terminal.lines(f"{_id(found)}: {found['status']}")
    for name, text in _lines(found):
        terminal.lines(f"  {name:<11} {one_line(text)}")
    terminal.note(f"\n{found['next']['code']}: {found['next']['message']}", style=0)
    return OK


def requeue(api: ApiClient, terminal: Terminal, turn_id: str, *, url: str | None, json: bool) -> int:
    """Have a turn run again. The new one's id goes to standard output. Raises ApiError."""
    made = api.post(f"{path_by_id(turn_id)}/requeue", key=new_key())
    if json:
        terminal.json(made)
        return OK
    terminal.lines(_id(made))
    command = _path(made).tail_command(url=url)
    terminal.note(
        f"It runs again as a new {'job' if 'job_id' in made else 'turn'}. To follow that:\n  {command}", style=0
    )
    return OK


def fail(api: ApiClient, terminal: Terminal, turn_id: str, *, reason: str | None, json: bool) -> int:
    """End an unfinished turn as failed. Raises ApiError."""
    ended = api.post(f"{path_by_id(turn_id)}/fail", {} if reason is None else {"reason": reason})
    if json:
        terminal.json(ended)
    else:
        terminal.lines(f"{_id(ended)}: {ended['status']} ({ended['error']['code']})")
    return OK


def _id(found: Json) -> str:
    """The turn's, or the insert job's."""
    return str(found["job_id"] if "job_id" in found else found["turn_id"])


def _path(made: Json) -> TurnPath | JobPath:
    if "job_id" in made:
        return JobPath(made["job_id"])
    return TurnPath(agent_id=made["agent_id"], session_id=made["session_id"], turn_id=made["turn_id"])


def _lines(found: Json) -> list[tuple[str, str]]:
    """What is known, as names and texts; what does not hold for this turn is left out."""
    lines = {
        "agent": found.get("agent_id"),
        "session": found.get("session_id"),
        "bank": _bank(found),
        "progress": _progress(found),
        "repeats": found["retry_of"],
        "accepted": f"{duration(found['age_s'])} ago",
        "attempts": _attempts(found),
        "worker": _worker(found),
        "last event": _last_event(found["last_event"]),
        "hints": _hints(found["hints"]),
        "limits": _limits(found["limits"]),
        "queue": _queue(found.get("queue")),
        "waits for": _awaits(found.get("awaits")),
        "cancel": "asked for" if found["cancel_asked"] else None,
        "workers": f"{found['workers_alive']} alive",
    }
    return [(name, text) for name, text in lines.items() if text]


def _bank(found: Json) -> str | None:
    if "bank_id" not in found:
        return None
    return f"{found['bank_id']}{'' if found['bank_there'] else ', which is gone'}"


def _progress(found: Json) -> str | None:
    """Of an insert job that a worker has taken up."""
    progress = found.get("progress")
    if progress is None or progress["documents"] is None:
        return None
    unread = f", {progress['failed']} could not be read" if progress["failed"] else ""
    return f"{progress['done']} of {progress['documents']} documents, {progress['chunks']} chunks{unread}"


def _attempts(found: Json) -> str:
    lost = found["lost_in_a_row"]
    return f"{found['attempts']}{f' ({lost} workers lost in a row)' if lost else ''}"


def _worker(found: Json) -> str | None:
    lease = found["lease"]
    if lease is None:
        return None
    left = f"{duration(lease['left_s'])} left" if lease["left_s"] > 0 else f"over for {duration(-lease['left_s'])}"
    silent = "" if lease["worker_alive"] else ", no sign of life"
    return f"{lease['worker']}{silent}; lease renewed {duration(lease['renewed_s_ago'])} ago, {left}"


def _last_event(last: Json | None) -> str | None:
    if last is None:
        return None
    age = "" if last["age_s"] is None else f", {duration(last['age_s'])} ago"
    return f"{last['type']} ({last['id']}){age}"


def _hints(hints: Json) -> str | None:
    if hints["next_in_s"] is None:
        return None
    return f"{hints['sent']} sent, the next in {duration(hints['next_in_s'])}"


def _limits(limits: Json) -> str:
    said = {"to be taken up within": limits["start_in_s"], "to end within": limits["end_in_s"]}
    return ", ".join(f"{words} {duration(left)}" for words, left in said.items() if left is not None)


def _queue(queue: Json | None) -> str | None:
    if queue is None or queue["length"] == 1:
        return None
    place = f"{queue['position'] + 1} of {queue['length']} in its session"
    return place if queue["before"] is None else f"{place}, behind {queue['before']}"


def _awaits(awaits: Json | None) -> str | None:
    if awaits is None:
        return None
    left = "" if awaits["left_s"] is None else f"; {duration(awaits['left_s'])} left"
    return f"answers to {', '.join(awaits['call_ids'])}{left}"
