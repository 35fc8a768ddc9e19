"""What a person reads of a turn, on a terminal and in a file."""

import io
import json
import re
from typing import Any

import pytest

from shared.cli.follow import Frame
from shared.cli.terminal import Terminal
from shared.cli.transcript import JsonLines, Transcript, call_text, plain_text

Json = dict[str, Any]
CALL = {"call_id": "c1", "tool_name": "add", "arguments": {"x": 2, "y": "a b"}}


class Screen(io.StringIO):
    """A stream that may be a terminal."""

    def __init__(self, *, live: bool) -> None:
        super().__init__()
        self._live = live

    def isatty(self) -> bool:
        return self._live

    @property
    def text(self) -> str:
        """What is to be read of it: colours are left out, and lines that were erased."""
        plain = re.sub(r"\x1b\[\d*m", "", self.getvalue())
        return re.sub(r"[^\n]*\r\x1b\[K", "", plain)


class Reader:
    """Somebody at a terminal (one for answer and notes), or a file for the answer and another one for the notes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, live: bool, shows_input: bool = False) -> None:
        self.out = Screen(live=live)
        self.err = self.out if live else Screen(live=False)
        monkeypatch.setattr(Terminal, "width", 80)
        self.terminal = Terminal(out=self.out, err=self.err, plain=False)
        self.transcript = Transcript(self.terminal, shows_input=shows_input)

    def read(self, *events: Json) -> "Reader":
        for seq, payload in enumerate(events, 1):
            self.transcript.show(Frame(f"{seq}-1", payload["event_type"], payload))
        return self


@pytest.fixture
def person(monkeypatch: pytest.MonkeyPatch) -> Reader:
    return Reader(monkeypatch, live=True)


@pytest.fixture
def file(monkeypatch: pytest.MonkeyPatch) -> Reader:
    return Reader(monkeypatch, live=False)


def started(step_type: str = "inference") -> Json:
    return {"event_type": "step_start", "step_type": step_type, "step_id": "s", "metadata": {}}


def token(text: str) -> Json:
    delta = {"type": "text", "text": text}
    return {"event_type": "step_progress", "step_type": "inference", "step_id": "s", "delta": delta}


def replied(text: str, *calls: Json) -> Json:
    response = {"role": "assistant", "content": text, "stop_reason": "end_of_turn", "tool_calls": list(calls)}
    return completed("inference", model_response=response)


def completed(step_type: str, **details: Any) -> Json:
    return {"event_type": "step_complete", "step_type": step_type, "step_id": "s", "step_details": details}


def ended(text: str, stop_reason: str = "end_of_turn") -> Json:
    message = {"role": "assistant", "content": text, "stop_reason": stop_reason}
    return {"event_type": "turn_complete", "turn_id": "t", "turn": {"output_message": message}}


def test_a_person_reads_each_token_once(person: Reader) -> None:
    person.read(started(), token("Hel"), token("lo"), token(" there."), replied("Hello there."), ended("Hello there."))

    assert person.out.text == "Hello there.\n"


def test_a_file_gets_the_answer_and_nothing_else(file: Reader) -> None:
    file.read(
        started(),
        token("I add."),
        replied("I add.", CALL),
        started(),
        token("4"),
        token("2"),
        replied("42"),
        ended("42"),
    )

    assert file.out.text == "42\n"
    assert file.err.text == '  → add(x=2, y="a b")\n'


def test_calls_and_their_answers_have_a_line_each(person: Reader) -> None:
    answer = {"call_id": "c1", "tool_name": "add", "content": "4\n2"}
    person.read(
        started(),
        token("I add."),
        replied("I add.", CALL),
        started("tool_execution"),
        completed("tool_execution", tool_calls=[CALL], tool_responses=[answer]),
        started(),
        token("Done."),
        replied("Done."),
        ended("Done."),
    )

    assert person.out.text == 'I add.\n  → add(x=2, y="a b")\n  ← add: 4 2\nDone.\n'


def test_a_reply_that_came_without_tokens_is_shown_as_a_whole(person: Reader) -> None:
    person.read(started(), replied("Hello."), ended("Hello."))

    assert person.out.text == "Hello.\n"


def test_a_shields_objection_and_its_message_are_shown(person: Reader) -> None:
    violation = {"violation_level": "error", "user_message": "I cannot help with that."}
    person.read(
        started("shield_call"), completed("shield_call", violation=violation), ended("I cannot help with that.")
    )

    assert person.out.text == "  ! a shield objects: I cannot help with that.\nI cannot help with that.\n"


def test_a_shield_that_passes_says_nothing(person: Reader) -> None:
    person.read(started("shield_call"), completed("shield_call", violation=None), started(), replied("Hi"), ended("Hi"))

    assert person.out.text == "Hi\n"


def test_what_a_lost_worker_had_said_is_said_again_and_the_person_told(person: Reader) -> None:
    abandoned = {"event_type": "step_abandoned", "step_type": "inference", "step_id": "s", "reason": "lost"}
    recovered = {"event_type": "turn_recovered", "turn_id": "t", "attempt": 2}
    person.read(started(), token("Hel"), recovered, abandoned, started(), token("Hello."), replied("Hello."))

    assert person.out.text == (
        "Hel\n"
        "  ~ taken over by another worker (attempt 2)\n"
        "  ~ its worker was lost; the step starts again (the text above is void)\n"
        "Hello.\n"
    )


def test_what_a_shield_withdrew_reaches_no_file(file: Reader) -> None:
    retracted = {"event_type": "output_retracted", "step_id": "s", "reason": "unsafe"}
    file.read(started(), token("bad"), replied("bad"), retracted, ended("I cannot say that."))

    assert file.out.text == "I cannot say that.\n"


def test_what_is_awaited_is_named_by_call(person: Reader) -> None:
    person.read({"event_type": "turn_awaiting_input", "turn_id": "t", "tool_calls": [CALL], "turn": {}})

    assert person.out.text == 'The turn waits for its client to answer this tool call:\n  c1: add(x=2, y="a b")\n'


def test_failures_and_cancellations_say_why(person: Reader) -> None:
    person.read(
        {"event_type": "turn_failed", "error": {"code": "provider_error", "message": "It\nfell over."}},
        {"event_type": "turn_canceled", "reason": "Canceled on request."},
    )

    assert person.out.text == (
        "The turn failed (provider_error): It fell over.\nThe turn was canceled: Canceled on request.\n"
    )


def test_after_a_reset_the_turn_is_shown_as_it_is_and_goes_on(person: Reader) -> None:
    turn = {"output_message": {"role": "assistant", "content": "Hel"}}
    person.read(
        started(), token("old"), {"event_type": "reset", "reason": "unknown_cursor", "turn": turn}, ended("Hello")
    )

    assert person.out.text == ("old\n  ~ the events up to here are no longer there; the turn as it is:\nHel\nlo\n")


def test_a_cut_answer_says_so(file: Reader) -> None:
    file.read(started(), replied("Once upon"), ended("Once upon", "out_of_tokens"))

    assert file.out.text == "Once upon\n"
    assert file.err.text == "  ~ cut: the model's limit of tokens is reached\n"


def test_a_tail_begins_with_what_the_user_had_said(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader(monkeypatch, live=True, shows_input=True)
    messages = [{"role": "user", "content": [{"type": "text", "text": "Hi\nthere"}, {"type": "image"}]}]

    reader.read({"event_type": "turn_created", "input_messages": messages}, started(), replied("Hello"), ended("Hello"))

    assert reader.out.text == "> Hi there [image]\nHello\n"


def test_notes_are_cut_to_the_terminal_and_whole_in_a_file(person: Reader) -> None:
    person.read(replied("", {**CALL, "arguments": {"text": "word " * 40}}))

    (line,) = person.out.text.splitlines()
    assert len(line) < 80 and line.endswith("…")


def test_events_of_a_newer_server_are_passed_over(person: Reader) -> None:
    person.read({"event_type": "turn_sighed"}, started("daydream"), completed("daydream"))

    assert person.out.text == ""


def test_the_moving_line_tells_what_is_waited_for_and_leaves_nothing(person: Reader) -> None:
    person.read(started())

    person.terminal.spin(person.transcript.waiting_for, 3.7)
    seen = person.out.getvalue()
    person.read(token("Hi"), replied("Hi"))

    assert "waiting for the model (3 s)" in seen
    assert person.out.text == "Hi\n"


def test_nothing_moves_within_an_answer_or_where_nobody_looks(person: Reader, file: Reader) -> None:
    person.read(started(), token("Hello there, "))
    before = person.out.getvalue()

    person.terminal.spin("waiting", 1)
    file.terminal.spin("waiting", 1)

    assert person.out.getvalue() == before
    assert file.err.getvalue() == ""


def test_json_lines_are_the_items_that_a_poll_has() -> None:
    out = Screen(live=False)
    view = JsonLines(Terminal(out=out, err=Screen(live=False), plain=False))

    view.show(Frame("7-99", "turn_start", {"event_type": "turn_start"}))
    view.show(Frame("", "turn_complete", {"event_type": "turn_complete", "rebuilt": True}))

    assert [json.loads(line) for line in out.getvalue().splitlines()] == [
        {"seq": 7, "id": "7-99", "event": {"payload": {"event_type": "turn_start"}}},
        {"seq": None, "id": None, "event": {"payload": {"event_type": "turn_complete", "rebuilt": True}}},
    ]


def test_calls_are_written_as_one_would_write_them() -> None:
    assert call_text(CALL) == 'add(x=2, y="a b")'
    assert call_text({"tool_name": "add", "arguments": "", "arguments_json": "{broken"}) == "add({broken)"
    assert call_text({"tool_name": "now", "arguments": {}}) == "now()"


def test_content_of_every_shape_has_a_text() -> None:
    assert plain_text(None) == ""
    assert plain_text({"type": "text", "text": "a"}) == "a"
    assert plain_text([{"type": "text", "text": "a"}, "b", {"type": "image"}]) == "a\nb\n[image]"


def test_a_table_fits_the_terminal_and_is_whole_in_a_file(person: Reader, file: Reader) -> None:
    rows = [("a", "long " * 30), ("bbb", "x\ny")]

    for reader in (person, file):
        reader.terminal.table(("ID", "TEXT"), rows)

    assert person.out.text.splitlines()[0] == "ID   TEXT"
    assert [len(line) <= 80 for line in person.out.text.splitlines()] == [True] * 3
    assert file.out.text.splitlines()[1] == f"a    {' '.join(['long'] * 30)}"
    assert file.out.text.splitlines()[2] == "bbb  x y"
