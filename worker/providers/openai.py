"""`remote::openai`: any server that speaks OpenAI's chat completions."""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import httpcore
import orjson

from shared.errors import ProviderError
from worker.providers.connections import Connections
from worker.providers.inference import (
    ChatRequest,
    CompletionRequest,
    Delta,
    EmbeddingRequest,
    InferenceProvider,
    Json,
    Model,
)
from worker.providers.openai_config import OpenAIConfig
from worker.providers.openai_faults import Faults
from worker.providers.openai_messages import completion_json, embedding_json, request_json, vectors_of
from worker.providers.openai_reply import CompletionReader, ReplyReader
from worker.providers.retry import Backoff, is_worth_a_retry
from worker.providers.sse import EventTooLong, event_data
from worker.providers.wire import Body

MAX_ERROR_BYTES = 16_384
MAX_LISTED = 20
# What follows the model's last token (usage, the end of the body) comes soon or is not needed.
AFTERMATH_S = 2.0
SAMPLE_TIMEOUT_S = 2.0
SEND_TIMEOUT_S = 30.0
LIST_TIMEOUT_S = 10.0
# Below the 60 s after which common servers and balancers close a quiet connection.
KEEPALIVE_S = 45.0

WIRE_ERRORS = (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError)


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of streamed reply: where it is asked for, and what reads it."""

    route: str
    reader: Callable[..., ReplyReader]


CHAT, COMPLETION = _Kind("/chat/completions", ReplyReader), _Kind("/completions", CompletionReader)


class OpenAIInference(InferenceProvider):
    """One OpenAI-compatible server. Safe to use from many greenlets or threads at once.

    Servers with ways of their own are subclasses: they list models and write request bodies otherwise.
    """

    provider_type = "remote::openai"

    def __init__(self, *, provider_id: str, config: OpenAIConfig, sleep: Callable[[float], None] = time.sleep) -> None:
        self.provider_id = provider_id
        self.max_concurrency = config.max_concurrency
        self.place_timeout_s = config.place_timeout_s
        self.max_retries = config.max_retries
        self._config = config
        self._sleep = sleep
        self._backoff = Backoff(max_retries=config.max_retries)
        self._faults = Faults(provider_id=provider_id, url=config.url, secrets=config.secrets())
        self._headers = _headers(config)
        self._connections = Connections(
            max_connections=config.max_connections, keepalive_s=KEEPALIVE_S, ssl_context=config.tls_context()
        )
        self._asks_for_usage = True

    def list_models(self) -> list[Model]:
        data = self._get_json(f"{self._config.url}/models")
        try:
            return [self._model(entry) for entry in data["data"]]
        except (KeyError, TypeError, AttributeError):
            raise self._no_list() from None

    def register_model(self, model: Model) -> Model:
        served = [entry.resource_id for entry in self.list_models()]
        if model.resource_id in served:
            return model
        shown = ", ".join(served[:MAX_LISTED]) or "nothing"
        more = f" and {len(served) - MAX_LISTED} more" if len(served) > MAX_LISTED else ""
        problem = f"does not serve '{model.resource_id}'. It serves: {shown}{more}."
        raise self._faults.error("model_not_found", problem)

    def chat(self, request: ChatRequest) -> Iterator[Delta]:
        return self._stream(CHAT, lambda: self._body(request), retry=request.retry)

    def complete(self, request: CompletionRequest) -> Iterator[Delta]:
        return self._stream(COMPLETION, lambda: self._completion_body(request), retry=request.retry)

    def embed(self, request: EmbeddingRequest) -> list[list[float]]:
        body = embedding_json(request)
        for attempt in count():
            try:
                data = self._post_json("/embeddings", body)
            except ProviderError as error:
                self._before_next_attempt(error, body, attempt, retries=self.max_retries if request.retry else 0)
            else:
                break
        try:
            return vectors_of(data, len(request.texts))
        except ValueError as error:
            raise self._faults.bad_response(str(error)) from None

    def close(self) -> None:
        self._connections.close()

    def _body(self, request: ChatRequest) -> Json:
        """What is sent for a chat completion. Raises ProviderError `unsupported_parameter`."""
        return request_json(request, self._config, self._unsupported)

    def _completion_body(self, request: CompletionRequest) -> Json:
        """As `_body`, for a completion."""
        return completion_json(request, self._config, self._unsupported)

    def _model(self, entry: Json) -> Model:
        """A model as the server lists it."""
        name = str(entry["id"])
        kind = str(entry.get("type") or entry.get("model_type") or "")
        embeds = "embed" in kind.lower() or "embed" in name.lower()
        return Model(identifier=name, resource_id=name, model_type="embedding" if embeds else "llm")

    def _stream(self, kind: _Kind, body: Callable[[], Json], *, retry: bool) -> Generator[Delta]:
        first, rest = self._begin(kind, body(), retries=self.max_retries if retry else 0)
        try:
            yield first
            yield from rest
        finally:
            rest.close()

    def _begin(self, kind: _Kind, body: Json, *, retries: int) -> tuple[Delta, Generator[Delta]]:
        """The first delta and an iterator over the others. All retries happen here."""
        for attempt in count():
            if not self._asks_for_usage:
                body.pop("stream_options", None)
            deltas = self._attempt(kind, orjson.dumps(body), body["model"])
            try:
                return next(deltas), deltas
            except ProviderError as error:
                self._before_next_attempt(error, body, attempt, retries=retries)
        raise AssertionError("unreachable")

    def _before_next_attempt(self, error: ProviderError, body: Json, attempt: int, *, retries: int) -> None:
        """Wait as long as the next attempt has to, or raise `error` where there shall be none."""
        if error.status in (400, 422) and "stream_options" in error.message and "stream_options" in body:
            # A server from before usage could be asked for: it answers without.
            self._asks_for_usage = False
        elif attempt < retries and is_worth_a_retry(error):
            self._sleep(self._backoff.wait_s(attempt, error.retry_after))
        else:
            raise error

    def _attempt(self, kind: _Kind, content: bytes, model: str) -> Generator[Delta]:
        wait = self._config.first_token_timeout_s
        waited = f"no first token within {wait:g} s (`first_token_timeout_s`)"
        try:
            with self._response("POST", self._config.url + kind.route, wait_s=wait, content=content) as response:
                body = self._stream_body(response, model)
                reader = kind.reader(faults=self._faults, on_finish=partial(body.be_patient, AFTERMATH_S))
                deltas = reader.deltas(event_data(body))
                first = next(deltas, None)
                if first is not None:
                    wait = self._config.token_timeout_s
                    waited = f"nothing for {wait:g} s in the middle of its answer (`token_timeout_s`)"
                    body.be_patient(wait)
                    yield first
                    yield from _until_complete(deltas, reader)
                # llama-cpp-python gives up an answer for the next request with [DONE], and then cuts the connection.
                if reader.finish_reason is None and not _drain(body):
                    raise self._faults.interrupted()
                yield from reader.endings()
                _drain(body)
        except EventTooLong:
            raise self._faults.bad_response("an event that does not end") from None
        except WIRE_ERRORS as error:
            raise self._faults.transport(error, waited=waited) from None

    def _stream_body(self, response: httpcore.Response, model: str) -> Body:
        body = Body(response, patience_s=self._config.first_token_timeout_s)
        headers = text_headers(response)
        if response.status != 200:
            raise self._faults.refused(response.status, headers, sample_of(body), model=model)
        kind = headers.get("content-type", "").partition(";")[0].strip()
        # Some servers forget the type of a stream; these two are certainly none.
        if kind in ("text/html", "application/json"):
            sample = sample_of(body)
            error = _error_in(sample)
            if error is not None:
                raise self._faults.in_stream(error)
            raise self._faults.bad_response(f"{kind} instead of an event stream", sample)
        return body

    def _get_json(self, url: str) -> Any:
        waited = f"no list of models within {LIST_TIMEOUT_S:g} s"
        try:
            with self._response("GET", url, wait_s=LIST_TIMEOUT_S) as response:
                body = Body(response, patience_s=LIST_TIMEOUT_S)
                if response.status != 200:
                    raise self._faults.refused(response.status, text_headers(response), sample_of(body))
                return self._json(b"".join(body))
        except WIRE_ERRORS as error:
            raise self._faults.transport(error, waited=waited) from None

    def _post_json(self, route: str, body: Json) -> Any:
        wait = self._config.first_token_timeout_s
        waited = f"no answer within {wait:g} s (`first_token_timeout_s`)"
        url, content = self._config.url + route, orjson.dumps(body)
        try:
            with self._response("POST", url, wait_s=wait, content=content) as response:
                answer = Body(response, patience_s=wait)
                if response.status != 200:
                    headers = text_headers(response)
                    raise self._faults.refused(response.status, headers, sample_of(answer), model=body["model"])
                return self._json(b"".join(answer))
        except WIRE_ERRORS as error:
            raise self._faults.transport(error, waited=waited) from None

    def _json(self, content: bytes) -> Any:
        try:
            return orjson.loads(content)
        except orjson.JSONDecodeError:
            raise self._faults.bad_response("something that is not JSON", content) from None

    def _response(
        self, method: str, url: str, *, wait_s: float, content: bytes | None = None
    ) -> AbstractContextManager[httpcore.Response]:
        connect = self._config.connect_timeout_s
        timeout = {"connect": connect, "write": SEND_TIMEOUT_S, "read": wait_s, "pool": wait_s}
        return self._connections.stream(method, url, headers=self._headers, timeout=timeout, content=content)

    def _no_list(self) -> ProviderError:
        return self._faults.bad_response("something else than a list of models")

    def _unsupported(self, problem: str) -> ProviderError:
        return self._faults.error("unsupported_parameter", problem)


def _until_complete(deltas: Iterator[Delta], reader: ReplyReader) -> Iterator[Delta]:
    """The deltas; a connection that breaks after the model has stopped takes nothing away from its reply."""
    try:
        yield from deltas
    except WIRE_ERRORS:
        if reader.finish_reason is None:
            raise


def _drain(body: Body) -> bool:
    """Read the end of the body, so that the connection can be used again; otherwise it is closed.

    False for a body that was cut.
    """
    body.be_patient(AFTERMATH_S)
    try:
        for _ in body:
            pass
    except WIRE_ERRORS as error:
        return isinstance(error, httpcore.TimeoutException)
    return True


def sample_of(body: Body) -> bytes:
    """The beginning of a body that is read for its error message: what can be had of it, soon."""
    body.be_patient(SAMPLE_TIMEOUT_S)
    sample = b""
    try:
        for piece in body:
            sample += piece
            if len(sample) >= MAX_ERROR_BYTES:
                break
    except WIRE_ERRORS:
        return sample
    return sample


def _error_in(sample: bytes) -> Any:
    try:
        data = orjson.loads(sample)
    except orjson.JSONDecodeError:
        return None
    return data.get("error") if isinstance(data, dict) else None


def text_headers(response: httpcore.Response) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}


def _headers(config: OpenAIConfig) -> list[tuple[str, str]]:
    """What every request carries. A header of the config replaces ours of the same name."""
    # No compression: it would hold tokens back until a block is full.
    headers = {
        "accept": "text/event-stream, application/json",
        "accept-encoding": "identity",
        "content-type": "application/json",
    }
    return list((headers | config.request_headers()).items())
