"""The configuration that a turn runs with: the agent's, and what the turn says of it. Pure."""

from collections.abc import Sequence

from shared.errors import InvalidRequest
from shared.events import Json
from shared.registry import Registry
from shared.types.agents import AgentConfig
from shared.types.content import URL, ImageItem, TextItem
from shared.types.turns import CreateTurn, Document

_OVERRIDES = {"model", "toolgroups", "tool_config", "sampling_params", "max_infer_iters", "response_format"}
_CHOICES = frozenset({"auto", "required", "none"})


def agent_config(config: AgentConfig) -> Json:
    """The whole config as JSON, defaults filled in. `tool_choice` stands in both of its places."""
    return _with_tool_choice(config.model_dump(), config.tool_config.tool_choice or config.tool_choice or "auto")


def turn_config(config: Json, turn: CreateTurn) -> Json:
    """The agent's config with what the turn says in place of it."""
    given = turn.model_dump(include=_OVERRIDES)
    overrides = {key: value for key, value in given.items() if value is not None}
    if not overrides:
        return config
    chosen = turn.tool_config.tool_choice if turn.tool_config is not None else None
    return _with_tool_choice({**config, **overrides}, chosen or config["tool_choice"])


def _with_tool_choice(config: Json, choice: str) -> Json:
    return {**config, "tool_choice": choice, "tool_config": {**config["tool_config"], "tool_choice": choice}}


def check_config(config: Json, registry: Registry, *, where: str = "") -> None:
    """Raise InvalidRequest where a turn could not run with `config`. `where` begins the paths of its fields."""
    registry.require_llm(config["model"], param=f"{where}model")
    for name in ("input_shields", "output_shields"):
        registry.require_shields(config[name], param=f"{where}{name}")
    registry.require_toolgroups(config["toolgroups"], param=f"{where}toolgroups")
    _check_choice(config, registry, where)


def _check_choice(config: Json, registry: Registry, where: str) -> None:
    choice = config["tool_choice"]
    if choice in _CHOICES:
        return
    groups = [entry if isinstance(entry, str) else entry["name"] for entry in config["toolgroups"]]
    own = [tool.name for group in groups for _, tool in registry.tools_of(group)]
    tools = [*(tool["name"] for tool in config["client_tools"]), *own]
    if choice not in tools:
        raise InvalidRequest(
            f"There is no tool '{choice}'. tool_choice is auto, required, none"
            f"{' or one of ' + ', '.join(tools) if tools else ''}.",
            param=f"{where}tool_config.tool_choice",
            code="unknown_tool",
        )


def text_documents(documents: Sequence[Document]) -> list[Json]:
    """The documents as JSON. Raises InvalidRequest for what is no text."""
    for index, document in enumerate(documents):
        parts = document.content if isinstance(document.content, list) else [document.content]
        if not all(isinstance(part, str | TextItem) for part in parts):
            what = _kind(parts)
            raise InvalidRequest(
                f"This release reads no documents with {what}: send the text itself.",
                param=f"documents.{index}.content",
                code="not_supported",
            )
    return [document.model_dump(exclude_none=True) for document in documents]


def _kind(parts: Sequence[object]) -> str:
    if any(isinstance(part, URL) for part in parts):
        return "an address as their content"
    return "images" if any(isinstance(part, ImageItem) for part in parts) else "such content"
