"""Embeddings of any number of texts, by the models of the inference providers."""

from collections.abc import Callable, Sequence

import gevent
from gevent.pool import Pool

from shared.errors import ProviderError
from worker.providers.inference import EmbeddingRequest, InferenceProvider
from worker.router import Router

BATCH = 64
"""Texts in one request. Servers have limits of their own, of some hundred texts or some megabytes."""
_PARALLEL = 4
_RETRY_S = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Beyond what the provider's own `max_retries` sits out: a job may wait for a server that is started anew."""

Vectors = list[list[float]]


class Embedder:
    """Embeds texts through `router`. Every method raises ProviderError."""

    def __init__(self, *, router: Router, sleep: Callable[[float], None] = gevent.sleep) -> None:
        self._router = router
        self._sleep = sleep

    def one(self, model: str, text: str, *, tenant: str) -> list[float]:
        """The embedding of a text, asked for once: somebody waits."""
        return self._ask(model, [text], tenant)[0]

    def dimension(self, model: str, *, tenant: str) -> int:
        """How many numbers the model gives for a text: asked of it."""
        return len(self.one(model, "dimension", tenant=tenant))

    def many(self, model: str, texts: Sequence[str], *, tenant: str) -> Vectors:
        """The embeddings of texts, in their order: in batches, some at a time, each tried again where that may help."""
        batches = [texts[at : at + BATCH] for at in range(0, len(texts), BATCH)]
        pool = Pool(_PARALLEL)
        try:
            asked = [pool.spawn(self._patiently, model, batch, tenant) for batch in batches]
            gevent.joinall(asked, raise_error=True)
        finally:
            pool.kill()
        return [vector for batch in asked for vector in batch.get()]

    def _patiently(self, model: str, texts: Sequence[str], tenant: str) -> Vectors:
        for pause in (*_RETRY_S, None):
            try:
                return self._ask(model, texts, tenant)
            except ProviderError as error:
                if pause is None or not error.retryable:
                    raise
                self._sleep(max(pause, error.retry_after or 0))
        raise AssertionError("unreachable")

    def _ask(self, model: str, texts: Sequence[str], tenant: str) -> Vectors:
        def ask(provider: InferenceProvider, name: str, may_retry: bool) -> Vectors:
            return provider.embed(EmbeddingRequest(model=name, texts=texts, retry=may_retry))

        vectors = self._router.call(model, ask, tenant=tenant)
        if len(vectors) != len(texts):
            problem = f"The model '{model}' gave {len(vectors)} embeddings for {len(texts)} texts."
            raise ProviderError(problem, provider_id="", code="bad_response")
        return vectors
