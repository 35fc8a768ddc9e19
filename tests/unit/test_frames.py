"""Frames keep to one line per field, whatever a model writes."""

import orjson
import pytest

from api.streams.frames import data_frame, error_frame, frame

WORDS = "one\u2028two\u2029three\u0085four\nfive\r\n"


@pytest.mark.parametrize(
    ("framed", "inside"),
    [
        (data_frame(orjson.dumps({"text": WORDS})), ("event", "payload", "text")),
        (error_frame(orjson.dumps({"message": WORDS})), ("error", "message")),
        (frame("1-1", "step_progress", orjson.dumps({"text": WORDS})), ("event", "payload", "text")),
    ],
    ids=["data", "error", "event"],
)
def test_unicodes_line_ends_break_no_event(framed: bytes, inside: tuple[str, ...]) -> None:
    lines = framed.decode().splitlines()

    (data,) = [line for line in lines if line.startswith("data: ")]
    found = orjson.loads(data.removeprefix("data: "))
    for name in inside:
        found = found[name]
    assert found == WORDS
    assert all(line.startswith(("id: ", "event: ", "data: ")) for line in lines if line)


def test_other_text_goes_out_as_it_is() -> None:
    payload = orjson.dumps({"text": "Gr\u00fc\u00dfe \u2026 \U0001f642"})

    assert payload in data_frame(payload)
