"""Events are written as clients get them, and read back as they were."""

from dataclasses import FrozenInstanceError, fields

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import events as ev
from shared.errors import SchemaTooNew
from shared.events import SCHEMA_VERSION, TERMINAL_EVENTS, Entry, Event, decode

TYPES = [kind for kind in vars(ev).values() if isinstance(kind, type) and issubclass(kind, Event) and kind is not Event]

NAMES = [
    "turn_created", "turn_start", "turn_recovered", "step_start", "step_progress", "step_complete", "step_abandoned",
    "output_retracted", "turn_awaiting_input", "turn_resumed", "turn_complete", "turn_failed", "turn_canceled",
]  # fmt: skip

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
OBJECT = st.dictionaries(TEXT, JSON, max_size=3)
VALUES = {"str": TEXT, "int": st.integers(1, 2**53), "Json": OBJECT, "list[Json]": st.lists(OBJECT, max_size=3)}


def any_of(kind: type[Event]) -> st.SearchStrategy[Event]:
    """Events of a type with anything that its fields may hold."""
    values = {field.name: VALUES[_name(field.type)] for field in fields(kind)}
    return st.builds(kind, **values)


def _name(annotation: object) -> str:
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    if text in VALUES:
        return text
    if annotation == ev.Json:
        return "Json"
    assert annotation == list[ev.Json], annotation
    return "list[Json]"


def entry(event: Event, *, version: int = SCHEMA_VERSION) -> Entry:
    return Entry(1, 2, event.event_type, version, event.encode())


def test_there_are_exactly_the_types_of_the_design() -> None:
    assert [kind.event_type for kind in TYPES] == NAMES
    assert TERMINAL_EVENTS == {"turn_complete", "turn_failed", "turn_canceled"}


@pytest.mark.parametrize("kind", TYPES, ids=NAMES)
@given(data=st.data())
def test_an_event_is_read_back_as_it_was_written(kind: type[Event], data: st.DataObject) -> None:
    event = data.draw(any_of(kind))

    assert decode(entry(event)) == event


@pytest.mark.parametrize("kind", TYPES, ids=NAMES)
@given(data=st.data())
def test_a_payload_is_one_line_of_json_with_the_type_first(kind: type[Event], data: st.DataObject) -> None:
    payload = data.draw(any_of(kind)).encode()

    assert payload.startswith(b'{"event_type":"%s"' % kind.event_type.encode())
    assert b"\n" not in payload
    assert b"\r" not in payload
    assert list(orjson.loads(payload)) == ["event_type", *(field.name for field in fields(kind))]


def test_an_event_of_a_newer_release_is_refused_with_the_remedy() -> None:
    event = ev.TurnStart(turn_id="t", attempt=1, started_at="now")

    with pytest.raises(SchemaTooNew) as refusal:
        decode(entry(event, version=SCHEMA_VERSION + 1))

    assert "1-2" in refusal.value.message
    assert "Upgrade" in refusal.value.message


def test_events_do_not_change() -> None:
    event = ev.TurnStart(turn_id="t", attempt=1, started_at="now")

    with pytest.raises(FrozenInstanceError):
        event.attempt = 2  # type: ignore[misc]


def test_an_entrys_public_id_is_its_seq_and_epoch() -> None:
    assert Entry(7, 1_700_000_000_000_001, "turn_start", 1, b"{}").id == "7-1700000000000001"
