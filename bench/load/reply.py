"""One reply as its reader sees it."""

from dataclasses import dataclass, field

from bench.load.plan import ages_us, now_us


@dataclass(slots=True)
class Reply:
    """Times in µs, from the moment before the request was sent."""

    started: int = field(default_factory=now_us)
    first_token: int = -1
    end: int = -1
    tokens: int = 0
    events: int = 0
    ages: list[int] = field(default_factory=list)
    """How long each token was under way."""
    complete: bool = False


class Reader:
    """Takes a stream of server-sent events apart and fills a `Reply`."""

    def __init__(self, reply: Reply, *, token_sign: bytes, end_sign: bytes) -> None:
        self._reply = reply
        self._token_sign = token_sign
        self._end_sign = end_sign
        self._rest = b""

    def feed(self, data: bytes, at: int) -> None:
        *frames, self._rest = (self._rest + data).split(b"\n\n") if self._rest else data.split(b"\n\n")
        for frame in frames:
            if self._token_sign in frame:
                self._tokens(frame, at)
            elif self._end_sign in frame:
                self._reply.complete = True
                self._reply.end = at - self._reply.started

    def _tokens(self, frame: bytes, at: int) -> None:
        ages = ages_us(frame, at)
        if not ages:
            return
        reply = self._reply
        if not reply.tokens:
            reply.first_token = at - reply.started
        reply.tokens += len(ages)
        reply.events += 1
        reply.ages += ages
