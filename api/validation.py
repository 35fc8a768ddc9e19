"""Validates requests against their types, with errors that name the field and the fix."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from shared.errors import InvalidRequest

M = TypeVar("M", bound=BaseModel)

_SHOWN = 5
_MESSAGE_LENGTH = 300


def validate(model: type[M], data: Mapping[str, Any]) -> M:
    """`data` as a `model`. Raises InvalidRequest that names the first fields that are wrong."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise _invalid_fields(error, data) from None


def _invalid_fields(error: ValidationError, data: Mapping[str, Any]) -> InvalidRequest:
    found = error.errors(include_url=False, include_context=False, include_input=False)[:_SHOWN]
    fields = [(_path_of(item, data), _message(item["msg"])) for item in found]
    told = dict.fromkeys(f"{path}: {message}" if path else message for path, message in fields)
    return InvalidRequest("; ".join(told) + ".", param=fields[0][0] or None, code="invalid_fields")


def _path_of(item: ErrorDetails, data: Any) -> str:
    loc = item["loc"]
    return ".".join([*field_path(loc[:-1], data), str(loc[-1])] if item["type"] == "missing" else field_path(loc, data))


def field_path(loc: tuple[int | str, ...], data: Any) -> list[str]:
    """The path of a field as the client wrote it.

    pydantic's path also names the member of a union that it tried (`messages.0.user.content`): a part that is not
    in the data is such a name.
    """
    path: list[str] = []
    for part in loc:
        inside = _child(data, part)
        if inside is not _ABSENT:
            data = inside
            path.append(str(part))
    return path


_ABSENT = object()


def _child(data: Any, part: int | str) -> Any:
    if isinstance(data, dict):
        return data.get(part, _ABSENT)
    if isinstance(data, list) and isinstance(part, int) and part < len(data):
        return data[part]
    return _ABSENT


def _message(text: str) -> str:
    plain = (
        text.removeprefix("Value error, ").replace("Input should", "should").replace("Field required", "is required")
    )
    return plain if len(plain) <= _MESSAGE_LENGTH else plain[:_MESSAGE_LENGTH] + "…"
