"""Direct inference: one reply of a model, outside of any turn. In the shapes of Llama Stack's inference API."""

from collections.abc import Generator, Iterator
from contextlib import closing

from shared.events import Json
from worker.inference import Reply, message_of, take
from worker.providers.inference import ChatRequest, CompletionRequest, Delta, EmbeddingRequest, InferenceProvider
from worker.router import Router

_NOTHING: Json = {"type": "text", "text": ""}


class DirectInference:
    """Asks models by their names, through the same routing as turns. Every method raises ProviderError."""

    def __init__(self, *, router: Router) -> None:
        self._router = router

    def chat_completion(self, payload: Json) -> Json:
        """`{tenant, model_id, messages, tools, tool_choice, sampling_params, response_format}`."""
        reply = _whole(self._chat(payload))
        return {"completion_message": message_of(reply), "metrics": _metrics(reply)}

    def chat_completion_stream(self, payload: Json) -> Generator[Json]:
        """The same in pieces: `{event: {event_type, delta, stop_reason}}`."""
        reply, begun = Reply(), False
        with closing(self._chat(payload)) as deltas:  # type: ignore[type-var]
            for delta in deltas:
                if not begun:
                    begun = True
                    yield {"event": {"event_type": "start", "delta": _NOTHING}}
                shown = take(reply, delta)
                if shown is not None:
                    yield {"event": {"event_type": "progress", "delta": shown}}
        yield {
            "event": {"event_type": "complete", "delta": _NOTHING, "stop_reason": reply.stop_reason},
            "metrics": _metrics(reply),
        }

    def completion(self, payload: Json) -> Json:
        """`{tenant, model_id, content, sampling_params, response_format}`."""
        reply = _whole(self._complete(payload))
        return {"content": "".join(reply.text), "stop_reason": reply.stop_reason, "metrics": _metrics(reply)}

    def completion_stream(self, payload: Json) -> Generator[Json]:
        """The same in pieces. `delta` is Llama Stack's name for a piece, `content` what its client reads."""
        reply = Reply()
        with closing(self._complete(payload)) as deltas:  # type: ignore[type-var]
            for delta in deltas:
                shown = take(reply, delta)
                if shown is not None and shown["type"] == "text":
                    yield {"delta": shown["text"], "content": shown["text"], "stop_reason": None}
        yield {"delta": "", "content": "", "stop_reason": reply.stop_reason, "metrics": _metrics(reply)}

    def embeddings(self, payload: Json) -> Json:
        """`{tenant, model_id, texts, output_dimension}`."""

        def ask(provider: InferenceProvider, model: str, may_retry: bool) -> list[list[float]]:
            return provider.embed(
                EmbeddingRequest(
                    model=model, texts=payload["texts"], dimensions=payload["output_dimension"], retry=may_retry
                )
            )

        return {"embeddings": self._router.call(payload["model_id"], ask, tenant=payload["tenant"])}

    def _complete(self, payload: Json) -> Iterator[Delta]:
        def ask(provider: InferenceProvider, model: str, may_retry: bool) -> Iterator[Delta]:
            # A generator: an instance that has no completions says so when it is asked, and another one may have.
            yield from provider.complete(
                CompletionRequest(
                    model=model,
                    content=payload["content"],
                    sampling_params=payload["sampling_params"],
                    response_format=payload["response_format"],
                    retry=may_retry,
                )
            )

        return self._router.stream(payload["model_id"], ask, tenant=payload["tenant"])

    def _chat(self, payload: Json) -> Iterator[Delta]:
        request = ChatRequest(
            model=payload["model_id"],
            messages=payload["messages"],
            tools=payload["tools"],
            tool_choice=payload["tool_choice"],
            sampling_params=payload["sampling_params"],
            response_format=payload["response_format"],
        )
        return self._router.chat(request, tenant=payload["tenant"])


def _whole(deltas: Iterator[Delta]) -> Reply:
    reply = Reply()
    with closing(deltas):  # type: ignore[type-var]
        for delta in deltas:
            take(reply, delta)
    return reply


def _metrics(reply: Reply) -> list[Json]:
    return [{"metric": name, "value": value, "unit": "tokens"} for name, value in (reply.usage or {}).items()]
