"""Validates plain data against a pydantic model, with errors that an operator can act on."""

from collections.abc import Mapping
from difflib import get_close_matches
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from shared.errors import ConfigError
from shared.runconfig.origin import KeyPath, Origin, at_path

M = TypeVar("M", bound=BaseModel)

# What pydantic says about a wrong value never reaches the user as it is: some of its messages quote the
# value, and the value may be a credential.
_WORDS = {
    "missing": "this key is missing; add it.",
    "string_type": "has to be text; write it in quotes.",
    "string_too_short": "must not be empty.",
    "string_pattern_mismatch": "use letters, digits and . _ : - only, beginning with a letter or digit.",
    "int_type": "has to be a whole number.",
    "int_parsing": "has to be a whole number.",
    "int_from_float": "has to be a whole number.",
    "float_type": "has to be a number.",
    "float_parsing": "has to be a number.",
    "finite_number": "has to be a finite number.",
    "bool_type": "has to be true or false.",
    "bool_parsing": "has to be true or false.",
    "dict_type": "has to be a mapping (key: value).",
    "model_type": "has to be a mapping (key: value).",
    "model_attributes_type": "has to be a mapping (key: value).",
    "list_type": "has to be a list.",
    "tuple_type": "has to be a list.",
}
_BOUNDS = {"greater_than": "gt", "greater_than_equal": "ge", "less_than": "lt", "less_than_equal": "le"}


def check(model: type[M], data: Any, *, origin: Origin, at: KeyPath = ()) -> M:
    """`data`, which stands at the key `at` of the config, as a `model`.

    Raises one ConfigError for all that is wrong: a line each with file, line, dotted key, problem and fix.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
    lines = [origin.error((*at, *_place(item, data)), _problem(item, model, data)).message for item in problems]
    raise ConfigError("\n".join(dict.fromkeys(lines)))


def _place(item: ErrorDetails, data: Any) -> KeyPath:
    """The error's key path without the names of union branches that pydantic adds at its end."""
    loc = item["loc"]
    if item["type"] == "missing":
        return loc
    while loc:
        try:
            at_path(data, loc)
        except KeyError:
            loc = loc[:-1]
        else:
            break
    return loc


def _problem(item: ErrorDetails, model: type[BaseModel], data: Any) -> str:
    kind, context = item["type"], item.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_key(str(item["loc"][-1]), _known_keys(model, item["loc"][:-1]))
    if kind == "value_error":
        return str(context["error"])
    if kind in ("literal_error", "enum"):
        return f"has to be {context['expected']}."
    if kind in _BOUNDS:
        return f"has to be {kind.replace('_', ' ')} {context[_BOUNDS[kind]]}.".replace("than equal", "than or equal to")
    return _WORDS.get(kind, "this value is not valid here.")


def _unknown_key(key: str, known: list[str]) -> str:
    near = get_close_matches(key, known, n=1)
    if near:
        return f"unknown key; did you mean {near[0]}?"
    return f"unknown key; known here: {', '.join(known)}."


def _known_keys(model: type[BaseModel], loc: KeyPath) -> list[str]:
    for part in loc:
        if isinstance(part, str) and part in model.model_fields:
            model = _inner_model(model.model_fields[part].annotation) or model
    return list(model.model_fields)


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    """The model in `X`, `X | None`, `tuple[X, ...]` and the like."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (tuple, list, dict, Union, UnionType) or isinstance(annotation, Mapping):
        return next(filter(None, map(_inner_model, get_args(annotation))), None)
    return None
