"""Following a turn over connections that drop: each event once, in order, to the end."""

import itertools
from collections.abc import Iterator

import httpx
import orjson
import pytest

from shared.cli.client import ApiClient
from shared.cli.follow import PATIENCE_S, Back, Frame, Lost, follow, frames
from shared.errors import ApiRefused, ApiUnreachable
from shared.settings import ClientSettings

PATH = "/agents/a/session/s/turn/t"
DOWN = httpx.ConnectError("connection refused")


def event(seq: int, event_type: str) -> bytes:
    data = orjson.dumps({"event": {"payload": {"event_type": event_type, "seq": seq}}})
    return f"id: {seq}-7\nevent: {event_type}\ndata: ".encode() + data + b"\n\n"


STORY = [event(1, "turn_created"), event(2, "turn_start"), event(3, "step_start"), event(4, "turn_complete")]


class Cut(httpx.SyncByteStream):
    """Some bytes of a stream, after which the connection breaks."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        yield from self._pieces
        raise httpx.ReadError("connection reset by peer")


def stream(pieces: list[bytes], *, breaks: bool = False) -> httpx.Response:
    content = Cut(pieces) if breaks else httpx.ByteStream(b"".join(pieces))
    return httpx.Response(200, headers={"Content-Type": "text/event-stream"}, stream=content)


def following(
    answers: list[httpx.Response | Exception], *, after: str | None = None, known: bool = True, day_s: float = 0.0
) -> tuple[Iterator[Frame | Lost | Back], list[str | None]]:
    """What is followed over these answers, and the cursors sent. Each look at the clock comes `day_s` later."""
    cursors: list[str | None] = []
    clock = itertools.count(0.0, day_s or 1e-9)

    def respond(request: httpx.Request) -> httpx.Response:
        cursors.append(request.headers.get("Last-Event-ID"))
        answer = answers[min(len(cursors), len(answers)) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer

    api = ApiClient(
        settings=ClientSettings(url="http://api"), http=httpx.Client(transport=httpx.MockTransport(respond))
    )
    return follow(api, PATH, after=after, known=known, sleep=lambda _: None, clock=lambda: next(clock)), cursors


def test_a_story_without_a_break_is_told_as_it_is() -> None:
    told, cursors = following([stream(STORY)])

    assert [item.type for item in told if isinstance(item, Frame)] == [
        "turn_created",
        "turn_start",
        "step_start",
        "turn_complete",
    ]
    assert cursors == [None]


@pytest.mark.parametrize("breaks", [True, False])
def test_after_a_break_it_goes_on_behind_the_last_event(breaks: bool) -> None:
    told, cursors = following([stream(STORY[:2], breaks=breaks), DOWN, stream(STORY[2:])])

    items = list(told)

    assert [item.id for item in items if isinstance(item, Frame)] == ["1-7", "2-7", "3-7", "4-7"]
    told_apart = ["event" if isinstance(item, Frame) else type(item).__name__ for item in items]
    assert told_apart == ["event", "event", "Lost", "Lost", "Back", "event", "event"]
    assert cursors == [None, "2-7", "2-7"]


def test_an_event_that_was_cut_is_read_again_as_a_whole() -> None:
    told, cursors = following([stream([STORY[0], STORY[1][:-9]], breaks=True), stream(STORY[1:])])

    assert [item.id for item in told if isinstance(item, Frame)] == ["1-7", "2-7", "3-7", "4-7"]
    assert cursors == [None, "1-7"]


def test_it_begins_behind_the_event_that_its_reader_has() -> None:
    told, cursors = following([stream(STORY[3:])], after="3-7")

    assert [item.id for item in told if isinstance(item, Frame)] == ["4-7"]
    assert cursors == ["3-7"]


def test_a_reader_who_has_everything_gets_nothing() -> None:
    told, _ = following([httpx.Response(204)], after="4-7")

    assert list(told) == []


def test_an_api_that_was_never_reached_is_an_error_at_once() -> None:
    told, cursors = following([DOWN], known=False)

    with pytest.raises(ApiUnreachable):
        next(told)
    assert len(cursors) == 1


def test_an_api_that_stays_away_is_given_up() -> None:
    told, _ = following([stream(STORY[:1], breaks=True), DOWN], day_s=PATIENCE_S / 3)

    with pytest.raises(ApiUnreachable):
        list(told)


def test_a_long_silence_before_a_break_uses_up_no_patience() -> None:
    told, _ = following([stream(STORY[:1], breaks=True), stream(STORY[1:])], day_s=PATIENCE_S * 10)

    assert [item.id for item in told if isinstance(item, Frame)] == ["1-7", "2-7", "3-7", "4-7"]


def test_a_refusal_is_final() -> None:
    told, cursors = following([httpx.Response(404, json={"detail": "There is no turn 't'."})])

    with pytest.raises(ApiRefused, match="There is no turn 't'"):
        next(told)
    assert len(cursors) == 1


def test_comments_and_cuts_anywhere_change_no_event() -> None:
    whole = b": ping\n" + STORY[0] + b": ping\n" + STORY[1].replace(b"\n", b"\r\n") + b": the server restarts\n"

    for size in (1, 2, 3, 7, len(whole)):
        pieces = [whole[start : start + size] for start in range(0, len(whole), size)]
        assert [frame.id for frame in frames(pieces)] == ["1-7", "2-7"]
