"""Provider instances as the rest of the worker gets them: what they do is told to an observer.

Everything but the calls that are told of is the instance's own.
"""

import time
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import Any, cast

from shared.errors import ProviderError
from worker.observer import Observer
from worker.providers.inference import Delta, InferenceProvider
from worker.providers.memory import MemoryProvider
from worker.providers.safety import SafetyProvider
from worker.providers.tools import ToolProvider, ToolResult


def observed_inference(provider: InferenceProvider, observer: Observer) -> InferenceProvider:
    return cast(InferenceProvider, _Inference(provider, observer))


def observed_safety(provider: SafetyProvider, observer: Observer) -> SafetyProvider:
    return cast(SafetyProvider, _Safety(provider, observer))


def observed_tools(provider: ToolProvider, observer: Observer) -> ToolProvider:
    return cast(ToolProvider, _Tools(provider, observer))


def observed_memory(provider: MemoryProvider, observer: Observer) -> MemoryProvider:
    return cast(MemoryProvider, _Memory(provider, observer))


class _Observed:
    """Stands for an instance."""

    api = ""

    def __init__(self, inner: Any, observer: Observer) -> None:
        self._inner = inner
        self._observer = observer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def _told(self, method: Any, *given: Any, **named: Any) -> Any:
        try:
            return method(*given, **named)
        except ProviderError as error:
            self._observer.provider_failed(self.api, error)
            raise


class _Inference(_Observed):
    api = "inference"

    def chat(self, *given: Any, **named: Any) -> Iterator[Delta]:
        return self._relay(self._inner.chat, *given, **named)

    def complete(self, *given: Any, **named: Any) -> Iterator[Delta]:
        return self._relay(self._inner.complete, *given, **named)

    def embed(self, *given: Any, **named: Any) -> Any:
        return self._told(self._inner.embed, *given, **named)

    def list_models(self) -> Any:
        return self._told(self._inner.list_models)

    def _relay(self, ask: Any, *given: Any, **named: Any) -> Generator[Delta]:
        """The reply, with nothing more per delta than a count."""
        begun, first_s, deltas = time.monotonic(), None, 0
        try:
            with closing(ask(*given, **named)) as reply:
                for delta in reply:
                    if not deltas:
                        first_s = time.monotonic() - begun
                    deltas += 1
                    yield delta
        except ProviderError as error:
            self._observer.provider_failed(self.api, error)
            raise
        finally:
            self._observer.replied(self._inner.provider_id, first_s=first_s, deltas=deltas)


class _Safety(_Observed):
    api = "safety"

    def run_shield(self, *given: Any, **named: Any) -> Any:
        return self._told(self._inner.run_shield, *given, **named)


class _Memory(_Observed):
    api = "memory"

    def put(self, *given: Any, **named: Any) -> Any:
        return self._told(self._inner.put, *given, **named)

    def search(self, *given: Any, **named: Any) -> Any:
        return self._told(self._inner.search, *given, **named)


class _Tools(_Observed):
    api = "tool_runtime"

    def invoke(self, *given: Any, **named: Any) -> ToolResult:
        begun, outcome = time.monotonic(), "failed"
        try:
            result: ToolResult = self._told(self._inner.invoke, *given, **named)
            outcome = "error" if result.error else "done"
            return result
        finally:
            seconds = time.monotonic() - begun
            self._observer.tool_called(self._inner.provider_id, outcome=outcome, seconds=seconds)
