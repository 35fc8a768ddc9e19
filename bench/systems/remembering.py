"""Turnstone with an agent that looks into a memory bank before it answers."""

import json

from bench.load.plan import Plan
from bench.load.words import Words
from bench.systems.turnstone import BANK, Stack, Turnstone

QUESTION_WORDS = 12
MAX_CHUNKS = 5


class Remembering(Turnstone):
    """Each turn asks a question of its own, some of whose words are very common. Without a `mode` it asks no bank."""

    def __init__(self, stack: Stack, mode: str = "") -> None:
        super().__init__(stack)
        self._words = Words(seed=2)
        if mode:
            banks = [{"bank_id": BANK, "mode": mode}]
            self._more = {"memory": {"memory_bank_configs": banks, "max_chunks": MAX_CHUNKS}}

    def body(self, plan: Plan) -> bytes:
        content = f"{self._words.text(QUESTION_WORDS)} {plan.prompt()}"
        return json.dumps({"messages": [{"role": "user", "content": content}]}).encode()
