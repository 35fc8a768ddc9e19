"""How the model chooses its words, and which form its answer has."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from shared.types.base import MAX_INT, Items, Json, Wire


class GreedyStrategy(Wire):
    """Always the likeliest token."""

    type: Literal["greedy"]


class TopPStrategy(Wire):
    """Of the likeliest tokens that together reach the probability `top_p`."""

    type: Literal["top_p"]
    temperature: Annotated[float | None, Field(ge=0, le=100)] = None
    top_p: Annotated[float | None, Field(ge=0, le=1)] = None


class TopKStrategy(Wire):
    """Of the `top_k` likeliest tokens."""

    type: Literal["top_k"]
    top_k: Annotated[int, Field(ge=1, le=MAX_INT)]


Strategy = Annotated[GreedyStrategy | TopPStrategy | TopKStrategy, Field(discriminator="type")]


class SamplingParams(Wire):
    """Sampling parameters. Where `strategy` is absent the provider's own defaults hold."""

    strategy: Strategy | None = None
    max_tokens: Annotated[int | None, Field(ge=0, le=MAX_INT, description="0 counts as absent: no bound.")] = None
    repetition_penalty: Annotated[float | None, Field(ge=-2, le=2)] = None
    stop: Annotated[Items[str] | None, Field(max_length=64)] = None

    @field_validator("max_tokens")
    @classmethod
    def _zero_is_no_bound(cls, value: int | None) -> int | None:
        return value or None


class JsonSchemaFormat(Wire):
    """The answer is JSON of this schema."""

    type: Literal["json_schema"]
    json_schema: Json


class GrammarFormat(Wire):
    """The answer follows this grammar."""

    type: Literal["grammar"]
    bnf: dict[str, Any]


ResponseFormat = Annotated[JsonSchemaFormat | GrammarFormat, Field(discriminator="type")]
