"""What a turn of the campaign is to do, written into its user message, so that the fake model needs no memory."""

import json
import random
from dataclasses import asdict, dataclass
from typing import Any

Json = dict[str, Any]

CHARGE, LOOK, ASK, SEARCH = "charge", "look", "ask", "knowledge_search"
"""The tools: one that must never run twice, one that may, one that runs in the client, and the look into memory."""


@dataclass(frozen=True, kw_only=True)
class Round:
    """A reply with tool calls: which tools, how long each takes, and how long the model is silent before."""

    tools: list[str]
    tool_ms: int
    quiet_ms: int
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A turn: rounds of tool calls, then a text. `key` is unique in a run and stands in every word and call id."""

    key: str
    rounds: list[Round]
    tokens: int
    token_ms: int
    quiet_ms: int

    def message(self) -> str:
        return "plan " + json.dumps(asdict(self))

    @classmethod
    def parse(cls, message: str) -> tuple["Plan", str]:
        """The plan in a message, and what stands there besides: what memory has put in."""
        data, end = json.JSONDecoder().raw_decode(message, len("plan "))
        return cls(**{**data, "rounds": [Round(**one) for one in data["rounds"]]}), message[end:].lstrip("\n")

    def answer(self) -> str:
        """The text that the turn has to end with."""
        return "".join(self.words())

    def words(self) -> list[str]:
        return [f"{self.key}.{number} " for number in range(self.tokens)]

    def preface(self, number: int) -> list[str]:
        """What the model writes before the tool calls of a round."""
        return [f"{self.key}.r{number}.{word} " for word in range(self.rounds[number].tokens)]

    def calls(self, number: int) -> list[Json]:
        """The tool calls of a round, the same ones whenever the model is asked."""
        return [
            {
                "id": f"call_{self.key}_{number}_{place}",
                "name": tool,
                "arguments": self._arguments(tool, number, place),
            }
            for place, tool in enumerate(self.rounds[number].tools)
        ]

    def _arguments(self, tool: str, number: int, place: int) -> Json:
        if tool == SEARCH:
            return {"query": f"the voyage of {self.key}, round {number}"}
        return {"turn": self.key, "round": number, "place": place, "ms": self.rounds[number].tool_ms}


def random_plan(chance: random.Random, key: str, *, quiet_s: float = 0.0, searches: bool = False) -> Plan:
    """A turn of three to six rounds, and a text. `quiet_s`: its provider says nothing for so long, twice. `searches`:
    one of its rounds looks into memory too."""
    rounds = [_round(chance) for _ in range(chance.randint(3, 6))]
    if searches:
        chance.choice(rounds).tools.insert(0, SEARCH)
    silent = int(quiet_s * 1000)
    if silent:
        rounds = [Round(tools=one.tools, tool_ms=one.tool_ms, quiet_ms=silent, tokens=one.tokens) for one in rounds[:1]]
    return Plan(
        key=key,
        rounds=rounds,
        tokens=chance.randint(20, 40),
        token_ms=chance.randint(10, 20),
        quiet_ms=silent or chance.choice((0, 20, 100)),
    )


def _round(chance: random.Random) -> Round:
    tools = chance.choices(([CHARGE], [LOOK], [CHARGE, LOOK], [CHARGE, CHARGE, LOOK], [ASK], [LOOK, ASK]),
                           weights=(6, 3, 4, 2, 1, 1))[0]  # fmt: skip
    # Now and then a provider that says nothing for longer than a lease of three seconds.
    quiet = 3500 if chance.random() < 0.01 else chance.choice((0, 10, 50, 150))
    return Round(tools=tools, tool_ms=chance.choice((0, 20, 100, 300)), quiet_ms=quiet, tokens=chance.randint(0, 5))
