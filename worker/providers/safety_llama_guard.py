"""`inline::llama-guard`: shields that ask a guard model behind any inference provider."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, model_validator

from shared.errors import ConfigError, ProviderError
from shared.runconfig.check import check
from shared.runconfig.model import Name, Section
from shared.runconfig.origin import Origin
from worker.providers.inference import ChatRequest, Delta, TextDelta
from worker.providers.safety import Json, Shield, Violation
from worker.providers.safety_base import STANDARD_MESSAGE, LimitedSafety, ShieldEntry, ShieldsConfig, each_once
from worker.providers.safety_content import contents
from worker.providers.safety_guard_prompt import (
    AGENT,
    CATEGORIES,
    Said,
    Verdict,
    conversation,
    parse_verdict,
    prompt,
)

Chat = Callable[[ChatRequest], Iterator[Delta]]
Serves = Callable[[str], bool]

Category = Literal["S1", "S2", "S3", "S4", "S5", "S6", "S7", "S8", "S9", "S10", "S11", "S12", "S13", "S14"]

# All fourteen categories are 57 characters.
MAX_TOKENS = 100
MAX_ANSWER_CHARS = 400


def _not_all(excluded: tuple[Category, ...]) -> tuple[Category, ...]:
    if set(excluded) == set(CATEGORIES):
        raise ValueError("excludes every category; leave the shield out instead.")
    return excluded


class GuardOptions(Section):
    """How a guard model is asked, in the config or as `params` of a registered shield.

    `prompt` says who writes the prompt: `written` is Llama Guard 3's as published, sent as one message; `server` sends
    the conversation, for a server whose chat template writes the prompt itself (Ollama's llama-guard3, vLLM with
    the template of the model's repository).
    """

    excluded_categories: Annotated[tuple[Category, ...], AfterValidator(_not_all)] = ()
    prompt: Literal["written", "server"] = "written"


class GuardShield(ShieldEntry, GuardOptions):
    """A guard model. `provider_shield_id` names it, as in `GET /v1/models`; `shield_id` is the same unless given."""

    shield_id: Name = ""
    provider_shield_id: Name

    @model_validator(mode="before")
    @classmethod
    def _named_as_its_model(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("shield_id") is None and "provider_shield_id" in data:
            return {**data, "shield_id": data["provider_shield_id"]}
        return data

    def listed(self) -> Shield:
        params = self.model_dump(mode="json", include=set(GuardOptions.model_fields), exclude_defaults=True)
        return Shield(identifier=self.shield_id, resource_id=self.provider_shield_id, params=params)


class LlamaGuardConfig(ShieldsConfig):
    """The guard models; others can be registered later."""

    shields: Annotated[tuple[GuardShield, ...], AfterValidator(each_once)] = ()


class LlamaGuardSafety(LimitedSafety):
    """Asks whether the last message is safe: as the user's, or as the agent's where that spoke last.

    Images are not looked at. `chat` routes by the name of the model; `serves` says whether a model can be used now.
    """

    provider_type = "inline::llama-guard"

    def __init__(self, *, provider_id: str, config: LlamaGuardConfig, chat: Chat, serves: Serves) -> None:
        listed = [shield.listed() for shield in config.shields]
        super().__init__(provider_id=provider_id, shields=listed, timeout_s=config.timeout_s)
        self._chat = chat
        self._serves = serves

    def register_shield(self, shield: Shield) -> Shield:
        self._options(shield)
        if not self._serves(shield.resource_id):
            problem = (
                f"cannot run the shield '{shield.identifier}': no provider serves the model '{shield.resource_id}' "
                "now. Name a guard model of GET /v1/models in `provider_shield_id`."
            )
            raise self._error("model_not_found", problem)
        return shield

    def close(self) -> None:
        pass

    def _look(self, shield: Shield, messages: Sequence[Json]) -> Violation | None:
        options = self._options(shield)
        said = conversation(contents(messages, self._unsupported))
        if not said or not said[-1].text:
            return None
        verdict = self._ask(shield, _request(said, model=shield.resource_id, options=options))
        objections = [code for code in verdict.codes if code not in options.excluded_categories]
        if not verdict.unsafe or (verdict.codes and not objections):
            return None
        names = [CATEGORIES.get(code, code) for code in objections]
        metadata = {"violation_type": ",".join(objections), "categories": names}
        return Violation(user_message=STANDARD_MESSAGE, metadata=metadata)

    def _ask(self, shield: Shield, request: ChatRequest) -> Verdict:
        try:
            answer = _answer(self._chat(request))
        except ProviderError as error:
            raise self._no_answer(request.model, error) from None
        verdict = parse_verdict(answer)
        if verdict is None:
            problem = (
                f"got no verdict for the shield '{shield.identifier}': '{request.model}' answered something else than "
                "safe or unsafe. Is it a Llama Guard model?"
            )
            raise self._error("shield_bad_verdict", problem)
        return verdict

    def _no_answer(self, model: str, error: ProviderError) -> ProviderError:
        """Without the words of `error`: they may quote what the model was asked, and so the content."""
        status = "" if error.status is None else f", {error.status}"
        where = f" of provider '{error.provider_id}'" if error.provider_id else ""
        problem = (
            f"got no answer from its model '{model}'{where} ({error.code}{status}): is the model served, "
            "and its server well? GET /v1/models lists what is served."
        )
        facts = {"status": error.status, "retryable": error.retryable, "retry_after": error.retry_after}
        return self._error(error.code, problem, **facts)

    def _options(self, shield: Shield) -> GuardOptions:
        origin = Origin(name=f"shield '{shield.identifier}'")
        try:
            return check(GuardOptions, shield.params, origin=origin, at=("params",))
        except ConfigError as error:
            raise self._error("invalid_shield", f"refuses the parameters: {error.message}") from None


def _request(said: Sequence[Said], *, model: str, options: GuardOptions) -> ChatRequest:
    if options.prompt == "server":
        messages = [{"role": "assistant" if one.speaker == AGENT else "user", "content": one.text} for one in said]
        if said[0].speaker == AGENT:
            # The published templates refuse a conversation that the user did not begin.
            messages.insert(0, {"role": "user", "content": "Hello"})
    else:
        text = prompt(said, model=model, excluded=options.excluded_categories)
        messages = [{"role": "user", "content": text}]
    sampling = {"strategy": {"type": "greedy"}, "max_tokens": MAX_TOKENS}
    return ChatRequest(model=model, messages=messages, sampling_params=sampling)


def _answer(deltas: Iterator[Delta]) -> str:
    """What the model wrote; no more of it than a verdict has."""
    answer = ""
    with closing(deltas):  # type: ignore[type-var]
        for delta in deltas:
            if isinstance(delta, TextDelta):
                answer += delta.text
            if len(answer) > MAX_ANSWER_CHARS:
                break
    return answer
