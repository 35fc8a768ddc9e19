"""Keeps credentials out of reprs, errors and displays."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import SecretStr

MASK = "********"

_SECRET_KEY = re.compile(
    r"(^|[_-])((api|access|secret|private)[_-]?key|token|secret|password|passwd|authorization|credentials?|cookie)s?$",
    re.IGNORECASE,
)
_USERINFO = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*://)[^/?#]*@")


def protect(config: Any, *, secret: bool = False) -> Any:
    """`config` with every credential as a SecretStr: by the name of its key, and everything in `headers`."""
    if isinstance(config, str):
        return SecretStr(config) if secret else config
    if isinstance(config, Mapping):
        return {
            key: protect(value, secret=secret or key == "headers" or _SECRET_KEY.search(key) is not None)
            for key, value in config.items()
        }
    if isinstance(config, list | tuple):
        return [protect(item, secret=secret) for item in config]
    return config


def secret_values(data: Any) -> Iterator[str]:
    """Every credential in `data`, as it must not be written anywhere; of `Bearer …` the key by itself too."""
    if isinstance(data, SecretStr):
        value = data.get_secret_value()
        yield value
        if " " in value:
            yield value.rpartition(" ")[2]
    elif isinstance(data, str):
        if found := _USERINFO.match(data):
            yield found[0].partition("://")[2].rstrip("@").rpartition(":")[2]
    elif isinstance(data, Mapping):
        for value in data.values():
            yield from secret_values(value)
    elif isinstance(data, list | tuple):
        for item in data:
            yield from secret_values(item)


def mask(data: Any) -> Any:
    """`data` for showing: SecretStr and the user part of a URL become asterisks."""
    if isinstance(data, SecretStr):
        return MASK
    if isinstance(data, str):
        return _USERINFO.sub(rf"\g<1>{MASK}@", data)
    if isinstance(data, Mapping):
        return {key: mask(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [mask(item) for item in data]
    return data
