"""Agents: how a model is to act in the sessions that belong to it."""

from collections import Counter
from typing import Annotated, Literal, Self

from pydantic import AliasChoices, Field, model_validator

from shared.types.base import Items, Name, Wire
from shared.types.retrieval import AgentMemory
from shared.types.sampling import ResponseFormat, SamplingParams
from shared.types.tools import ToolChoice, ToolConfig, ToolDef, ToolGroup

MaxIters = Annotated[int, Field(ge=1, le=1000, description="How many replies of the model a turn may take.")]
Model = Annotated[Name, Field(description="A model of `GET /v1/models`, or `provider_id/model` to pin an instance.")]


class AgentConfig(Wire):
    """An agent's configuration."""

    model: Model
    instructions: Annotated[str, Field(description="The system prompt.")] = ""
    name: Annotated[str | None, Field(max_length=255)] = None
    client_tools: Items[ToolDef] = Field(default_factory=list, description="Tools that the client runs.")
    toolgroups: Items[ToolGroup] = Field(default_factory=list)
    input_shields: Items[Name] = Field(default_factory=list)
    output_shields: Items[Name] = Field(default_factory=list)
    shield_mode: Annotated[
        Literal["hold", "stream"],
        Field(description="Whether output is held until its shields have passed, or shown and retracted."),
    ] = "hold"
    shield_on_error: Annotated[
        Literal["block", "allow"],
        Field(
            validation_alias=AliasChoices("shield_on_error", "on_error"),
            description="What a shield that fails means. `on_error` is read as well.",
        ),
    ] = "block"
    memory: Annotated[
        AgentMemory | None, Field(description="Memory banks that are looked into before the first reply of a turn.")
    ] = None
    max_infer_iters: MaxIters = 10
    enable_session_persistence: Annotated[
        bool, Field(description="False: sessions expire some time after their last turn.")
    ] = True
    tool_choice: ToolChoice | None = None
    tool_config: ToolConfig = Field(default_factory=ToolConfig)
    response_format: ResponseFormat | None = None
    sampling_params: SamplingParams = Field(default_factory=SamplingParams)

    @model_validator(mode="after")
    def _tools_fit(self) -> Self:
        counts = Counter(tool.name for tool in self.client_tools)
        doubled = sorted(name for name, count in counts.items() if count > 1)
        if doubled:
            raise ValueError(f"client_tools: each name once; {', '.join(doubled)} is there more than once")
        chosen = self.tool_config.tool_choice
        if self.tool_choice is not None and chosen is not None and chosen != self.tool_choice:
            raise ValueError("tool_choice and tool_config.tool_choice differ: give one of them")
        return self


class CreateAgent(Wire):
    """A request for a new agent."""

    agent_config: AgentConfig


class AgentCreated(Wire):
    """The id of a new agent."""

    agent_id: str


class Agent(Wire):
    """An agent as it was created."""

    agent_id: str
    agent_config: AgentConfig
    created_at: str


class AgentList(Wire):
    """A page of agents, oldest first. `url` is the call that lists them."""

    data: Items[Agent]
    has_more: bool
    url: str
