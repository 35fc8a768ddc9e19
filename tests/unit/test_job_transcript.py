"""What a person reads of an insert job."""

import io
from typing import Any

import pytest

from shared.cli.follow import Frame
from shared.cli.job_transcript import JobTranscript
from shared.cli.terminal import Terminal

Json = dict[str, Any]
STEP = {"step_type": "memory_insert", "documents": 3, "done": 3, "chunks": 7, "failed": 1}


class Reader:
    """Somebody who has the answer and the notes in files of their own."""

    def __init__(self) -> None:
        self.out, self.err = io.StringIO(), io.StringIO()
        self.view = JobTranscript(Terminal(out=self.out, err=self.err, plain=True))

    def show(self, event_type: str, **payload: Any) -> None:
        self.view.show(Frame("1-1", event_type, {"event_type": event_type, **payload}))

    def begin(self) -> None:
        self.show("turn_created", input_messages=[])
        self.show("turn_start", attempt=1)
        self.show("step_start", step_type="memory_insert", metadata={"memory_bank_id": "handbook", "documents": 3})

    def progress(self, done: int, chunks: int, *failures: Json) -> None:
        self.show("step_progress", delta={"type": "progress", "done": done, "chunks": chunks, "failures": failures})


@pytest.fixture
def reader() -> Reader:
    return Reader()


def test_a_job_is_told_batch_by_batch_and_its_sum_is_the_answer(reader: Reader) -> None:
    reader.begin()
    reader.progress(2, 5, {"document_id": "pdf", "code": "malformed_document", "message": "It is\nbroken."})
    waited_for = reader.view.waiting_for
    reader.progress(3, 7)
    reader.show("turn_complete", turn={"steps": [STEP]})

    assert waited_for == "2 of 3 documents"
    assert reader.err.getvalue().splitlines() == [
        "3 documents for the bank handbook",
        "  ! pdf (malformed_document): It is broken.",
        "  2 of 3 documents, 5 chunks",
        "  3 of 3 documents, 7 chunks",
    ]
    assert reader.out.getvalue() == "3 of 3 documents, 7 chunks, 1 could not be read\n"


@pytest.mark.parametrize(
    ("event_type", "payload", "said"),
    [
        ("turn_failed", {"error": {"code": "full", "message": "None left."}}, "The job failed (full): None left."),
        ("turn_canceled", {"reason": "Canceled on request."}, "The job was canceled: Canceled on request."),
    ],
)  # fmt: skip
def test_an_end_before_the_end_says_why_and_how_far_it_came(
    reader: Reader, event_type: str, payload: Json, said: str
) -> None:
    reader.begin()
    reader.show(event_type, **payload, turn={"steps": [{**STEP, "done": 1, "chunks": 2, "failed": 0}]})

    assert said in reader.err.getvalue()
    assert reader.out.getvalue() == "1 of 3 documents, 2 chunks\n"


def test_a_job_that_no_worker_ever_took_up_has_nothing_to_sum_up(reader: Reader) -> None:
    reader.show("turn_canceled", reason="Canceled on request.", turn={"steps": []})

    assert "was canceled" in reader.err.getvalue()
    assert reader.out.getvalue() == "no document was looked at\n"


def test_a_story_that_is_told_anew_goes_on_from_the_job_as_it_is(reader: Reader) -> None:
    reader.show("reset", reason="events_lost", turn={"steps": [{**STEP, "done": 2}]})
    reader.progress(3, 8)

    assert "no longer there" in reader.err.getvalue()
    assert reader.err.getvalue().endswith("  2 of 3 documents, 7 chunks\n  3 of 3 documents, 8 chunks\n")
