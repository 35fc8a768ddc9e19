"""Which server tools a turn has, and who runs them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from shared.errors import ProviderError
from shared.events import Json
from worker.providers.tools import Tool, ToolProvider


@dataclass(frozen=True, slots=True)
class BoundTool:
    """A tool, the instance that runs it, and the arguments that its group gives to every call."""

    provider: ToolProvider
    tool: Tool
    args: Json = field(default_factory=dict)

    def described(self) -> Json:
        """As the model gets to know it."""
        return {
            "name": self.tool.name,
            "description": self.tool.description,
            "input_schema": self.tool.input_schema,
        }


class Toolbox:
    """Finds tools by what the providers listed last."""

    def __init__(self) -> None:
        self._groups: dict[str, list[BoundTool]] = {}

    def update(self, groups: dict[str, list[BoundTool]]) -> None:
        """What is served from now on, by tool group."""
        self._groups = groups

    def resolve(self, toolgroups: Sequence[str | Json]) -> dict[str, BoundTool]:
        """The tools of an agent's `toolgroups` by name: `group`, `group/tool` or `{name, args}`.

        Raises ProviderError for a group or tool that nobody serves now.
        """
        tools: dict[str, BoundTool] = {}
        for entry in toolgroups:
            name, args = (entry, {}) if isinstance(entry, str) else (entry["name"], entry.get("args") or {})
            for bound in self._find(name):
                tools[bound.tool.name] = BoundTool(bound.provider, bound.tool, {**bound.args, **args})
        return tools

    def _find(self, name: str) -> list[BoundTool]:
        if name in self._groups:
            return self._groups[name]
        group, _, tool = name.rpartition("/")
        found = [bound for bound in self._groups.get(group, []) if bound.tool.name == tool]
        if found:
            return found
        known = ", ".join(sorted(self._groups)) or "none"
        raise ProviderError(
            f"No provider serves the tool group '{name}' now. Known: {known}.",
            provider_id="",
            code="toolgroup_not_found",
        )
