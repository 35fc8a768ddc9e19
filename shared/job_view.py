"""An insert job as clients get it, out of the turn that it is to the log. Pure."""

from shared.events import Json

INSERT = "insert"
"""The key of a job's config that holds what it is to insert: a job is a turn to everything but this."""
_AGENT = "memory:"
_NOTHING: Json = {"documents": None, "done": 0, "chunks": 0, "failed": 0, "failures": []}


def job_agent(bank_id: str) -> str:
    """What stands in the place of an agent's id for the jobs of a bank. No agent has such an id."""
    return f"{_AGENT}{bank_id}"


def bank_of(agent_id: str) -> str:
    """The inverse of `job_agent`."""
    return agent_id.removeprefix(_AGENT)


def job_of(turn: Json) -> Json:
    """The job, in the shape of `shared.types.memory.Job`."""
    step = turn["steps"][-1] if turn["steps"] else {}
    job: Json = {
        "job_id": turn["turn_id"],
        "type": "memory_insert",
        "bank_id": bank_of(turn["agent_id"]),
        "status": turn["status"],
        "attempts": turn["attempts"],
        **{name: step.get(name, empty) for name, empty in _NOTHING.items()},
        "created_at": turn["created_at"],
        "started_at": turn["started_at"],
        "completed_at": turn["completed_at"],
    }
    return job | {name: turn[name] for name in ("error", "retry_of") if name in turn}
