"""JSON Schemas of tools' arguments: made from parameter lists, and held against what a model wrote.

By jsonschema-rs and not jsonschema: a tool's schema may come from somebody else's MCP server and its arguments from
a model, and Python's `re` can be made to hang a worker by a `pattern`, a remote `$ref` to open connections. The Rust
library bounds backtracking, has a switch against retrieval, and takes microseconds where a greenlet blocks all others.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache

import jsonschema_rs
import orjson

from worker.providers.openai_tools import parameter_schema
from worker.providers.tools import Json, Tool

MAX_PROBLEMS = 5
MAX_PROBLEM_CHARS = 300
MAX_NAMED = 30

_Kinds = jsonschema_rs.ValidationErrorKind
# A pattern that could not be decided in time accuses nobody.
_UNDECIDED = (_Kinds.BacktrackLimitExceeded, _Kinds.RegexEngineFailure)


def object_schema(parameters: Json | Sequence[Json]) -> Json:
    """The JSON Schema of a tool's arguments from what stands in a config: such a schema, or a list of parameters.

    A parameter is Llama Stack's `{name, parameter_type, description, required, default}`. Raises ValueError that
    says what is wrong.
    """
    if isinstance(parameters, dict):
        schema = {"type": "object", "properties": {}, **parameters}
        if schema["type"] != "object":
            raise ValueError("has to be a JSON Schema with `type: object`, or a list of parameters.")
    else:
        schema = _from_list(parameters)
    try:
        _compiled(_serialised(schema))
    except ValueError as error:
        raise ValueError(f"is no JSON Schema: {_first_line(error)}") from None
    return schema


def without_fixed(schema: Json, names: Iterable[str]) -> Json:
    """`schema` without the arguments `names`, which the model need not give."""
    fixed = set(names)
    if not fixed:
        return schema
    properties = {name: part for name, part in (schema.get("properties") or {}).items() if name not in fixed}
    required = [name for name in schema.get("required") or [] if name not in fixed]
    return {**schema, "properties": properties, "required": required}


def invalid_arguments(tool: Tool, arguments: Json) -> str | None:
    """What is wrong with `arguments`, in words from which a model can mend its call; None where they are valid.

    A schema that cannot be used (broken, or with a `$ref` that leads elsewhere) forbids nothing: the tool's own
    server decides then.
    """
    try:
        validator = _compiled(_serialised(tool.input_schema))
    except (ValueError, TypeError):
        return None
    try:
        problems = sorted(_problem(error) for error in validator.iter_errors(arguments) if not _undecided(error))
    except ValueError as error:
        problems = [_first_line(error)]
    if not problems:
        return None
    more = f"; and {len(problems) - MAX_PROBLEMS} more" if len(problems) > MAX_PROBLEMS else ""
    found = "; ".join(problems[:MAX_PROBLEMS])
    return f"The arguments of {tool.name} are invalid: {found}{more}. {_takes(tool)} Correct them and call it again."


@lru_cache(maxsize=1024)
def _compiled(schema: bytes) -> jsonschema_rs.Validator:
    return jsonschema_rs.validator_for(schema.decode(), offline=True)


def _serialised(schema: Json) -> bytes:
    return orjson.dumps(schema, option=orjson.OPT_SORT_KEYS)


def _from_list(parameters: Sequence[Json]) -> Json:
    schema: Json = {"type": "object", "properties": {}, "required": []}
    for parameter in parameters:
        name = parameter.get("name") if isinstance(parameter, dict) else None
        if not isinstance(name, str) or not name:
            raise ValueError("each parameter is a mapping that has a `name`.")
        if name in schema["properties"]:
            raise ValueError(f"the parameter '{name}' stands twice; remove one.")
        schema["properties"][name] = parameter_schema(parameter)
        if parameter.get("required", True):
            schema["required"].append(name)
    return schema


def _undecided(error: jsonschema_rs.ValidationError) -> bool:
    return isinstance(error.kind, _UNDECIDED)


def _problem(error: jsonschema_rs.ValidationError) -> str:
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.instance_path)
    text = error.message if len(error.message) <= MAX_PROBLEM_CHARS else _without_value(error)
    return f"{place.removeprefix('.')}: {text}" if place else text


def _without_value(error: jsonschema_rs.ValidationError) -> str:
    """The message where the value that it quotes is long: its end says what is wrong."""
    half = MAX_PROBLEM_CHARS // 2
    return f"{error.message[:half]} … {error.message[-half:]}"


def _takes(tool: Tool) -> str:
    properties = tool.input_schema.get("properties") or {}
    required = set(tool.input_schema.get("required") or [])
    if not isinstance(properties, dict) or not properties:
        return "It takes no arguments." if tool.input_schema.get("additionalProperties") is False else ""
    shown = [
        f"{name} ({_type(part)}, {'required' if name in required else 'optional'})"
        for name, part in list(properties.items())[:MAX_NAMED]
    ]
    return f"It takes: {', '.join(shown)}."


def _type(schema: object) -> str:
    kind = schema.get("type") if isinstance(schema, dict) else None
    return " or ".join(map(str, kind)) if isinstance(kind, list) else str(kind or "any")


def _first_line(error: ValueError) -> str:
    return str(error).strip().partition("\n")[0][:MAX_PROBLEM_CHARS]
