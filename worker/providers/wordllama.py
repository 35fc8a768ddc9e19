"""`inline::wordllama`: embeddings without a server and without the internet, by a small model in a package's wheel.

A text's vector is the mean of those of its tokens, which were trained for this (WordLlama): fast enough that a laptop
embeds some hundred chunks a second, and better at meaning than letters are. A model that reads whole sentences, behind
an inference server, is better still.
"""

import json
import logging
from array import array
from collections.abc import Iterator, Sequence
from importlib.util import find_spec

from gevent.lock import BoundedSemaphore

from shared.errors import ConfigError, ProviderError
from shared.runconfig.model import Seconds
from worker.piped_child import ChildGone, ChildTooSlow, PipedChild
from worker.providers.inference import ChatRequest, Delta, EmbeddingRequest, InferenceProvider, Model
from worker.providers.openai_config import Load
from worker.providers.wordllama_process import ONE_THREAD

logger = logging.getLogger(__name__)

MODEL = "wordllama"
DIMENSIONS = 256
SHORTER = (64, 128)
"""The other sizes that the model was trained for: beginnings of its vectors."""
MOST_TEXTS = 2048
MOST_BYTES = 131_072
"""Of one text, in UTF-8. A token takes a kilobyte while it is embedded, and has at least one byte of text."""
_BATCH = 64
_TRIES = 2


class WordllamaConfig(Load):
    """How long the process that embeds may take for a batch of 64 texts, seconds."""

    timeout_s: Seconds = 60


