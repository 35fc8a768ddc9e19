"""Reads YAML into plain data and remembers on which line each key stands."""

import re
from collections.abc import Iterator
from typing import Any

import yaml

from shared.errors import ConfigError
from shared.runconfig.origin import KeyPath, Origin

# PyYAML quotes what it stumbled over, which may be a piece of a key: only its own names and signs are kept.
_QUOTED = re.compile(r"'(?!<)[^']{2,}'")


def parse(text: str, name: str) -> tuple[dict[str, Any], Origin]:
    """The top mapping of a YAML text and the lines of its keys.

    A key without a value counts as absent. Raises ConfigError for what is no YAML (with line and column), for
    a key that stands twice in one mapping, and for a top level that is no mapping.
    """
    lines: dict[KeyPath, int] = {}
    loader = yaml.SafeLoader(_printable(text, name))
    try:
        node = loader.get_single_node()
        data = None if node is None else _Reader(loader, name, lines).read(node, ())
    except yaml.YAMLError as error:
        raise ConfigError(_syntax_message(error, text, name)) from None
    finally:
        loader.dispose()
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise ConfigError(f"{name}: the top level has to be a mapping, such as 'providers: …'.")
    return data, Origin(name=name, lines=lines)


class _Reader:
    """Walks the nodes itself: PyYAML's constructor forgets lines and takes a key that stands twice."""

    def __init__(self, loader: yaml.SafeLoader, name: str, lines: dict[KeyPath, int]) -> None:
        self._loader = loader
        self._name = name
        self._lines = lines
        self._open: set[int] = set()

    def read(self, node: yaml.Node, at: KeyPath) -> Any:
        self._lines.setdefault(at, node.start_mark.line + 1)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, at)
        if id(node) in self._open:
            raise self._error(node, at, "an alias points back to what contains it.")
        self._open.add(id(node))
        value = self._mapping(node, at) if isinstance(node, yaml.MappingNode) else self._list(node, at)
        self._open.remove(id(node))
        return value

    def _scalar(self, node: yaml.ScalarNode, at: KeyPath) -> Any:
        try:
            return self._loader.construct_object(node)
        except ValueError:
            raise self._error(node, at, "this looks like a date or a number and is none; quote it.") from None

    def _mapping(self, node: yaml.MappingNode, at: KeyPath) -> dict[str, Any]:
        self._refuse_doubles(node, at)
        self._loader.flatten_mapping(node)
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node, at)
            self._lines[(*at, key)] = key_node.start_mark.line + 1
            value = self.read(value_node, (*at, key))
            if value is not None:
                data[key] = value
        return data

    def _list(self, node: yaml.Node, at: KeyPath) -> list[Any]:
        return [self.read(item, (*at, index)) for index, item in enumerate(node.value)]

    def _key(self, node: yaml.Node, at: KeyPath) -> str:
        key = self._loader.construct_object(node) if isinstance(node, yaml.ScalarNode) else None
        if not isinstance(key, str):
            raise self._error(node, at, "a key has to be text; write it in quotes.")
        return key

    def _refuse_doubles(self, node: yaml.MappingNode, at: KeyPath) -> None:
        seen: set[str] = set()
        for key_node in _plain_keys(node):
            if key_node.value in seen:
                raise self._error(key_node, (*at, key_node.value), "this key stands twice; remove one.")
            seen.add(key_node.value)

    def _error(self, node: yaml.Node, at: KeyPath, problem: str) -> ConfigError:
        return Origin(name=self._name, lines={at: node.start_mark.line + 1}).error(at, problem)


def _plain_keys(node: yaml.MappingNode) -> Iterator[yaml.ScalarNode]:
    for key_node, _ in node.value:
        if isinstance(key_node, yaml.ScalarNode) and key_node.tag != "tag:yaml.org,2002:merge":
            yield key_node


def _printable(text: str, name: str) -> str:
    bad = yaml.reader.Reader.NON_PRINTABLE.search(text)
    if bad is None:
        return text
    line = text.count("\n", 0, bad.start()) + 1
    raise ConfigError(f"{name}, line {line}: a control character stands here; remove it.")


def _syntax_message(error: yaml.YAMLError, text: str, name: str) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = _QUOTED.sub("'…'", getattr(error, "problem", None) or "this cannot be read")
    if mark is None:
        return f"{name}: not valid YAML: {problem}."
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    hint = ""
    if "${env." in line:
        hint = " Inside { } or [ ], write a value with ${env.…} in quotes."
    return f"{name}, line {mark.line + 1}, column {mark.column + 1}: not valid YAML: {problem}.{hint}"
