"""`remote::vllm`: a vLLM server.

It is OpenAI-compatible and lists what it serves at `/v1/models`. `top_k` and `repetition_penalty` are parameters of
its chat API (vllm/entrypoints/openai/chat_completion/protocol.py, `chat-completion-sampling-params`); a JSON schema
is OpenAI's `response_format`, and `tool_choice` knows auto, required, none and a named function
(https://docs.vllm.ai/en/latest/features/tool_calling/). Without a parser (`--enable-auto-tool-choice
--tool-call-parser …`) it refuses requests with tools, and says so.
"""

from worker.providers.inference import Json, Model
from worker.providers.openai import OpenAIInference
from worker.providers.openai_config import ExtraParam, ServerConfig


class VLLMConfig(ServerConfig):
    """A vLLM server; by default the one of `vllm serve` on this machine."""

    url: str = "http://127.0.0.1:8000/v1"
    extra_params: tuple[ExtraParam, ...] = ("top_k", "repetition_penalty")


class VLLMInference(OpenAIInference):
    """One vLLM server."""

    provider_type = "remote::vllm"

    def _model(self, entry: Json) -> Model:
        model = super()._model(entry)
        if entry.get("max_model_len"):
            model.metadata["max_model_len"] = entry["max_model_len"]
        return model
