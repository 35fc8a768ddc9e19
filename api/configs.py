"""The configuration that a turn runs with: the agent's, and what the turn says of it. Pure."""

from collections.abc import Sequence

from api.memory_checks import require_fitting
from shared.errors import InvalidRequest
from shared.events import Json
from shared.registry import Registry
from shared.types.agents import AgentConfig
from shared.types.content import SCHEMES, URL
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
    if config.get("memory") is not None:
        _check_memory(config["memory"], registry, f"{where}memory")
    _check_choice(config, registry, where)


def _check_memory(memory: Json, registry: Registry, where: str) -> None:
    for index, wanted in enumerate(memory["memory_bank_configs"]):
        at = f"{where}.memory_bank_configs.{index}"
        registry.require_memory_banks([wanted["bank_id"]], param=f"{at}.bank_id")
        bank = registry.memory_bank(wanted["bank_id"])
        if bank is not None and wanted["type"] not in (None, bank.kind):
            problem = f"The memory bank '{bank.identifier}' is a {bank.kind} bank. Say so, or leave the type out."
            raise InvalidRequest(problem, param=f"{at}.type", code="memory_bank_type")
        if bank is not None:
            require_fitting(bank, wanted, at=f"{at}.")
    generator = memory["query_generator_config"]
    if generator["type"] == "llm":
        registry.require_llm(generator["model"], param=f"{where}.query_generator_config.model")


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


def readable_documents(documents: Sequence[Document]) -> list[Json]:
    """The documents as JSON. Raises InvalidRequest for an address that is none of those that are read."""
    for index, document in enumerate(documents):
        content = document.content
        if isinstance(content, URL) and not content.uri.lower().startswith(SCHEMES):
            raise InvalidRequest(
                f"A document's address begins with {', '.join(SCHEMES[:-1])} or {SCHEMES[-1]}",
                param=f"documents.{index}.content.uri",
                code="malformed_url",
            )
    return [document.model_dump(exclude_none=True) for document in documents]
