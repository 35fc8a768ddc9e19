"""What all request and answer types share."""

import re
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

Json = dict[str, Any]

MAX_INT = 2**53 - 1
"""Whole numbers go up to what every JSON reader holds exactly (RFC 8259, section 6)."""

T = TypeVar("T")

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
Items = Annotated[list[T], Field(fail_fast=True)]
"""A list of any length: the first wrong item ends its validation, or a large body would yield millions of errors."""

Name = Annotated[str, Field(min_length=1, max_length=255)]


def _fits_a_path(value: str) -> str:
    if _CONTROL.search(value) or not {"", ".", ".."}.isdisjoint(value.split("/")):
        raise ValueError(
            "becomes part of a path: no control characters, and no part between slashes that is empty, '.' or '..'"
        )
    return value


PathName = Annotated[Name, AfterValidator(_fits_a_path)]
"""A name that may hold slashes, and that a path can hold as it is."""
Metadata = Annotated[Json, Field(description="Anything the client wants to keep with it.")]


class Wire(BaseModel):
    """Base of the types that clients send and get.

    A request may hold keys that a type does not know: they are ignored, so that clients of a later version work.
    `null` counts as absent everywhere, because official clients send it for what they do not set. Types are strict:
    the text "10" is no number.
    """

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: Any) -> Any:
        if isinstance(value, dict) and None in value.values():
            return {key: item for key, item in value.items() if item is not None}
        return value

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core_schema)
        resolved = handler.resolve_ref_schema(schema)
        required = resolved.get("required", ())
        for name, member in resolved.get("properties", {}).items():
            if name not in required:
                resolved["properties"][name] = _nullable(member)
        return schema


def _nullable(member: JsonSchemaValue) -> JsonSchemaValue:
    """The schema of an optional member: itself or null."""
    about: JsonSchemaValue = {key: member.pop(key) for key in ("title", "description", "default") if key in member}
    choices = member.pop("anyOf", None) or [member]
    if {"type": "null"} not in choices:
        choices = [*choices, {"type": "null"}]
    return {"anyOf": choices, **about}
