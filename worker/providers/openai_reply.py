"""Reads the chunks of a streamed chat completion into deltas."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any
from uuid import uuid4

import orjson

from worker.providers.inference import Delta, Finished, Json, StopReason, TextDelta, ToolCallDelta, ToolCallDone
from worker.providers.openai_faults import Faults

_END = b"[DONE]"
_USAGE_KEYS = ("prompt_tokens", "completion_tokens", "total_tokens")
_NOTHING: Sequence[Delta] = ()


class ReplyReader:
    """The state of one reply while it streams in.

    `finish_reason` is set, and `on_finish` called, once the model has stopped.
    """

    def __init__(self, *, faults: Faults, on_finish: Callable[[], None]) -> None:
        self._faults = faults
        self._on_finish = on_finish
        self._calls = CallAssembler()
        self._usage: Json | None = None
        self.finish_reason: str | None = None

    def deltas(self, payloads: Iterable[bytes]) -> Iterator[Delta]:
        """What the model writes, up to the stream's end; `endings` follows."""
        empty = True
        for payload in payloads:
            if payload == _END:
                return
            empty = False
            yield from self._read(payload)
        if empty:
            raise self._faults.bad_response("a stream without a single event")
        if self.finish_reason is None:
            raise self._faults.interrupted()

    def endings(self) -> Iterator[Delta]:
        """The completed tool calls, and the last delta."""
        calls = self._calls.done()
        if any(not call.tool_name for call in calls):
            raise self._faults.bad_response("a tool call that names no tool")
        yield from calls
        yield Finished(stop_reason=stop_reason(self.finish_reason, has_calls=bool(calls)), usage=self._usage)

    def _read(self, payload: bytes) -> Sequence[Delta]:
        try:
            chunk = orjson.loads(payload)
            choices = chunk.get("choices")
            return self._choice(chunk, choices[0]) if choices else self._other(chunk)
        except (orjson.JSONDecodeError, AttributeError, TypeError, KeyError, IndexError):
            raise self._faults.bad_response("an event that is no chat completion chunk", payload) from None

    def _choice(self, chunk: Json, choice: Json) -> Sequence[Delta]:
        # The hot path: nearly every chunk has a piece of text and nothing else.
        delta = choice.get("delta")
        reason = choice.get("finish_reason")
        if delta and reason is None and "tool_calls" not in delta:
            text = delta.get("content")
            if text.__class__ is str:
                return (TextDelta(text),) if text else _NOTHING
        if reason:
            self.finish_reason = str(reason)
            self._on_finish()
        self._note_usage(chunk)
        return self._delta(delta) if delta else _NOTHING

    def _delta(self, delta: Json) -> Sequence[Delta]:
        deltas: list[Delta] = []
        # A refusal (OpenAI's answer to a schema that it will not fill) is text to whoever reads along.
        text = _plain_text(delta.get("content")) or _plain_text(delta.get("refusal"))
        if text:
            deltas.append(TextDelta(text))
        pieces = delta.get("tool_calls") or ()
        if delta.get("function_call"):
            pieces = [{"index": 0, "function": delta["function_call"]}]
        for piece in pieces:
            deltas.extend(self._calls.add(piece))
        return deltas

    def _other(self, chunk: Json) -> Sequence[Delta]:
        if chunk.get("error"):
            raise self._faults.in_stream(chunk["error"])
        self._note_usage(chunk)
        return _NOTHING

    def _note_usage(self, chunk: Json) -> None:
        usage = chunk.get("usage")
        if usage:
            self._usage = {key: int(usage.get(key) or 0) for key in _USAGE_KEYS}


class CompletionReader(ReplyReader):
    """The same for a streamed completion, whose choices hold their text themselves."""

    def _choice(self, chunk: Json, choice: Json) -> Sequence[Delta]:
        delta = {"content": choice.get("text")}
        return super()._choice(chunk, {"delta": delta, "finish_reason": choice.get("finish_reason")})


