"""`remote::ollama`: an Ollama server.

Chat goes through its OpenAI-compatible routes (docs/api/openai-compatibility.mdx of Ollama), which know neither
`tool_choice` nor `top_k` nor a repetition penalty, and take images as data but not as URLs. Models are listed by
`GET /api/tags`, and a model that is not there yet is pulled when it is registered: `POST /api/pull` streams its
progress as lines of JSON (`{status, digest, total, completed}`), ends with the status `success`, and says `{error}`
where it fails (docs/api.md, "Pull a Model"; docs/api/errors.mdx). A pull that is broken off goes on from there when it
is asked for again.
"""

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import orjson

from shared.errors import ProviderError
from worker.providers.inference import ChatRequest, CompletionRequest, Json, Model
from worker.providers.openai import WIRE_ERRORS, OpenAIInference, sample_of, text_headers
from worker.providers.openai_config import NoExtraParams
from worker.providers.wire import Body

# Checking the digest of a large model says nothing for minutes.
PULL_SILENCE_S = 600.0
MAX_LINE_BYTES = 65_536
_DEFAULT_TAG = ":latest"

logger = logging.getLogger(__name__)


class OllamaConfig(NoExtraParams):
    """An Ollama server; by default the one on this machine. Without `pull_models`, what is not there is refused."""

    url: str = "http://127.0.0.1:11434/v1"
    pull_models: bool = True


class OllamaInference(OpenAIInference):
    """One Ollama server."""

    provider_type = "remote::ollama"
    _config: OllamaConfig

    def list_models(self) -> list[Model]:
        data = self._get_json(f"{self._config.root}/api/tags")
        try:
            return [self._model(entry) for entry in data["models"]]
        except (KeyError, TypeError, AttributeError):
            raise self._no_list() from None

    def register_model(self, model: Model) -> Model:
        """Accept a model that is there, or pull it first, which may take as long as it is large."""
        served = {_tagged(entry.resource_id) for entry in self.list_models()}
        if _tagged(model.resource_id) in served:
            return model
        if not self._config.pull_models:
            return super().register_model(model)
        self._pull(model.resource_id)
        return model

    def _model(self, entry: Json) -> Model:
        name = str(entry.get("model") or entry["name"])
        details = entry.get("details") or {}
        # Older servers do not say what a model can do; the families of embedding models are those of BERT.
        able = entry.get("capabilities") or ()
        embeds = "embedding" in able or "embed" in name or (not able and "bert" in str(details.get("family")))
        shown = {key: details[key] for key in ("family", "parameter_size", "quantization_level") if details.get(key)}
        return Model(identifier=name, resource_id=name, model_type="embedding" if embeds else "llm", metadata=shown)

    def _body(self, request: ChatRequest) -> Json:
        if request.tools and request.tool_choice == "none":
            request = replace(request, tools=(), tool_choice="auto")
        elif request.tools and request.tool_choice not in ("", "auto"):
            raise self._unsupported(f"cannot be made to call a tool: `tool_choice` '{request.tool_choice}' is ignored.")
        return super()._body(request)

    def _completion_body(self, request: CompletionRequest) -> Json:
        if request.response_format:
            raise self._unsupported("takes no response format in a completion: ask for a chat completion.")
        return super()._completion_body(request)

    def _pull(self, name: str) -> None:
        logger.info("provider '%s' pulls '%s'", self.provider_id, name)
        status, shown = "", ""
        for progress in self._progress(name):
            if progress.get("error"):
                raise self._not_pulled(name, f"It said: {self._faults.excerpt(str(progress['error']))}")
            status = str(progress.get("status"))
            if status != shown:
                logger.info("provider '%s' pulls '%s': %s", self.provider_id, name, self._faults.excerpt(status))
                shown = status
        if status != "success":
            raise self._not_pulled(name, "It ended before it was complete; registering again goes on from there.")

    def _progress(self, name: str) -> Iterator[Json]:
        """What a pull says of itself, piece by piece."""
        content = orjson.dumps({"model": name, "stream": True})
        url = f"{self._config.root}/api/pull"
        try:
            with self._response("POST", url, wait_s=PULL_SILENCE_S, content=content) as response:
                body = Body(response, patience_s=PULL_SILENCE_S)
                if response.status != 200:
                    said = sample_of(body)
                    refused = self._faults.refused(response.status, text_headers(response), said)
                    raise self._not_pulled(name, refused.message, status=response.status)
                for line in _lines(body):
                    yield self._line(line)
        except _LineTooLong:
            raise self._faults.bad_response("a line that does not end") from None
        except WIRE_ERRORS as error:
            waited = f"no progress of the pull for {PULL_SILENCE_S:g} s"
            raise self._faults.transport(error, waited=waited) from None

    def _line(self, line: bytes) -> Json:
        progress: Any = self._json(line)
        if not isinstance(progress, dict):
            raise self._faults.bad_response("something else than the progress of a pull", line)
        return progress

    def _not_pulled(self, name: str, why: str, *, status: int | None = None) -> ProviderError:
        return self._faults.error("model_not_found", f"could not pull '{name}'. {why}", status=status)


class _LineTooLong(Exception):
    """A line is longer than any that Ollama sends."""


def _lines(body: Body) -> Iterator[bytes]:
    """The lines that are not empty; the last one may go without its end."""
    rest = b""
    for piece in body:
        *lines, rest = (rest + piece).split(b"\n")
        yield from (line for line in lines if line.strip())
        if len(rest) > MAX_LINE_BYTES:
            raise _LineTooLong
    if rest.strip():
        yield rest


def _tagged(name: str) -> str:
    """A model's full name: without a tag it is the latest (docs/api.md, "Model names")."""
    return name if ":" in name.rpartition("/")[2] else name + _DEFAULT_TAG
