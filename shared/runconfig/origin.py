"""Where a value of the run config stands, for errors that lead there."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shared.errors import ConfigError

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a config was read from. `lines` has the line of each key and list item, counted from 1."""

    name: str = "the default config"
    lines: Mapping[KeyPath, int] = field(default_factory=dict)

    def error(self, at: KeyPath, problem: str) -> ConfigError:
        """A ConfigError that names file, line and dotted key."""
        return ConfigError(f"{self.where(at)}: {problem}")

    def where(self, at: KeyPath) -> str:
        """`turnstone.yaml, line 7: providers.inference[0].config.url`.

        A key that is not in the file (it is missing, or comes from a default) gets the line of what would
        hold it.
        """
        line = next((self.lines[at[:n]] for n in range(len(at), -1, -1) if at[:n] in self.lines), None)
        place = self.name if line is None else f"{self.name}, line {line}"
        return f"{place}: {dotted(at)}" if at else place


def dotted(at: KeyPath) -> str:
    """`("providers", "inference", 0, "config")` as `providers.inference[0].config`."""
    text = ""
    for part in at:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def at_path(data: Any, at: KeyPath) -> Any:
    """The value at `at`, or KeyError where the data do not go that deep."""
    for part in at:
        if isinstance(data, Mapping) and part in data:
            data = data[part]
        elif isinstance(data, list | tuple) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            raise KeyError(part)
    return data
