"""CPU per token: over all processes of a system, and by room."""

from bench.context import Context
from bench.figures import OURS
from bench.load.runner import Outcome
from bench.systems.base import System

TITLE = "CPU per token"


def note_cpu(context: Context, load: str, system: System, outcome: Outcome, cpu_s: dict[str, float]) -> None:
    """Of all tokens that came, whole reply or not; of the upstream's own process beside them."""
    if not outcome.tokens:
        return
    section = context.results.section(TITLE)
    name = "direct (the upstream)" if system.name == "direct" else system.name
    section.figure(f"{load}, all processes", "µs").add(name, sum(cpu_s.values()) * 1e6 / outcome.tokens)
    client = outcome.client_cpu_s * 1e6 / outcome.tokens
    section.figure(f"{load}, the load client itself", "µs").add(name, client)
    if system.name == OURS:
        for room, used in cpu_s.items():
            section.figure(f"{load}, {room}", "µs").add(name, used * 1e6 / outcome.tokens)
        events = sum(reply.events for reply in outcome.replies)
        if events:
            merged = sum(reply.tokens for reply in outcome.replies) / events
            section.figure(f"{load}, tokens per event", "").add(name, merged)
