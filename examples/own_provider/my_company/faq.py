"""An inference provider of one's own: it answers frequent questions from the run config, and asks no model."""

import re
from collections.abc import Iterator

from pydantic import BaseModel, Field

from shared.errors import ProviderError
from worker.providers.inference import (
    ChatRequest,
    Delta,
    Finished,
    InferenceProvider,
    Model,
    StopReason,
    TextDelta,
)


class FaqConfig(BaseModel):
    """What stands under `config` in the run config. A secret would be a `SecretStr`: it is never shown."""

    answers: dict[str, str] = Field(min_length=1)
    otherwise: str = "Please ask a person."


class FaqInference(InferenceProvider):
    """Serves the model `faq`.

    Many greenlets call an instance at once. Whatever goes wrong is raised as ProviderError with a message for people:
    it ends the turn and is shown to the user.
    """

    Config = FaqConfig

    def __init__(self, *, provider_id: str, config: FaqConfig) -> None:
        self.provider_id = provider_id
        self._config = config

    def list_models(self) -> list[Model]:
        return [Model(identifier="faq", resource_id="faq")]

    def register_model(self, model: Model) -> Model:
        raise ProviderError(
            f"Provider '{self.provider_id}' serves 'faq' and nothing else.",
            provider_id=self.provider_id,
            code="model_not_found",
        )

    def chat(self, request: ChatRequest) -> Iterator[Delta]:
        if request.response_format is not None:
            raise ProviderError(
                f"Provider '{self.provider_id}' gives plain text only: leave response_format out.",
                provider_id=self.provider_id,
                code="unsupported_parameter",
            )
        for piece in re.findall(r"\S+\s*", self._answer(str(request.messages[-1]["content"]))):
            yield TextDelta(piece)
        yield Finished(stop_reason=StopReason.END_OF_TURN)

    def close(self) -> None:
        """There is nothing to release."""

    def _answer(self, question: str) -> str:
        for word, answer in self._config.answers.items():
            if word.lower() in question.lower():
                return answer
        return self._config.otherwise
