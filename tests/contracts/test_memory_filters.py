"""Filters of a search: any key and any value, on every memory provider as in plain Python."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from postgreskit import own_schema
from test_memory_providers import EXAMPLE, built, document, put

from worker.providers.memory import Bank, BankKind, MemoryProvider, Search

Json = dict[str, Any]

ODD_KEYS = ('say "x"', '"', "a.b", "a[0]", "[0]", "#-1", "$", "", " ", "\\", "'", "é\U0001f600", "a\nb", "%", "?", "0")
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)
"""What bodies of requests may hold: JSON's texts but for NUL."""
KEYS = st.sampled_from(ODD_KEYS) | TEXTS
WHOLE = st.integers(-(2**63), 2**64 - 1) | st.sampled_from([0, 1, 2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1])
REAL = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(
    [0.0, -0.0, 1.0, 1.5, 2.0**53, 2.0**63, 1e300]
)
VALUES = st.none() | st.booleans() | WHOLE | REAL | TEXTS | st.sampled_from(["1", "true", "null", "", "1.0"])
NESTED = st.lists(VALUES, max_size=2) | st.dictionaries(KEYS, VALUES, max_size=2)


@pytest.fixture(scope="module", params=["sqlite", "pgvector", "example"])
def provider(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MemoryProvider]:
    folder: Path = tmp_path_factory.mktemp("filters")
    with ExitStack() as stack:
        if request.param == "sqlite":
            provider = built("inline::sqlite", {"path": str(folder / "memory.sqlite3")})
        elif request.param == "example":
            stack.enter_context(pytest.MonkeyPatch.context()).syspath_prepend(EXAMPLE)
            provider = built("my_company.notes:NotesMemory", {"path": str(folder / "notes")})
        else:
            url = request.getfixturevalue("postgres_url")
            schema = stack.enter_context(own_schema(url))
            provider = built("remote::pgvector", {"url": url, "schema": schema})
        stack.callback(provider.close)
        yield provider


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[Json], Json]:
    """Metadata of some documents, and filters that are mostly about the same keys and values."""
    keys, values = draw(st.lists(KEYS, min_size=1, max_size=3)), draw(st.lists(VALUES, min_size=1, max_size=4))
    key, value = st.sampled_from(keys), st.sampled_from(values)
    metadata = draw(st.lists(st.dictionaries(key, value | NESTED, max_size=3), min_size=1, max_size=4))
    wanted = value | st.lists(value, max_size=3) | VALUES
    return metadata, draw(st.dictionaries(key | KEYS, wanted, max_size=2))


def holds(metadata: Json, filters: Json) -> bool:
    """The reference: each key is there, with the value or with one of the list's."""
    return all(
        name in metadata
        and any(same(metadata[name], option) for option in (wanted if isinstance(wanted, list) else [wanted]))
        for name, wanted in filters.items()
    )


def same(one: Any, other: Any) -> bool:
    """Numbers by their value, all else by type and value."""
    if is_number(one) and is_number(other):
        return bool(number(one) == number(other))
    return type(one) is type(other) and not isinstance(one, list | dict) and one == other


def as_read(value: Any) -> Any:
    """Metadata as a client reads them: JSON has one kind of number, and a store may give 1e16 back as a whole one."""
    if isinstance(value, dict):
        return {name: as_read(one) for name, one in value.items()}
    if isinstance(value, list):
        return [as_read(one) for one in value]
    return float(value) if is_number(value) else value


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def number(value: float) -> float:
    """Whole numbers that do not fit into 64 bits with a sign are as exact as floats."""
    return value if -(2**63) <= value < 2**63 else float(value)


@pytest.mark.parametrize("kind", [BankKind.KEYWORD, BankKind.KEYVALUE])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases())
@example(case=([{'say "x"': 1}, {"a": 1}], {'say "x"': 1}))
@example(case=([{"a.b": 1}, {"a": {"b": 1}}], {"a.b": 1}))
@example(case=([{"": "x"}, {}], {"": "x"}))
@example(case=([{"a": 1}, {"a": 1.0}, {"a": True}, {"a": "1"}, {"a": None}], {"a": 1}))
@example(case=([{"a": 1}, {"a": True}, {"a": "true"}], {"a": True}))
@example(case=([{"a": None}, {}, {"a": "null"}, {"a": 0}], {"a": None}))
@example(case=([{"a": 2**53}, {"a": 2**53 + 1}], {"a": 2.0**53}))
@example(case=([{"a": 2**64 - 1}], {"a": [2**64 - 1, "x"]}))
@example(case=([{"a": ["x"]}, {"a": "x"}], {"a": ["x", None]}))
def test_filters_find_what_plain_python_finds(
    provider: MemoryProvider, kind: BankKind, case: tuple[list[Json], Json]
) -> None:
    metadata, filters = case
    name = uuid4().hex
    bank = provider.register_memory_bank(Bank(identifier=name, resource_id=name, kind=kind))
    put(provider, bank, [document(f"d{at}", "words", metadata=one) for at, one in enumerate(metadata)])
    keys = [f"d{at}" for at in range(len(metadata))]

    found = provider.search(bank, Search(text="words", keys=keys, limit=100, filters=filters))
    provider.unregister_memory_bank(name)

    expected = {f"d{at}" for at, one in enumerate(metadata) if holds(one, filters)}
    assert {one.document_id for one in found} == expected
    assert all(as_read(one.chunk.metadata) == as_read(metadata[int(one.document_id[1:])]) for one in found)
