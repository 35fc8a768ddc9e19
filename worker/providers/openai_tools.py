"""Describes tools to a model as functions with a JSON schema."""

import re
from collections.abc import Sequence
from typing import Any

from worker.providers.inference import Json

# The names that Python annotations and JSON schemas give to types.
_TYPES = {
    "str": "string",
    "string": "string",
    "int": "integer",
    "integer": "integer",
    "float": "number",
    "number": "number",
    "bool": "boolean",
    "boolean": "boolean",
    "list": "array",
    "tuple": "array",
    "set": "array",
    "array": "array",
    "dict": "object",
    "object": "object",
    "mapping": "object",
}
_GENERIC = re.compile(r"(?:typing\.)?([A-Za-z]+)(?:\[(.*)\])?")
_PARAMETER_KEYS = ("name", "parameter_type", "description", "required", "default")


def tool_json(tool: Json) -> Json:
    """A tool (`{name, description?, parameters? | input_schema?}`) as an OpenAI function."""
    schema = tool.get("input_schema") or _object_schema(tool.get("parameters") or ())
    function = {"name": tool["name"], "description": tool.get("description") or "", "parameters": schema}
    return {"type": "function", "function": function}


def _object_schema(parameters: Sequence[Json]) -> Json:
    return {
        "type": "object",
        "properties": {parameter["name"]: parameter_schema(parameter) for parameter in parameters},
        "required": [parameter["name"] for parameter in parameters if parameter.get("required", True)],
    }


def parameter_schema(parameter: Json) -> Json:
    """The JSON schema of one parameter; further keys (`enum`, `items`, …) are taken as they are."""
    schema = type_schema(str(parameter.get("parameter_type") or ""))
    schema.update({key: value for key, value in parameter.items() if key not in _PARAMETER_KEYS and value is not None})
    if parameter.get("description"):
        schema["description"] = parameter["description"]
    if parameter.get("default") is not None:
        schema["default"] = parameter["default"]
    return schema


def type_schema(name: str) -> Json:
    """The schema of a type's name: `str`, `list[int]`, `Optional[str]`, `int | None`, `array`.

    A name that says nothing gives a schema that allows everything.
    """
    options = [part.strip() for part in name.split("|") if part.strip() not in ("", "None", "null")]
    found = _GENERIC.fullmatch(options[0]) if len(options) == 1 else None
    if found is None:
        return {}
    base, inner = found[1].lower(), found[2]
    if base == "optional" and inner:
        return type_schema(inner)
    kind = _TYPES.get(base)
    if kind == "array":
        # OpenAI refuses an array without `items`.
        return {"type": "array", "items": type_schema((inner or "").split(",")[0])}
    return {} if kind is None else {"type": kind}


def tool_choice_json(choice: str) -> Any:
    """`tool_choice`, or None for auto, which is the default and which some servers know as nothing else."""
    if choice in ("", "auto"):
        return None
    if choice in ("required", "none"):
        return choice
    return {"type": "function", "function": {"name": choice}}
