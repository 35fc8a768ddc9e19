"""Which server tools a turn has, and who runs them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from shared.events import Json
from worker.attachments import Keep, without_files
from worker.providers.tools import Tool, ToolProvider, ToolResult
from worker.providers.tools_schema import without_fixed


@dataclass(frozen=True, slots=True)
class BoundTool:
    """A tool, the instance that runs it, the arguments that its group gives to every call, and what keeps the files
    that it returns."""

    provider: ToolProvider
    tool: Tool
    args: Json = field(default_factory=dict)
    keep: Keep | None = None

    @property
    def open_tool(self) -> Tool:
        """The tool as the model gets to know it: without the arguments that are given to every call."""
        if not self.args:
            return self.tool
        return replace(self.tool, input_schema=without_fixed(self.tool.input_schema, self.args))

    def invoke(self, arguments: Json, *, idempotency_key: str) -> ToolResult:
        """Make one call. Its result names the files that it gave, which are kept by then. Raises ProviderError."""
        arguments = {**arguments, **self.args}
        result = self.provider.invoke(self.tool, arguments, idempotency_key=idempotency_key)
        return without_files(result) if self.keep is None else self.keep(self.tool.name, idempotency_key, result)

    def described(self) -> Json:
        """As the model is told of it."""
        tool = self.open_tool
        return {"name": tool.name, "description": tool.description, "input_schema": tool.input_schema}


class Toolbox:
    """Finds tools. `find` gives those that a tenant knows as `group` or `group/tool`, or raises ProviderError."""

    def __init__(self, *, find: Callable[[str, str], list[BoundTool]]) -> None:
        self._find = find

    def resolve(self, toolgroups: Sequence[str | Json], *, tenant: str) -> dict[str, BoundTool]:
        """The tools of an agent's `toolgroups` by name: `group`, `group/tool` or `{name, args}`.

        Raises ProviderError for a group or tool that nobody serves now.
        """
        tools: dict[str, BoundTool] = {}
        for entry in toolgroups:
            name, args = (entry, {}) if isinstance(entry, str) else (entry["name"], entry.get("args") or {})
            for bound in self._find(tenant, name):
                tools[bound.tool.name] = replace(bound, args={**bound.args, **args})
        return tools
