"""What is said to happen next with a turn, for every state that it can be in."""

from typing import Any

import pytest

from shared.status import TurnStatus
from shared.types.operating import Next as NextType
from shared.why import Facts, Owner, Queue, duration, what_next

CODES = set(NextType.model_fields["code"].annotation.__args__)  # type: ignore[union-attr]
AT_WORK = Owner(worker="host:1", alive=True, lease_s=15, renewed_s=3, left_s=12)
SILENT = Owner(worker="host:1", alive=False, lease_s=15, renewed_s=9, left_s=6)
LOST = Owner(worker="host:1", alive=False, lease_s=15, renewed_s=19, left_s=-4)


def facts(status: TurnStatus = TurnStatus.QUEUED, **more: Any) -> Facts:
    return Facts(**{"turn_id": "turn_00_a", "status": status, "age_s": 20, "workers": 2, **more})


def running(owner: Owner = AT_WORK, **more: Any) -> Facts:
    return facts(TurnStatus.IN_PROGRESS, owner=owner, attempts=1, **more)


SAID = {
    "completed": (facts(TurnStatus.COMPLETED), "ended", "It completed."),
    "failed": (
        facts(TurnStatus.FAILED, ending="provider_timeout. It was slow."),
        "ended",
        "It failed: provider_timeout. It was slow. To run it again, requeue it.",
    ),
    "canceled": (
        facts(TurnStatus.CANCELED, ending="Canceled on request."),
        "ended",
        "It was canceled: Canceled on request. To run it again, requeue it.",
    ),
    "ended long ago": (facts(TurnStatus.CANCELED), "ended", "It was canceled. To run it again, requeue it."),
    "running": (running(), "running", "Its worker host:1 is at work on it. To stop it, cancel it."),
    "written by a newer release, and running": (running(newer=True), "running", "host:1 is at work"),
    "canceled while it runs": (running(cancel=True), "canceling", "host:1 was told to cancel it"),
    "past its deadline while it runs": (running(end_s=-1.0), "limit_reached", "a worker ends it within seconds"),
    "within its deadline": (running(end_s=1.0, start_s=-5.0), "running", "at work"),
    "of a silent worker": (
        running(SILENT),
        "owner_silent",
        "Its worker host:1 has not renewed its lease for 9 s. Another takes over in 6 s.",
    ),
    "of a silent worker and canceled": (
        running(SILENT, cancel=True),
        "owner_silent",
        "Another ends it as canceled in 6",
    ),
    "of a silent worker, with no other": (
        running(SILENT, workers=0),
        "owner_silent",
        "for 9 s. No other worker is alive: start one (turnstone worker).",
    ),
    "of a silent worker that is the only one alive": (
        running(Owner(worker="host:1", alive=True, lease_s=15, renewed_s=9, left_s=6), workers=1),
        "owner_silent",
        "No other worker is alive",
    ),
    "of a lost worker": (
        running(LOST),
        "owner_lost",
        "Its worker host:1 is lost: its lease ended 4 s ago. Another takes over within seconds.",
    ),
    "of a lost worker, with no other": (running(LOST, workers=0), "owner_lost", "start one (turnstone worker)."),
    "of a lost worker of a newer release": (running(LOST, newer=True), "newer_release", "upgrade the workers"),
    "waits and was written by a newer release": (facts(newer=True, hint_s=1.0), "newer_release", "upgrade"),
    "waits for one call": (
        facts(TurnStatus.AWAITING_INPUT, pending=("c1",), input_s=7199.0, attempts=1),
        "awaiting_input",
        "answer 1 tool call (POST …/resume). It fails in 119 min without. To give it up, cancel it.",
    ),
    "waits for two calls": (
        facts(TurnStatus.AWAITING_INPUT, pending=("c1", "c2"), attempts=1),
        "awaiting_input",
        "answer 2 tool calls (POST …/resume). To give it up",
    ),
    "behind another": (
        facts(queue=Queue(position=2, length=3, before="turn_00_y", head="turn_00_x")),
        "behind",
        "Turn turn_00_x of its session runs first; cancel that one to go on.",
    ),
    "not taken up in time": (facts(start_s=-0.5, hint_s=1.0), "limit_reached", "Its time is up"),
    "not taken up in time, with no worker": (
        facts(start_s=-0.5, hint_s=1.0, workers=0),
        "limit_reached",
        "Its time is up; no worker is alive to end it: start one (turnstone worker).",
    ),
    "next, with a hint to come": (
        facts(queue=Queue(), hint_s=4.2),
        "waits_for_worker",
        "It waits for a worker; the next hint is due in 4 s.",
    ),
    "next, with a hint that is due": (facts(hint_s=-0.1), "waits_for_worker", "the next hint is due now."),
    "next, with no worker": (
        facts(hint_s=4.0, workers=0),
        "waits_for_worker",
        "It waits for a worker, and none is alive: start one (turnstone worker).",
    ),
    "a job, with no worker": (
        facts(hint_s=4.0, workers=0, is_job=True),
        "waits_for_worker",
        "none is alive: start one (turnstone worker --queue memory).",
    ),
    "a job of a lost worker, with no other": (
        running(LOST, workers=0, is_job=True),
        "owner_lost",
        "start one (turnstone worker --queue memory).",
    ),
    "a job whose bank is gone": (
        facts(hint_s=4.0, is_job=True, gone_bank="b"),
        "bank_gone",
        "Its bank 'b' is gone, so it fails when a worker takes it up: register the bank again.",
    ),
    "a job whose bank is gone, with no worker": (
        facts(hint_s=4.0, workers=0, is_job=True, gone_bank="b"),
        "bank_gone",
        "register the bank again. No worker is alive: start one (turnstone worker --queue memory).",
    ),
    "a running job whose bank is gone": (running(is_job=True, gone_bank="b"), "running", "is at work on it"),
    "due nowhere": (facts(queue=Queue()), "unscheduled", "Fail it, then requeue it."),
}


@pytest.mark.parametrize("name", SAID)
def test_a_turn_is_told_what_comes_next(name: str) -> None:
    given, code, words = SAID[name]

    found = what_next(given)

    assert found.code == code
    assert words in found.message


def test_every_code_of_the_document_is_one_that_is_given_and_the_reverse() -> None:
    assert {what_next(given).code for given, _, _ in SAID.values()} == CODES


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (0.4, "0 s"), (9.2, "9 s"), (119, "119 s"), (120, "2 min"), (7199, "119 min"), (90_000, "25 h")],
)
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text
