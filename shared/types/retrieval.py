"""What is asked of memory: by an agent before its first reply, or by a query."""

from typing import Annotated, Literal

from pydantic import AliasChoices, BeforeValidator, Discriminator, Field, Tag

from shared.types.base import Items, Name, Wire

BankType = Literal["vector", "keyword", "keyvalue", "graph"]
MaxChunks = Annotated[int, Field(ge=1, le=1000, description="How many chunks at the most.")]
MaxTokens = Annotated[int, Field(ge=64, le=1_000_000, description="How long the text is that is made of them.")]
Mode = Annotated[
    Literal["vector", "keyword", "hybrid"],
    Field(description="By meaning, by words, or both together: for vector banks, which have all three."),
]
FilterValue = str | int | float | bool | None


def _plain(value: object) -> object:
    """One sentence in place of one for each type that a value might have had."""
    for name, wanted in value.items() if isinstance(value, dict) else ():
        options = wanted if isinstance(wanted, list) else [wanted]
        if not all(option is None or isinstance(option, str | int | float) for option in options):
            raise ValueError(f"the value of '{name}' should be a text, a number, true, false, null, or a list of such")
    return value


Filters = Annotated[
    dict[str, FilterValue | list[FilterValue]],
    BeforeValidator(_plain),
    Field(
        description="Only chunks whose metadata have each of these values, or one of those in a list. Null is a value:"
        " metadata that say nothing do not have it."
    ),
]
Keys = Annotated[Items[Name], Field(max_length=1000, description="Keys of a keyvalue bank: document ids.")]
Entities = Annotated[Items[Name], Field(max_length=1000, description="Entities of a graph bank to begin from.")]
Depth = Annotated[int, Field(ge=1, le=10, description="How many relations away from the entities.")]


class MemoryBankConfig(Wire):
    """A bank that an agent looks into. `type` may say what kind it is; then it has to be that kind.

    In a keyvalue bank the query is the key where no `keys` are given, in a graph bank the entity.
    """

    bank_id: Name
    type: BankType | None = None
    keys: Keys = Field(default_factory=list)
    entities: Entities = Field(default_factory=list)
    depth: Depth = 1
    mode: Mode | None = None
    filters: Filters = Field(default_factory=dict)


class DefaultQuery(Wire):
    """The query is the text of the turn's messages."""

    type: Literal["default"] = "default"
    separator: Annotated[
        str,
        Field(max_length=255, validation_alias=AliasChoices("separator", "sep"), description="`sep` is read as well."),
    ] = " "


class ModelQuery(Wire):
    """A model makes the query. In `template` `{messages}` stands for the turn's messages."""

    type: Literal["llm"]
    model: Name
    template: Annotated[str | None, Field(min_length=1, max_length=100_000)] = None


class GivenQuery(Wire):
    """The query is this one."""

    type: Literal["custom"]
    query: Annotated[str, Field(min_length=1, max_length=100_000)]


def _kind(value: object) -> str:
    given = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return "default" if given is None else str(given)


QueryGenerator = Annotated[
    Annotated[DefaultQuery, Tag("default")] | Annotated[ModelQuery, Tag("llm")] | Annotated[GivenQuery, Tag("custom")],
    Discriminator(
        _kind,
        custom_error_type="query_generator",
        custom_error_message="should have a type of default, llm or custom",
    ),
]


class AgentMemory(Wire):
    """Where an agent looks before its first reply to a turn, for what, and how much of it the model is shown."""

    memory_bank_configs: Annotated[Items[MemoryBankConfig], Field(min_length=1, max_length=100)]
    query_generator_config: QueryGenerator = Field(default_factory=DefaultQuery)
    max_chunks: MaxChunks = 10
    max_tokens_in_context: MaxTokens = 4096
