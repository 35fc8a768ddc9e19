"""What a reply shall be, written into the prompt, and the time stamps in its tokens.

Each token carries the time at which the upstream wrote it: `~` and the low 32 bits of the monotonic clock in µs,
which all processes of a machine share. The first one has a second stamp, `@`: when the request came in.
"""

import re
import time
from dataclasses import dataclass

MODEL = "bench"
STAMP_BYTES = 9
_PLAN = re.compile(rb"tokens=(\d+) first_ms=([\d.]+) token_ms=([\d.]+) bytes=(\d+)")
_STAMP = re.compile(rb"~([0-9a-f]{8})")
_ARRIVAL = re.compile(rb"@([0-9a-f]{8})")
_WRAP = 1 << 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A reply: how many tokens of how many bytes, when the first one comes, and how far apart the others."""

    tokens: int
    first_ms: float = 0.0
    token_ms: float = 0.0
    token_bytes: int = STAMP_BYTES

    @property
    def seconds(self) -> float:
        """How long the reply takes."""
        return (self.first_ms + (self.tokens - 1) * self.token_ms) / 1000

    @property
    def text_bytes(self) -> int:
        """How long its text is."""
        return self.tokens * self.token_bytes + STAMP_BYTES

    def prompt(self) -> str:
        """The user message that asks for this reply."""
        return f"tokens={self.tokens} first_ms={self.first_ms} token_ms={self.token_ms} bytes={self.token_bytes}"

    @classmethod
    def last_in(cls, body: bytes) -> "Plan":
        """The plan of the last message in a request's body."""
        match = _PLAN.match(body, max(0, body.rfind(b"tokens=")))
        if match is None:
            raise ValueError("the last message is no plan")
        tokens, first_ms, token_ms, token_bytes = match.groups()
        return cls(tokens=int(tokens), first_ms=float(first_ms), token_ms=float(token_ms), token_bytes=int(token_bytes))


def now_us() -> int:
    return time.monotonic_ns() // 1000


def stamp(sign: bytes, at_us: int) -> bytes:
    return b"%b%08x" % (sign, at_us % _WRAP)


def ages_us(frame: bytes, now: int) -> list[int]:
    """For each token in a piece of text: how long ago it was written."""
    return [(now - int(found, 16)) % _WRAP for found in _STAMP.findall(frame)]


def arrival_age_us(frame: bytes, now: int) -> int | None:
    """How long ago the request came in at the upstream; None where the text does not hold a first token."""
    found = _ARRIVAL.search(frame)
    return None if found is None else (now - int(found[1], 16)) % _WRAP
