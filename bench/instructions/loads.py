"""What is counted: one part of the hot path each, done a number of times.

python -m bench.instructions.loads NAME TIMES
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

WORDS = [" word", " another", " longer-one", "."]
STEP = "step_0123456789abcdef01234567"
TURN = "default/sess_07_0123456789abcdef01234567/turn_07_0123456789abcdef01234567"
EPOCH = 1_790_000_000_000_000


def fold(times: int) -> None:
    """The log of a reply of so many tokens becomes its turn's state."""
    from shared.fold import fold

    fold(_entries(times))


def frames(times: int) -> None:
    """So many events become what a tail sends."""
    from api.streams.frames import frame

    for entry in _entries(times):
        frame(entry.id, entry.event_type, entry.payload)


def notices(times: int) -> None:
    """So many messages of a shard's channel are taken apart."""
    from shared.log.notices import parse

    for entry in _entries(times):
        line = f"{entry.id} {entry.event_type} {entry.version} ".encode() + entry.payload
        parse(f"{TURN} {entry.seq - 1}-{entry.epoch}\n".encode() + line)


def provider(times: int) -> None:
    """So many chunks of a provider's reply become deltas."""
    from worker.providers.openai_faults import Faults
    from worker.providers.openai_reply import ReplyReader
    from worker.providers.sse import event_data
    from worker.providers.wire import ChunkedFrames

    faults = Faults(provider_id="p", url="http://127.0.0.1/v1", secrets=[])
    chunks = ChunkedFrames()
    reader = ReplyReader(faults=faults, on_finish=lambda: None)
    pieces = (chunks.feed(chunk) for chunk in _chunks(times))
    for _ in reader.deltas(event_data(pieces)):
        pass


def journal(times: int) -> None:
    """So many tokens are emitted, written one batch each, and their replies taken in; the store is left out."""
    from shared.events import StepProgress, StepStart
    from shared.fold import TurnState
    from shared.ids import TurnRef
    from shared.log.keys import Keys
    from shared.log.turn_log import Claim, TurnLog
    from worker.interrupts import Interrupts
    from worker.journal import Journal

    ref = TurnRef.parse(TURN)
    claim = Claim(
        ref=ref, token="0" * 16, kind="start", epoch=EPOCH, last=2, private_last=1, attempts=1, ordinal=1,
        claimed_at="", first=[], config=[],
    )  # fmt: skip
    writes = Journal(log=TurnLog(client=_Store(), keys=Keys("ts")))  # type: ignore[arg-type]
    writer = writes.open(claim, TurnState(), Interrupts())
    writer.emit(StepStart(step_type="inference", step_id=STEP, started_at="2026-01-01T00:00:00.000000Z", metadata={}))
    writes._flush()
    for number in range(times):
        text = {"type": "text", "text": WORDS[number % len(WORDS)]}
        writer.emit(StepProgress(step_type="inference", step_id=STEP, delta=text))
        writes._flush()


class _Store:
    """Answers `append` as the script does, to what redis-py would have sent."""

    def together(self, commands: Sequence[Any]) -> list[list[Any]]:
        from hiredis import pack_command

        return [self._answer(*command) for command in commands if pack_command(command)]

    def _answer(self, command: str, sha: str, keys: int, *args: Any) -> list[Any]:
        last, private_last, events = int(args[keys + 3]), int(args[keys + 4]), int(args[keys + 7])
        return [b"OK", last + events, private_last, b"0"]


def _entries(count: int) -> Iterator[Any]:
    from shared.events import Entry, StepStart

    start = StepStart(step_type="inference", step_id=STEP, started_at="2026-01-01T00:00:00.000000Z", metadata={})
    yield Entry(3, EPOCH, "step_start", 1, start.encode())
    head = b'{"event_type":"step_progress","step_type":"inference","step_id":"' + STEP.encode()
    for number in range(count):
        text = WORDS[number % len(WORDS)].encode()
        payload = head + b'","delta":{"type":"text","text":"' + text + b'"}}'
        yield Entry(4 + number, EPOCH, "step_progress", 1, payload)


def _chunks(count: int) -> Iterator[bytes]:
    head = b'data: {"id":"c1","object":"chat.completion.chunk","model":"m","choices":[{"index":0,"delta":'
    for number in range(count):
        yield _chunk(head + b'{"content":"' + WORDS[number % len(WORDS)].encode() + b'"},"finish_reason":null}]}\n\n')
    yield _chunk(head + b'{},"finish_reason":"stop"}]}\n\n')
    yield _chunk(b"data: [DONE]\n\n")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


LOADS: dict[str, Callable[[int], None]] = {
    "fold": fold,
    "frames": frames,
    "notices": notices,
    "provider": provider,
    "journal": journal,
}

if __name__ == "__main__":
    LOADS[sys.argv[1]](int(sys.argv[2]))
