"""docs/providers.md says of each provider type what it was run against, and of each key of its config what it is."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from worker.providers.instances import INFERENCE_TYPES, MEMORY_TYPES, safety_types, tool_types

PAGE = (Path(__file__).parents[2] / "docs" / "providers.md").read_text()
SECTIONS = {part.partition("\n")[0]: part for part in PAGE.split("\n## ")}
RUN_AGAINST = SECTIONS["What was run against what"]
TYPES: list[tuple[str, str, type[BaseModel]]] = [
    (section, name, kind.config)
    for section, types in {
        "Inference": INFERENCE_TYPES,
        "Safety": safety_types(chat=lambda request: iter(()), serves=lambda model: True),
        "Memory": MEMORY_TYPES,
        "Tools": tool_types(),
    }.items()
    for name, kind in types.items()  # type: ignore[attr-defined]
]
KEYS = [
    pytest.param(section, name, field.alias or key, field.default, id=f"{name} {key}")
    for section, name, config in TYPES
    for key, field in config.model_fields.items()
]


def row(section: str, name: str) -> str:
    """The row of a type in the tables of a section."""
    rows = [line for line in SECTIONS[section].splitlines() if line.startswith(f"| `{name}` |")]
    assert len(rows) == 1, f"{section} has {len(rows)} rows for {name}"
    return rows[0]


def shared(section: str, name: str) -> str:
    """What a section says of its types together: none of the rows of the others. Safety refers to Inference."""
    sections = [SECTIONS[one] for one in ({"Inference", section} if section == "Safety" else {section})]
    lines = [line for one in sections for line in one.splitlines()]
    return "\n".join(line for line in lines if not re.match(r"\| `(inline|remote)::", line))


def nested(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a value of this type is made of, at any depth."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        for field in annotation.model_fields.values():
            yield from nested(field.annotation)
    for argument in get_args(annotation):
        yield from nested(argument)


def written(default: Any) -> str:
    """A default as the page writes it."""
    if isinstance(default, bool):
        return str(default).lower()
    return (
        f"{default:,}"
        if isinstance(default, int) and default >= 10_000
        else f"{default:g}"
        if isinstance(default, float)
        else str(default)
    )


@pytest.mark.parametrize(("section", "name"), [entry[:2] for entry in TYPES])
def test_each_type_has_its_row_in_both_tables(section: str, name: str) -> None:
    assert len(row("What was run against what", name).split("|")[2].strip()) > 10
    assert row(section, name)


@pytest.mark.parametrize(("section", "name", "key", "default"), KEYS)
def test_each_key_of_a_config_is_told_with_its_default(section: str, name: str, key: str, default: Any) -> None:
    own, common = row(section, name), shared(section, name)
    assert re.search(rf"`{key}\b", own + common), f"nothing says what `{key}` of {name} is"
    if isinstance(default, bool | int | float | str):
        told = (
            rf"`{re.escape(written(default))}`" if key == "url" else rf"`{key}`[ |(]+`?{re.escape(written(default))}\b"
        )
        assert re.search(told, own + common), f"the page has another default of `{key}` than {name}: {default}"


@pytest.mark.parametrize(("section", "name", "config"), TYPES, ids=[entry[1] for entry in TYPES])
def test_the_keys_of_what_stands_in_lists_are_told_in_the_types_row(
    section: str, name: str, config: type[BaseModel]
) -> None:
    models = [model for field in config.model_fields.values() for model in nested(field.annotation)]
    missing = {
        key for model in models for key in model.model_fields if not re.search(rf"\b{key}\b", row(section, name))
    }
    assert missing == set()


def test_no_row_is_of_a_type_that_is_not_there() -> None:
    named = set(re.findall(r"^\| `([a-z]+::[^`]+)` \|", PAGE, re.MULTILINE))
    assert named == {name for _, name, _ in TYPES}
