"""What the tools saw, against what the logs say of it."""

from collections import Counter, defaultdict

from chaos.evidence import Accepted, Entry, Evidence, Json
from chaos.findings import CALL, EFFECT, NEVER_TWICE, Findings
from chaos.log_checks import payload_of

NEVER, SAFE, CLIENT, SEARCH = "charge", "look", "ask", "knowledge_search"
UNKNOWN = "Unknown outcome"


def check_effects(evidence: Evidence, findings: Findings) -> None:
    """Every effect belongs to a call that was made, and every call has the effects that its tool allows."""
    turns = {turn.turn_id: turn for turn in evidence.accepted}
    effects: dict[str, list[Json]] = defaultdict(list)
    for effect in evidence.effects:
        effects[effect["key"].partition(":")[0]].append(effect)
    for turn_id in effects.keys() - turns.keys():
        findings.add(EFFECT, turn_id, f"effects of a turn that nobody submitted: {effects[turn_id][0]}")
    for turn_id, turn in turns.items():
        _check_turn(turn, evidence.logs.get(turn_id, []), effects[turn_id], findings)
    findings.counts["effects"] += len(evidence.effects)


def _check_turn(turn: Accepted, log: list[Entry], effects: list[Json], findings: Findings) -> None:
    by_key = Counter(effect["key"] for effect in effects)
    by_call = Counter(effect["key"].split(":")[2] for effect in effects)
    tools = {effect["key"]: effect["tool"] for effect in effects}
    for key, times in by_key.items():
        if tools[key] == NEVER and times > 1:
            findings.add(NEVER_TWICE, turn.turn_id, f"{key} ran {times} times", times=times - 1)
    for call_id, keys in _keys_by_call(by_key).items():
        if len(keys) > 1 and tools[keys[0]] == NEVER:
            findings.add(NEVER_TWICE, turn.turn_id, f"{call_id} ran in several steps: {keys}", times=len(keys) - 1)
    _check_steps_exist(turn, log, by_key, findings)
    for step, responses, was_taken_over in _tool_steps(log):
        for tool, response in responses:
            _check_response(turn, step, tool, response, by_call[response["call_id"]], was_taken_over, findings)


def _check_steps_exist(turn: Accepted, log: list[Entry], keys: Counter[str], findings: Findings) -> None:
    started = {payload_of(entry)["step_id"] for entry in log if entry.type == "step_start"}
    planned = {call_id for calls in turn.calls for call_id in calls}
    for key in keys:
        _, step_id, call_id = key.split(":")
        if step_id not in started or call_id not in planned:
            findings.add(EFFECT, turn.turn_id, f"{key} ran, and its step or call is not in the log")


def _check_response(
    turn: Accepted, step: str, tool: str, response: Json, effects: int, was_taken_over: bool, findings: Findings
) -> None:
    where = f"{step}: {tool} {response['call_id']}"
    if tool == CLIENT:
        said = [one["responses"].get(response["call_id"]) for one in turn.resumes]
        if response["content"] not in said:
            findings.add(CALL, turn.turn_id, f"{where} is answered {response['content']!r}; the client said {said}")
        return
    if (response.get("metadata") or {}).get("error"):
        if tool == NEVER and response["content"].startswith(UNKNOWN) and was_taken_over:
            findings.counts["unknown outcomes"] += 1
        else:
            findings.add(CALL, turn.turn_id, f"{where} failed, and no fault explains it: {response['content']!r}")
    elif effects == 0 and tool != SEARCH:
        findings.add(EFFECT, turn.turn_id, f"{where} has a response and never ran")


def _tool_steps(log: list[Entry]) -> list[tuple[str, list[tuple[str, Json]], bool]]:
    """The finished tool steps: id, (tool, response) of each call, and whether it changed hands while it was open."""
    steps, taken_over = [], False
    for entry in log:
        if entry.type == "step_start":
            taken_over = False
        elif entry.type == "turn_recovered":
            taken_over = True
        elif entry.type == "step_complete":
            payload = payload_of(entry)
            if payload["step_type"] == "tool_execution":
                responses = [(one["tool_name"], one) for one in payload["step_details"]["tool_responses"]]
                steps.append((payload["step_id"], responses, taken_over))
    return steps


def _keys_by_call(keys: Counter[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for key in keys:
        found[key.split(":")[2]].append(key)
    return found
