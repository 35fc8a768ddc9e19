"""What earlier releases have written is read as they read it themselves."""

import json
from typing import Any

import orjson
import pytest
from oldlogs import LOGS, entries_of, private_of, recorded_turns

from shared.events import SCHEMA_VERSION, decode
from shared.fold import fold
from worker.decide import (
    Abandon,
    Action,
    AwaitClient,
    CompleteTools,
    Infer,
    RunTools,
    ShowReply,
    next_action,
)

Json = dict[str, Any]

TURNS = dict(recorded_turns())
UNFINISHED = {name: turn for name, turn in TURNS.items() if turn["unfinished"]}
SERVER_TOOLS = {"read", "book"}
NEXT: dict[str, type[Action]] = {
    "waiting for the client": AwaitClient,
    "waiting for the client, one call made here": AwaitClient,
    "a step that is open": Abandon,
    "a call that may not be repeated, without an outcome": RunTools,
    "a call that may be repeated, without an outcome": RunTools,
    "a reply that no shield has seen": ShowReply,
    "resumed, and not taken up": CompleteTools,
    "not taken up": Infer,
}


def test_there_is_a_record_of_a_release() -> None:
    assert [file.stem for file in LOGS.glob("*.json")]
    assert len(TURNS) >= 20


@pytest.mark.parametrize("name", TURNS)
def test_a_turn_of_an_earlier_release_folds_to_what_that_release_made_of_it(name: str) -> None:
    recorded = TURNS[name]

    turn = json.loads(orjson.dumps(fold(entries_of(recorded), private_of(recorded)).as_turn()))

    # This release may know more of a turn, and takes nothing away.
    assert {key: turn.get(key) for key in recorded["fold"]} == recorded["fold"]


@pytest.mark.parametrize("name", TURNS)
def test_every_entry_of_an_earlier_release_is_an_event_with_the_same_payload(name: str) -> None:
    entries = entries_of(TURNS[name])

    for entry in entries:
        written = json.loads(entry.payload)
        assert {key: json.loads(decode(entry).encode())[key] for key in written} == written
    assert all(entry.version <= SCHEMA_VERSION for entry in entries)


@pytest.mark.parametrize("name", UNFINISHED)
def test_what_comes_next_in_an_unfinished_turn_is_what_it_would_have_been(name: str) -> None:
    recorded = UNFINISHED[name]
    state = fold(entries_of(recorded), private_of(recorded))

    action = next_action(state, SERVER_TOOLS)

    assert isinstance(action, NEXT[recorded["name"]])
    if isinstance(action, RunTools):
        assert action.step.intents == {call["call_id"] for call in action.calls}
    if recorded["name"] == "waiting for the client, one call made here":
        assert isinstance(action, AwaitClient)
        assert [call["tool_name"] for call in action.calls] == ["look"]