class WordllamaInference(InferenceProvider):
    """Serves one model. A child process of the worker embeds, one batch after the other; it is started by the first."""

    provider_type = "inline::wordllama"

    def __init__(self, *, provider_id: str, config: WordllamaConfig) -> None:
        if find_spec("wordllama") is None:
            raise ConfigError(
                f"Provider '{provider_id}' needs wordllama. Install it with pip install 'turnstone[embeddings]'."
            )
        self.provider_id = provider_id
        self.max_concurrency = config.max_concurrency
        self.place_timeout_s = config.place_timeout_s
        self._timeout_s = config.timeout_s
        self._place = BoundedSemaphore(1)
        self._child: PipedChild | None = None
        self._is_closed = False

    @property
    def pid(self) -> int | None:
        """The child's process id, for logs and tests; None while there is none."""
        return self._child.pid if self._child is not None else None

    def list_models(self) -> list[Model]:
        metadata = {"embedding_dimension": DIMENSIONS}
        return [Model(identifier=MODEL, resource_id=MODEL, model_type="embedding", metadata=metadata)]

    def register_model(self, model: Model) -> Model:
        if model.resource_id != MODEL:
            raise self._no_model(model.resource_id)
        if model.model_type != "embedding":
            raise self._error("unsupported_parameter", f"serves '{MODEL}' as an embedding model only.")
        return model

    def chat(self, request: ChatRequest) -> Iterator[Delta]:
        raise self._lacks("chat")
        yield  # as a reply that never comes: the port says an iterator

    def embed(self, request: EmbeddingRequest) -> list[list[float]]:
        if request.model != MODEL:
            raise self._no_model(request.model)
        dimensions = request.dimensions or DIMENSIONS
        texts = self._checked(request.texts, dimensions)
        return [vector for batch in _batches(texts) for vector in self._embedded(batch, dimensions)]

    def close(self) -> None:
        """Whoever still waits gets `provider_unavailable`."""
        self._is_closed = True
        if not self._place.locked():
            self._drop()
        elif self._child is not None:
            self._child.kill()  # whoever asks it sees to the rest

    def _checked(self, texts: Sequence[str], dimensions: int) -> list[bytes]:
        """The texts as JSON strings. Raises `provider_bad_request` and `unsupported_parameter`."""
        if dimensions not in (DIMENSIONS, *SHORTER):
            sizes = ", ".join(str(size) for size in sorted((DIMENSIONS, *SHORTER)))
            raise self._error("unsupported_parameter", f"has embeddings of {sizes} dimensions, not {dimensions}.")
        if len(texts) > MOST_TEXTS:
            problem = f"embeds at most {MOST_TEXTS} texts in a request, not {len(texts)}. Send them in several."
            raise self._error("provider_bad_request", problem, status=400)
        # Half of a surrogate pair is no character; a question mark stands for it.
        encoded = [text.encode("utf-8", "replace") for text in texts]
        for number, text in enumerate(encoded):
            if len(text) > MOST_BYTES:
                has = f"text {number} has {len(text)}"
                problem = f"embeds texts of at most {MOST_BYTES} bytes, and {has}. Cut it into pieces."
                raise self._error("provider_bad_request", problem, status=400)
        return encoded

    def _embedded(self, batch: Sequence[bytes], dimensions: int) -> list[list[float]]:
        body = json.dumps([text.decode() for text in batch]).encode()
        with self._place:
            found = self._asked(body, dimensions)
        numbers = array("f")
        numbers.frombytes(found)
        vectors = numbers.tolist()
        if len(vectors) != len(batch) * dimensions:
            raise self._error("provider_bad_response", "gave another number of vectors than there were texts.")
        return [vectors[at : at + dimensions] for at in range(0, len(vectors), dimensions)]

    def _asked(self, body: bytes, dimensions: int) -> bytes:
        # Embedding changes nothing: what a child left undone another one does.
        for _ in range(_TRIES):
            child = self._running()
            try:
                answer, found = child.ask({"dimensions": dimensions}, body, timeout_s=self._timeout_s)
            except ChildGone:
                logger.warning("the embedding process %s ended with %s", child.pid, self._drop())
            except ChildTooSlow:
                self._drop()
                problem = f"took longer than {self._timeout_s:g} s for a batch. Raise `timeout_s`, or lower the load."
                raise self._error("provider_timeout", problem, retryable=True) from None
            except BaseException:
                self._drop()
                raise
            else:
                if "fault" in answer:
                    problem = f"cannot embed a text: {answer['fault']} in its library."
                    raise self._error("provider_error", problem)
                return found
        raise self._unavailable()

    def _running(self) -> PipedChild:
        if self._is_closed:
            raise self._unavailable()
        if self._child is None or self._child.has_ended:
            self._drop()
            try:
                self._child = PipedChild("worker.providers.wordllama_process", {}, environment=ONE_THREAD)
            except OSError as error:
                logger.warning("an embedding process cannot be started: %s", error)
                raise self._unavailable() from None
        return self._child

    def _drop(self) -> int | None:
        child, self._child = self._child, None
        return child.end(now=True) if child is not None else None

    def _unavailable(self) -> ProviderError:
        problem = "cannot embed now: the process for it ends before it is done, or the worker stops. Try again later."
        return self._error("provider_unavailable", problem, retryable=True)

    def _no_model(self, name: str) -> ProviderError:
        return self._error("model_not_found", f"does not serve '{name}'. It serves: {MODEL}.")

    def _error(self, code: str, problem: str, **facts: object) -> ProviderError:
        """`problem` continues the sentence that begins with the provider's name."""
        message = f"Provider '{self.provider_id}' {problem}"
        return ProviderError(message, provider_id=self.provider_id, code=code, **facts)  # type: ignore[arg-type]


def _batches(texts: Sequence[bytes]) -> Iterator[list[bytes]]:
    """In order; all of a batch are padded to its longest, and that has its bound (`MOST_BYTES`)."""
    batch: list[bytes] = []
    longest = 0
    for text in texts:
        longest = max(longest, len(text))
        if len(batch) == _BATCH or (batch and longest * (len(batch) + 1) > MOST_BYTES):
            yield batch
            batch, longest = [], len(text)
        batch.append(text)
    if batch:
        yield batch
