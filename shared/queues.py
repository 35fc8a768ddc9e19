"""The queues that workers serve, each with processes of its own."""

TURNS_QUEUE = "turns"
"""Hints at turns."""
CALLS_QUEUE = "calls"
"""Calls whose clients wait: a turn pool that is full must not keep them waiting."""
MEMORY_QUEUE = "memory"
"""Hints at insert jobs: reading, cutting and embedding documents must not slow turns down."""
QUEUES = (TURNS_QUEUE, CALLS_QUEUE, MEMORY_QUEUE)


def broker_name(queue: str, prefix: str) -> str:
    """What a queue is called at the broker, which installations with other prefixes may share."""
    return f"{prefix}.{queue}"
