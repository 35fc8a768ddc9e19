"""`remote::tgi`: Hugging Face's Text Generation Inference.

What it does differently, from its own source (docs/openapi.json and router/src/lib.rs, validation.rs of 3.3):

- It serves one model, named by `GET /info`; `/v1/models` came with 2.3 only.
- In a chat request `model` names a LoRA adapter, and `tgi` the model itself; adapters are not listed, so not served.
- A JSON schema is `response_format: {type: json, value: SCHEMA}`; it excludes tools.
- `top_p` has to be below 1, and `top_k` and `repetition_penalty` cannot be given to its chat API.
- Completions know no response format, and there are no embeddings.
- `tool_choice` knows what OpenAI's does, and `max_tokens` is what OpenAI calls `max_completion_tokens` now.
"""

from typing import Any

from worker.providers.inference import ChatRequest, CompletionRequest, EmbeddingRequest, Json, Model
from worker.providers.openai import OpenAIInference
from worker.providers.openai_config import NoExtraParams

_BASE_MODEL = "tgi"


class TGIConfig(NoExtraParams):
    """A TGI server; by default where its documentation has the container listen."""

    url: str = "http://127.0.0.1:8080/v1"


class TGIInference(OpenAIInference):
    """One TGI server."""

    provider_type = "remote::tgi"
    _config: TGIConfig

    def list_models(self) -> list[Model]:
        info = self._get_json(f"{self._config.root}/info")
        try:
            name = str(info["model_id"])
            limits = {key: info[key] for key in ("max_input_tokens", "max_total_tokens") if info.get(key)}
        except (KeyError, TypeError, AttributeError):
            raise self._no_list() from None
        return [Model(identifier=name, resource_id=name, metadata=limits)]

    def _body(self, request: ChatRequest) -> Json:
        if request.response_format and request.tools:
            raise self._unsupported("takes tools or a response format, not both.")
        body = _for_the_base_model(super()._body(request))
        if "response_format" in body:
            body["response_format"] = {"type": "json", "value": _schema(body["response_format"])}
        return body

    def _completion_body(self, request: CompletionRequest) -> Json:
        if request.response_format:
            raise self._unsupported("takes no response format in a completion: ask for a chat completion.")
        return _for_the_base_model(super()._completion_body(request))

    def embed(self, request: EmbeddingRequest) -> list[list[float]]:
        raise self._lacks("embeddings")


def _for_the_base_model(body: Json) -> Json:
    body["model"] = _BASE_MODEL
    if body.get("top_p") == 1:
        # Neutral, and yet refused.
        del body["top_p"]
    return body


def _schema(response_format: Json) -> Any:
    return response_format["json_schema"]["schema"]