class _Call:
    __slots__ = ("call_id", "name", "started", "text", "waiting")

    def __init__(self, call_id: str) -> None:
        self.call_id = call_id
        self.name = ""
        self.text: list[str] = []
        self.waiting = ""
        self.started = False


class CallAssembler:
    """Puts tool calls together from their pieces.

    Pieces belong together by `index`. Servers that leave the index out, or give every call the index 0, tell
    a new call by a new id. An id that is missing or stands twice is replaced by one of our own.
    """

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._by_index: dict[Any, _Call] = {}
        self._given: dict[int, str] = {}

    def add(self, piece: Json) -> list[ToolCallDelta]:
        """The deltas for one piece: `started` once the tool is named, then the arguments."""
        function = piece.get("function") or {}
        call = self._call(piece, function)
        # The first name counts: some servers repeat it in every piece.
        call.name = call.name or function.get("name") or ""
        text = _json_text(function.get("arguments"))
        call.text.append(text)
        call.waiting += text
        return self._announce(call) if call.name else []

    def done(self) -> list[ToolCallDone]:
        """Every call, complete, in the order in which they began."""
        return [_finished(call) for call in self._calls]

    def _announce(self, call: _Call) -> list[ToolCallDelta]:
        deltas = []
        if not call.started:
            call.started = True
            deltas.append(ToolCallDelta(call_id=call.call_id, tool_name=call.name, parse_status="started"))
        if call.waiting:
            deltas.append(ToolCallDelta(call_id=call.call_id, tool_name=call.name, arguments=call.waiting))
            call.waiting = ""
        return deltas

    def _call(self, piece: Json, function: Json) -> _Call:
        index = piece.get("index")
        given = piece.get("id") or ""
        call = self._by_index.get(index) if index is not None or given else self._last(function)
        if call is not None and not self._is_other(call, given, function):
            return call
        return self._new(index, given)

    def _last(self, function: Json) -> _Call | None:
        """A piece with neither index nor id goes on with the last call, unless that was complete."""
        last = self._calls[-1] if self._calls else None
        if last is not None and function.get("name") and _parsed("".join(last.text)) is not None:
            return None
        return last

    def _is_other(self, call: _Call, given: str, function: Json) -> bool:
        known = self._given[id(call)]
        return bool(given and known and given != known and function.get("name"))

    def _new(self, index: Any, given: str) -> _Call:
        taken = {call.call_id for call in self._calls}
        call = _Call(given if given and given not in taken else f"call_{uuid4().hex[:24]}")
        self._calls.append(call)
        self._by_index[index] = call
        self._given[id(call)] = given
        return call


def stop_reason(finish_reason: str | None, *, has_calls: bool) -> StopReason:
    """OpenAI's `finish_reason` in the words of Llama Stack.

    Whether calls were made counts more than what is said about it: some servers say `stop` after calls.
    """
    if finish_reason == "length":
        return StopReason.OUT_OF_TOKENS
    if has_calls and finish_reason != "content_filter":
        return StopReason.END_OF_MESSAGE
    return StopReason.END_OF_TURN


def _finished(call: _Call) -> ToolCallDone:
    text = "".join(call.text).strip() or "{}"
    arguments = _parsed(text)
    return ToolCallDone(
        call_id=call.call_id,
        tool_name=call.name,
        arguments_json=text,
        arguments=arguments or {},
        parse_status="failed" if arguments is None else "succeeded",
    )


def _parsed(text: str) -> Json | None:
    try:
        arguments = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return arguments if isinstance(arguments, dict) else None


def _json_text(arguments: Any) -> str:
    """The piece of JSON text; a server that sends the parsed object instead gets it written out."""
    if arguments is None:
        return ""
    return arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()


def _plain_text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(str(part["text"]) for part in content if part.get("type") == "text")
    return content or ""
