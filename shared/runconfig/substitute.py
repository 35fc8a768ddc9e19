"""Puts environment variables into the strings of a config."""

import re
from collections.abc import Mapping
from typing import Any

from shared.runconfig.origin import KeyPath, Origin

_REFERENCE = re.compile(r"\$\{env\.([A-Za-z_][A-Za-z0-9_]*)(?::=([^}]*))?\}")
_BEGINNING = "${env."


def substitute(data: Any, environ: Mapping[str, str], origin: Origin, at: KeyPath = ()) -> Any:
    """`data` with every `${env.NAME}` and `${env.NAME:=default}` in its strings replaced.

    As in Llama Stack, a variable that is empty counts as one that is not set, and a string that is nothing
    but one reference and comes out empty is as good as absent. Values are put in after the YAML was read, so
    a variable cannot change the structure. Raises ConfigError that names variable and key.
    """
    if isinstance(data, str):
        return _text(data, environ, origin, at)
    if isinstance(data, dict):
        pairs = ((key, substitute(value, environ, origin, (*at, key))) for key, value in data.items())
        return {key: value for key, value in pairs if value is not None}
    if isinstance(data, list):
        return [substitute(item, environ, origin, (*at, index)) for index, item in enumerate(data)]
    return data


def _text(text: str, environ: Mapping[str, str], origin: Origin, at: KeyPath) -> str | None:
    if _BEGINNING not in text:
        return text
    if _BEGINNING in _REFERENCE.sub("", text):
        raise origin.error(at, "a malformed reference; write ${env.NAME} or ${env.NAME:=default}.")

    def value(found: re.Match[str]) -> str:
        name, default = found.groups()
        given = environ.get(name) or default
        if given is None:
            raise origin.error(
                at, f"the environment variable {name} is not set. Set it, or write ${{env.{name}:=default}}."
            )
        return given

    whole = _REFERENCE.fullmatch(text) is not None
    return _REFERENCE.sub(value, text) or (None if whole else "")
